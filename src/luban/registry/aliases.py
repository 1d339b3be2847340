"""Aliases move under gates, and back. A move that was made is not made again, however often it is asked for.

A rollback goes back along the moves: what was promoted last is taken off, and the version below it answers again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from luban.errors import BadRequest, Conflict, NotFound
from luban.files import canonical_json
from luban.registry import audit
from luban.registry.judge import Verdict, verdict
from luban.registry.store import Registry
from luban.registry.version import CHAMPION, NAME, Move, Version, wanted_alias
from luban.store.tables import ALIASES, MOVES

_ROUNDS = 5
"""How often a judgement is made anew because another has moved the alias meanwhile."""


def promote(
    registry: Registry,
    reference: str,
    *,
    to: str = CHAMPION,
    who: str,
    why: str = "",
    force: bool = False,
    lose_at_most: float | None = None,
    once: str = "",
) -> Move:
    """Let an alias name a version. Where it does so already, nothing is changed.

    What becomes champion must have a complete card, reach its project's gates, and not be surely worse than the
    champion by a paired test, where both were judged on the same test rows. Other aliases are free.

    Args:
        registry: holds both.
        reference: the version.
        to: the alias.
        who: who does it.
        why: the reason, for the audit.
        force: promote it in spite of reasons against it; `why` must be given then, and all are recorded.
        lose_at_most: how much of the main score may be lost; see `judge.verdict`.
        once: an idempotency key: what was done under it is returned, and not done again.

    Raises:
        BelowGate: a score is below its gate.
        GateError: it is worse than the champion.
        RegistryError: its card is not complete.
        NotFound: there is no such version.
        Conflict: `once` was used for something else.
    """
    wanted_alias(to)
    if force and not why.strip():
        raise BadRequest("to overrule a refusal, say why", hint='--force --why "..."')
    version = _named(registry, reference, to)
    for _ in range(_ROUNDS):
        with registry.database.reading() as connection:
            current = _current(connection, version.name, to)
        judged = (
            _judged(registry, version, current, lose_at_most) if to == CHAMPION and current != version.number else None
        )
        with registry.database.writing() as connection:
            audit.lock(connection)
            if (done := _done(connection, once, version.name, to, "promote")) is not None:
                return done
            now = _current(connection, version.name, to)
            if now == version.number:
                return _latest(connection, version.name, to)
            if to == CHAMPION and now != current:
                continue  # it was judged against another champion
            refused = [] if judged is None else judged.reasons()
            if judged is not None and not force:
                judged.refuse(to)
            evidence = ({} if judged is None else judged.evidence()) | ({"refused": refused} if refused else {})
            return _move(
                connection, kind="promote", name=version.name, alias=to, before=now, after=version.number, who=who,
                why=why, evidence=evidence, once=once,
            )  # fmt: skip
    raise Conflict(f"{version.name}@{to} was moved by others {_ROUNDS} times meanwhile", hint="look, and try again")


def rollback(
    registry: Registry, name: str, *, alias: str = CHAMPION, who: str, why: str = "", expected: int | None = None,
    once: str = "",
) -> Move:  # fmt: skip
    """Let an alias name the version that it named before. Nothing is judged: what answered before may answer again.

    Args:
        registry: holds both.
        name: the model.
        alias: the alias.
        who: who does it.
        why: the reason, for the audit.
        expected: number of the version that is to be taken back. Where it was taken back already, nothing is changed.
        once: an idempotency key, as for `promote`.

    Raises:
        NotFound: there is no such alias, or nothing that it named before.
        Conflict: the alias names another version than is expected.
    """
    registry.versions(name)
    with registry.database.writing() as connection:
        audit.lock(connection)
        if (done := _done(connection, once, name, alias, "rollback")) is not None:
            return done
        rows = _rows(connection, name, alias)
        if not rows:
            raise NotFound(f"{name} has no alias {alias!r}", hint=f"luban promote {name}@NUMBER --to {alias}")
        current, last = rows[-1].after, rows[-1]
        if expected is not None and expected != current:
            if last.kind == "rollback" and last.before == expected:
                return _as_move(last, changed=False)
            raise Conflict(
                f"{name}@{alias} is version {current}, not {expected}: nothing was taken back",
                hint=f"look with `luban versions {name}`, then name the one that you mean",
            )
        below = _stack(rows)[:-1]
        if not below:
            raise NotFound(
                f"{name}@{alias} named no version before {current}", hint=f"luban promote {name}@NUMBER --to {alias}"
            )
        return _move(
            connection, kind="rollback", name=name, alias=alias, before=current, after=below[-1], who=who, why=why,
            evidence={}, once=once,
        )  # fmt: skip


def moves(registry: Registry, name: str, alias: str = CHAMPION) -> list[Move]:
    """Return every move of an alias, the oldest first."""
    with registry.database.reading() as connection:
        return [_as_move(row) for row in _rows(connection, name, alias)]


def _named(registry: Registry, reference: str, to: str) -> Version:
    """Return the version that is to be promoted.

    Raises:
        BadRequest: a bare name is given. Elsewhere that is the champion, which can't be meant to become champion.
    """
    if to == CHAMPION and NAME.fullmatch(reference):
        newest = registry.versions(reference)[-1]
        raise BadRequest(f"{reference!r} does not say which version", hint=f"the newest: luban promote {newest}")
    return registry.version(reference)


def _judged(registry: Registry, version: Version, current: int | None, lose_at_most: float | None) -> Verdict:
    champion = None if current is None else registry.evidence(registry.version(f"{version.name}@{current}"))
    return verdict(registry.evidence(version), champion, lose_at_most)


def _stack(rows: Sequence[Row[Any]]) -> list[int]:
    """Return the versions that an alias names and would name after one rollback and another, the present one last."""
    stack: list[int] = []
    for row in rows:
        if row.kind == "rollback":
            stack.pop()
        else:
            stack.append(row.after)
    return stack


def _current(connection: Connection, name: str, alias: str) -> int | None:
    here = (ALIASES.c.name == name) & (ALIASES.c.alias == alias)
    return connection.execute(select(ALIASES.c.number).where(here)).scalar_one_or_none()


def _rows(connection: Connection, name: str, alias: str) -> Sequence[Row[Any]]:
    here = (MOVES.c.name == name) & (MOVES.c.alias == alias)
    return connection.execute(select(MOVES).where(here).order_by(MOVES.c.id)).all()


def _latest(connection: Connection, name: str, alias: str) -> Move:
    return _as_move(_rows(connection, name, alias)[-1], changed=False)


def _done(connection: Connection, once: str, name: str, alias: str, kind: str) -> Move | None:
    """Return what was done under an idempotency key.

    Raises:
        Conflict: it was something else.
    """
    row = connection.execute(select(MOVES).where(MOVES.c.once == once)).one_or_none() if once else None
    if row is None:
        return None
    if (row.name, row.alias, row.kind) != (name, alias, kind):
        raise Conflict(
            f"the key {once!r} was used to {row.kind} {row.name}@{row.alias}", hint="use a new key for each change"
        )
    return _as_move(row, changed=False)


def _move(
    connection: Connection, *, kind: str, name: str, alias: str, before: int | None, after: int, who: str, why: str,
    evidence: dict[str, Any], once: str,
) -> Move:  # fmt: skip
    here = (ALIASES.c.name == name) & (ALIASES.c.alias == alias)
    if before is None:
        connection.execute(insert(ALIASES).values(name=name, alias=alias, number=after))
    else:
        connection.execute(update(ALIASES).where(here).values(number=after))
    number = (connection.execute(select(func.max(MOVES.c.id))).scalar_one() or 0) + 1
    row = {
        "id": number, "name": name, "alias": alias, "kind": kind, "before": before, "after": after,
        "at": audit.now(), "who": who, "why": why, "evidence": canonical_json(evidence).decode(), "once": once or None,
    }  # fmt: skip
    connection.execute(insert(MOVES).values(**row))
    told = {"before": before, "after": after, "why": why, "evidence": evidence}
    audit.append(connection, who=who, action=kind, subject=f"{name}@{alias}", facts=told)
    return _as_move(connection.execute(select(MOVES).where(MOVES.c.id == number)).one())


def _as_move(row: Row[Any], *, changed: bool = True) -> Move:
    values = {key: value for key, value in row._mapping.items() if key != "once"}
    return Move(**{**values, "evidence": json.loads(row.evidence)}, changed=changed)
