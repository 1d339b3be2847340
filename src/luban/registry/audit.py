"""The audit: every change is an entry in a hash chain, written in the transaction that makes the change.

An entry's hash is the SHA-256 of its columns and of the hash before it (Haber and Stornetta 1991), so that an entry
which was changed, removed or put elsewhere no longer fits the next one; a row of its own has the newest hash, so that
missing entries at the end are noticed, too. Whoever can write the database can make a whole new chain: only a hash
that was noted elsewhere shows that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from luban.errors import BadRequest
from luban.files import canonical_json, digest_json
from luban.store.tables import ALIASES, AUDIT, AUDIT_HEAD, CARDS, KEY_SECRETS, KEYS, ROLLOUTS, VERSIONS

START = "0" * 64
"""The hash before the first entry."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One change."""

    seq: int
    """Counted from 1, with no gaps."""
    at: str
    who: str
    action: str
    """`register`, `card`, `promote`, `rollback`, `key-create`, `key-rotate`, `key-revoke`, `feedback-delete`,
    or `-begin` and `-end` of a `canary` or a `shadow`."""
    subject: str
    """What was changed, e.g. `bank@3`, `bank@champion` or `key:shop`."""
    facts: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What an examination of the chain has shown."""

    n_entries: int
    head: str
    """`SEQ:HASH` of the newest entry: note it elsewhere, and have it checked later."""
    broken: int | None = None
    """Number of the first entry that is wrong or missing; None where the chain holds."""
    problem: str = ""
    """What is wrong there."""
    noted: int = 0
    """Number of the entry that was noted and is still the same, with all before it; 0 where none was given."""


def now() -> str:
    """Return the time as it is written down: UTC, ISO 8601, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def lock(connection: Connection) -> tuple[int, str]:
    """Wait until no one else is changing the registry, and return the newest entry's number and hash."""
    head = connection.execute(select(AUDIT_HEAD).with_for_update()).one()
    return head.seq, head.hash


def head(connection: Connection) -> str:
    """Return the newest entry's hash: another one whenever anything was changed."""
    return str(connection.execute(select(AUDIT_HEAD.c.hash)).scalar_one())


def append(connection: Connection, *, who: str, action: str, subject: str, facts: Mapping[str, Any]) -> None:
    """Write an entry; the caller's transaction makes it and the change true together."""
    seq, previous = lock(connection)
    body = {
        "seq": seq + 1, "at": now(), "who": who, "action": action, "subject": subject,
        "facts": canonical_json(facts).decode(), "previous": previous,
    }  # fmt: skip
    hashed = digest_json(body)
    connection.execute(insert(AUDIT).values(**body, hash=hashed))
    connection.execute(update(AUDIT_HEAD).values(seq=seq + 1, hash=hashed))


def entries(connection: Connection, *, subject: str = "", last: int = 0) -> list[Entry]:
    """Return entries, the oldest first.

    Args:
        connection: of a read.
        subject: a model's name, or what was changed; empty for all.
        last: no more than so many, the newest; 0 for all.
    """
    query = select(AUDIT).order_by(AUDIT.c.seq.desc())
    if subject:
        exactly = AUDIT.c.subject == subject
        query = query.where(exactly if "@" in subject else exactly | AUDIT.c.subject.startswith(f"{subject}@"))
    rows = connection.execute(query.limit(last) if last else query).mappings().all()
    return [Entry(**{**row, "facts": json.loads(row["facts"])}) for row in reversed(rows)]


def verify(connection: Connection, noted: str = "") -> Verified:
    """Check the whole chain, and that versions, cards, aliases, keys and trials are what it says.

    Args:
        connection: of a read.
        noted: `SEQ:HASH` as an earlier check told it: that entry must still be in the chain.

    Raises:
        BadRequest: `noted` is something else.
    """
    wanted_seq, wanted_hash = _noted(noted)
    head = connection.execute(select(AUDIT_HEAD)).one_or_none()
    previous, seq = START, 0
    versions: dict[str, str] = {}
    aliases: dict[str, int] = {}
    cards: dict[tuple[str, str], str] = {}
    keys: dict[str, str] = {}
    trials: dict[str, str] = {}

    def broken(at: int, problem: str) -> Verified:
        return Verified(n_entries=seq, head=f"{seq}:{previous}", broken=at, problem=problem)

    for row in connection.execute(select(AUDIT).order_by(AUDIT.c.seq)).mappings():
        if row["seq"] != seq + 1:
            return broken(seq + 1, "it is missing")
        if row["previous"] != previous:
            return broken(row["seq"], "it does not follow the entry before it: one of them was put there later")
        if digest_json({key: value for key, value in row.items() if key != "hash"}) != row["hash"]:
            return broken(row["seq"], "it was changed after it was written")
        if row["seq"] == wanted_seq and row["hash"] != wanted_hash:
            return broken(row["seq"], "it is not the one that was noted: the chain was written anew")
        _replay(row["action"], row["subject"], json.loads(row["facts"]), versions, aliases, cards, keys, trials)
        seq, previous = row["seq"], row["hash"]
    if head is None or (head.seq, head.hash) != (seq, previous):
        found = "is missing" if head is None else f"names entry {head.seq}"
        return broken(seq + 1, f"the last entry is {seq}, and the row that names the newest {found}: entries are gone")
    if wanted_seq > seq:
        return broken(seq + 1, f"entry {wanted_seq} was noted, and the chain ends before it: entries are gone")
    problem = _tables(connection, versions, aliases, cards, keys, trials)
    if problem:
        return broken(seq, f"the chain holds, but {problem}")
    return Verified(n_entries=seq, head=f"{seq}:{previous}", noted=wanted_seq)


def _replay(
    action: str, subject: str, facts: Mapping[str, Any], versions: dict[str, str], aliases: dict[str, int],
    cards: dict[tuple[str, str], str], keys: dict[str, str], trials: dict[str, str],
) -> None:  # fmt: skip
    if action == "register":
        versions[subject] = facts["digest"]
    elif action in ("promote", "rollback"):
        aliases[subject] = facts["after"]
    elif action == "card":
        cards.update({(subject, what): text for what, text in facts.items()})
    elif action.startswith("key-"):
        keys[subject] = _key_digest(facts["key"])
    elif action.endswith(("-begin", "-end")):
        trials[f"{facts['rollout']} of {subject}"] = facts["state"]


def _tables(
    connection: Connection, versions: Mapping[str, str], aliases: Mapping[str, int],
    cards: Mapping[tuple[str, str], str], keys: Mapping[str, str], trials: Mapping[str, str],
) -> str:  # fmt: skip
    """Return where the tables say something else than the chain; empty where they agree."""
    found: Sequence[tuple[str, Mapping[Any, Any], Mapping[Any, Any]]] = (
        ("version", versions, {f"{row.name}@{row.number}": row.digest for row in connection.execute(select(VERSIONS))}),
        ("alias", aliases, {f"{row.name}@{row.alias}": row.number for row in connection.execute(select(ALIASES))}),
        ("card", cards,
         {(f"{row.name}@{row.number}", row.what): row.text for row in connection.execute(select(CARDS))}),
        ("access", keys, {subject: _key_digest(key) for subject, key in key_states(connection).items()}),
        ("trial", trials,
         {f"{row.id} of {row.name}@{row.challenger}": row.state for row in connection.execute(select(ROLLOUTS))}),
    )  # fmt: skip
    for what, told, there in found:
        for key in sorted({*told, *there}, key=str):
            if told.get(key) != there.get(key):
                return f"the {what} {key} is {there.get(key, 'not there')}, and was {told.get(key, 'never made')}"
    return ""


def key_states(connection: Connection, name: str = "") -> dict[str, dict[str, Any]]:
    """Return `key:NAME` -> everything that decides what it may do, of one key or all; secrets as their SHA-256."""
    query, secrets = select(KEYS), select(KEY_SECRETS)
    if name:
        query, secrets = query.where(KEYS.c.name == name), secrets.where(KEY_SECRETS.c.name == name)
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute(query):
        found[f"key:{row.name}"] = {
            "tenant": row.tenant, "scopes": json.loads(row.scopes), "models": json.loads(row.models), "rate": row.rate,
            "burst": row.burst, "revoked": row.revoked, "secrets": {},
        }  # fmt: skip
    for row in connection.execute(secrets):
        found[f"key:{row.name}"]["secrets"][row.id] = {"sha256": row.sha256, "at": row.at, "expires": row.expires}
    return found


def _key_digest(state: Mapping[str, Any]) -> str:
    return digest_json(state)


def _noted(text: str) -> tuple[int, str]:
    if not text:
        return 0, ""
    seq, _, hashed = text.partition(":")
    if not seq.isdigit() or len(hashed) != 64:
        raise BadRequest(f"{text!r} is no entry that was noted", hint="give SEQ:HASH as `luban audit verify` told it")
    return int(seq), hashed
