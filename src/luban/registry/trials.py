"""Trials begin, are counted by every serving process, and end once, in the registry's database.

A trial ends in one state, in the transaction that writes its entry of the audit: whoever comes second finds it ended.
A process that is started again finds the trial where it was: what it had counted before is still there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from luban.errors import BadRequest, Conflict, CorruptBundle, GateError, NotFound, RegistryError
from luban.files import canonical_json
from luban.metrics.interval import wilson_ends
from luban.registry import aliases, audit, feedback
from luban.registry.store import Registry
from luban.registry.trial import RUNNING, Counts, Kind, Rollout, Ruling, State, Terms, rule, same
from luban.registry.version import CHAMPION, Reference, Version, wanted_alias
from luban.store.tables import ALIASES, ROLLOUT_COUNTS, ROLLOUTS

_SLACK = 2.0
"""How many times as often as on the test rows two versions may disagree on what really comes."""
_LEAST_DISAGREEMENT, _MOST_DISAGREEMENT = 0.02, 0.9
_UNKNOWN = 0.5


def begin(
    registry: Registry,
    reference: str,
    terms: Terms,
    *,
    kind: Kind = "canary",
    alias: str = CHAMPION,
    disagrees_at_most: float | None = None,
    who: str,
    why: str = "",
) -> Rollout:
    """Put a version on trial beside the one that an alias names.

    Args:
        registry: holds both.
        reference: the version.
        terms: how it is held; how much it may disagree is found here.
        kind: as a canary it answers requests, as a shadow it answers copies of them.
        alias: whose requests they are.
        disagrees_at_most: share of texts that it may answer otherwise than the champion; without it, twice the upper
            end of what it did on the test rows, where both were judged on the same ones.
        who: who does it.
        why: the reason, for the audit.

    Raises:
        NotFound: there is no such version, or nothing that the alias names.
        BadRequest: it is the champion itself, or the terms can't be kept.
        Conflict: another version is on trial, or the two are of different tasks.
    """
    _want(terms, kind)
    version = registry.version(reference)
    champion = registry.version(Reference(version.name, alias=wanted_alias(alias)))
    if version.number == champion.number:
        raise BadRequest(f"{version} is {version.name}@{alias} itself", hint="name the version that is to be tried")
    if version.task != champion.task:
        raise Conflict(f"{version} is of the task {version.task}, and {champion} of {champion.task}")
    if disagrees_at_most is not None:
        terms = replace(terms, disagrees_at_most=disagrees_at_most, basis="")
    else:
        most, basis = expected_disagreement(registry, version, champion)
        terms = replace(terms, disagrees_at_most=most, basis=basis)
    with registry.database.writing() as connection:
        audit.lock(connection)
        if (other := _running(connection, version.name, alias)) is not None:
            raise Conflict(
                f"{other} is on trial beside {version.name}@{alias} since {other.at[:16]}",
                hint=f"wait for its end, or: luban canary {version.name} --stop",
            )
        now = _named(connection, version.name, alias)
        if now != champion.number:
            raise Conflict(f"{version.name}@{alias} was moved to {now} meanwhile", hint="run it again")
        number = (connection.execute(select(func.max(ROLLOUTS.c.id))).scalar_one() or 0) + 1
        told = asdict(terms)
        row = {
            "id": number, "name": version.name, "alias": alias, "kind": kind, "champion": champion.number,
            "challenger": version.number, "terms": canonical_json(told).decode(), "at": audit.now(), "who": who,
            "why": why, "state": RUNNING, "ended": None, "reason": "", "evidence": "{}",
        }  # fmt: skip
        connection.execute(insert(ROLLOUTS).values(**row))
        facts = {"rollout": number, "state": RUNNING, "beside": f"{version.name}@{alias}",
                 "champion": champion.number, "why": why, "terms": told}  # fmt: skip
        audit.append(connection, who=who, action=f"{kind}-begin", subject=str(version), facts=facts)
        return _rollout(connection, number)


def rollouts(registry: Registry, name: str = "", *, running: bool = False) -> list[Rollout]:
    """Return the trials of a model or of all, the oldest first; with `running`, those that have not ended."""
    query = select(ROLLOUTS).order_by(ROLLOUTS.c.id)
    if name:
        query = query.where(ROLLOUTS.c.name == name)
    if running:
        query = query.where(ROLLOUTS.c.state == RUNNING)
    with registry.database.reading() as connection:
        return [_as_rollout(row) for row in connection.execute(query)]


def note(registry: Registry, rollout: Rollout, server: str, counts: Counts) -> None:
    """Write down what one serving process has counted since it began."""
    here = (ROLLOUT_COUNTS.c.rollout == rollout.id) & (ROLLOUT_COUNTS.c.server == server)
    with registry.database.writing() as connection:
        connection.execute(delete(ROLLOUT_COUNTS).where(here))
        told = canonical_json(asdict(counts)).decode()
        connection.execute(insert(ROLLOUT_COUNTS).values(rollout=rollout.id, server=server, counts=told))


def counted(registry: Registry, rollout: Rollout) -> Counts:
    """Return what all processes have counted of a trial, and what feedback says of its answers."""
    with registry.database.reading() as connection:
        return _counted(connection, rollout)


def judge(registry: Registry, rollout: Rollout, *, now: str, who: str) -> Rollout:
    """End a trial if it is time: the challenger is worse, the time is over, or the champion is another one.

    Args:
        registry: has it.
        rollout: the trial.
        now: the time, UTC, ISO 8601, as `audit.now` gives it.
        who: who does it, for the audit.
    """
    with registry.database.reading() as connection:
        named = _named(connection, rollout.name, rollout.alias)
        ruling = rule(rollout, counts := _counted(connection, rollout))
    if named == rollout.challenger:
        return end(registry, rollout, "promoted", f"it became {rollout.name}@{rollout.alias}", ruling, who=who)
    if named != rollout.champion:
        moved = f"{rollout.name}@{rollout.alias} was moved to {named}"
        return end(registry, rollout, "stopped", moved, ruling, who=who)
    if ruling.reasons:
        return end(registry, rollout, "rolled_back", "; ".join(ruling.reasons), ruling, who=who)
    if minutes_between(rollout.at, now) < rollout.terms.minutes:
        return rollout
    if counts.challenger < rollout.terms.least:
        few = f"only {counts.challenger} answers in {rollout.terms.minutes:g} minutes, of {rollout.terms.least} wanted"
        return end(registry, rollout, "stopped", few, ruling, who=who)
    passed = f"nothing against it in {counts.challenger} answers"
    if rollout.terms.then == "promote":
        try:
            aliases.promote(
                registry, str(rollout), to=rollout.alias, who=who, why=f"{rollout.kind}: {passed}",
                once=f"rollout-{rollout.id}",
            )  # fmt: skip
        except (GateError, RegistryError) as refused:
            passed = f"{passed}, but not promoted: {refused.message}"
        else:
            return end(registry, rollout, "promoted", passed, ruling, who=who)
    return end(registry, rollout, "passed", passed, ruling, who=who)


def end(
    registry: Registry, rollout: Rollout, state: State, reason: str, ruling: Ruling | None = None, *, who: str
) -> Rollout:
    """End a trial, with the evidence, and return it as it ended: where it had ended before, nothing is changed."""
    with registry.database.writing() as connection:
        audit.lock(connection)
        ruling = ruling or rule(rollout, _counted(connection, rollout))
        told = canonical_json(ruling.evidence).decode()
        running = (ROLLOUTS.c.id == rollout.id) & (ROLLOUTS.c.state == RUNNING)
        ours = connection.execute(
            update(ROLLOUTS).where(running).values(state=state, ended=audit.now(), reason=reason, evidence=told)
        )
        if ours.rowcount:
            facts = {"rollout": rollout.id, "state": state, "beside": f"{rollout.name}@{rollout.alias}",
                     "champion": rollout.champion, "why": reason, "evidence": dict(ruling.evidence)}  # fmt: skip
            audit.append(connection, who=who, action=f"{rollout.kind}-end", subject=str(rollout), facts=facts)
        return _rollout(connection, rollout.id)


def stop(registry: Registry, name: str, *, alias: str = CHAMPION, who: str, why: str = "") -> Rollout:
    """End the trial that runs beside an alias, or return the last one, which has ended.

    Raises:
        NotFound: there was never one.
    """
    registry.versions(name)
    there = [one for one in rollouts(registry, name) if one.alias == alias]
    if not there:
        raise NotFound(f"nothing was ever on trial beside {name}@{alias}", hint=f"luban canary {name}@NUMBER")
    return end(registry, there[-1], "stopped", why or "it was stopped", who=who) if _runs(there[-1]) else there[-1]


def expected_disagreement(registry: Registry, one: Version, other: Version) -> tuple[float, str]:
    """Return how often two versions may answer otherwise than each other, and what that comes from."""
    try:
        left, right = (registry.evidence(version).answers for version in (one, other))
    except CorruptBundle:
        left = right = None
    if left is not None and right is not None and left.rows == right.rows and left.predictions:
        pairs = zip(left.predictions, right.predictions, strict=True)
        different, n = sum(not same(mine, theirs) for mine, theirs in pairs), len(left.predictions)
        most = _SLACK * wilson_ends(different, n)[1]
        basis = f"twice the upper end of {different} in {n} test rows"
    elif all("accuracy" in version.scores for version in (one, other)):
        most = sum(1.0 - version.scores["accuracy"].low for version in (one, other))
        basis = "both make mistakes, as their accuracies say"
    else:
        most, basis = _UNKNOWN, "nothing is known of how they agree"
    return round(min(_MOST_DISAGREEMENT, max(_LEAST_DISAGREEMENT, most)), 4), basis


def minutes_between(one: str, other: str) -> float:
    """Return the minutes from one time of the registry to another."""
    from datetime import datetime

    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds() / 60


def _want(terms: Terms, kind: Kind) -> None:
    most = 0.5 if kind == "canary" else 1.0
    if not 0.0 < terms.share <= most:
        raise BadRequest(f"share: got {terms.share:g}, wanted more than 0 and at most {most:g} for a {kind}")
    if terms.by not in ("", "key") and not (terms.by.startswith("header:") and terms.by[7:].strip()):
        raise BadRequest(f"by: got {terms.by!r}, wanted `key` or `header:NAME`", hint="e.g. --by header:x-user")
    if not terms.errs_at_most >= 1.0:
        raise BadRequest(f"errs_at_most: got {terms.errs_at_most:g}, wanted 1 at least")
    if terms.minutes <= 0:
        raise BadRequest(f"minutes: got {terms.minutes:g}, wanted more than 0")
    if kind == "shadow" and terms.then == "promote":
        raise BadRequest("a shadow answers nobody, so that it is not promoted by itself", hint="try it as a canary")


def _runs(rollout: Rollout) -> bool:
    return rollout.state == RUNNING


def _named(connection: Connection, name: str, alias: str) -> int | None:
    here = (ALIASES.c.name == name) & (ALIASES.c.alias == alias)
    return connection.execute(select(ALIASES.c.number).where(here)).scalar_one_or_none()


def _running(connection: Connection, name: str, alias: str) -> Rollout | None:
    here = (ROLLOUTS.c.name == name) & (ROLLOUTS.c.alias == alias) & (ROLLOUTS.c.state == RUNNING)
    row = connection.execute(select(ROLLOUTS).where(here)).one_or_none()
    return None if row is None else _as_rollout(row)


def _rollout(connection: Connection, number: int) -> Rollout:
    return _as_rollout(connection.execute(select(ROLLOUTS).where(ROLLOUTS.c.id == number)).one())


def _counted(connection: Connection, rollout: Rollout) -> Counts:
    total = Counts()
    here = ROLLOUT_COUNTS.c.rollout == rollout.id
    for text in connection.execute(select(ROLLOUT_COUNTS.c.counts).where(here)).scalars():
        total.add(Counts(**json.loads(text)))
    said = feedback.quality(connection, rollout.id)
    total.champion_labelled, total.champion_wrong = said.get(rollout.champion, (0, 0))
    total.challenger_labelled, total.challenger_wrong = said.get(rollout.challenger, (0, 0))
    return total


def _as_rollout(row: Row[Any]) -> Rollout:
    return Rollout(**{**row._mapping, "terms": Terms(**json.loads(row.terms)), "evidence": json.loads(row.evidence)})
