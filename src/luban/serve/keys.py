"""Access keys: made, rotated and revoked in the registry's database, each change an entry of its audit.

A key is a name with what it may do; callers send one of its secrets. A secret has 256 random bits and is kept as its
SHA-256 alone (a slow hash would add nothing: there is no dictionary of random bits), beside a public id by which it is
found. Two may be live, so that callers move from the old to the new one without a gap.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets as random_bits
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from luban.errors import BadRequest, Conflict, NotFound, did_you_mean
from luban.registry import audit
from luban.registry.version import NAME
from luban.serve.access import SCOPES
from luban.store.database import Database
from luban.store.tables import KEY_SECRETS, KEYS

ROLES = {
    "client": ("predict", "feedback"),
    "viewer": ("read",),
    "operator": ("predict", "feedback", "read", "admin"),
}
"""Names for scopes that go together."""
TENANT = "default"
GRACE_S = 86_400.0
"""How long the old secret goes on after a rotation, in seconds, where nothing else is said."""
MAX_LIVE = 2
"""How many secrets of one key may be live."""
_PREFIX = "luban_"
_SECRET = re.compile(rf"{_PREFIX}([0-9a-f]{{16}})_[A-Za-z0-9_-]{{43}}")
_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,63}")
_SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret of a key, as far as it is known after it was shown."""

    id: str
    """16 hexadecimal digits, which the secret itself begins with; public."""
    sha256: str
    at: str
    """When it was made, UTC, ISO 8601."""
    expires: str | None
    used: str | None
    """When it was last seen, to about a minute; lost where a server is killed."""

    def is_live(self, now: datetime) -> bool:
        """Tell whether it has not expired."""
        return self.expires is None or _time(self.expires) > now


@dataclass(frozen=True, kw_only=True)
class Key:
    """A caller, and what it may do."""

    name: str
    tenant: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    """Names of models, or patterns with `*` and `?`."""
    rate: float | None
    """Requests a second; None for no limit."""
    burst: int | None
    """Requests that may come at once."""
    at: str
    who: str
    revoked: str | None
    """When the whole key was ended; None while it lives."""
    secrets: tuple[Secret, ...]
    """The newest first."""

    def live(self) -> tuple[Secret, ...]:
        """Return the secrets that open something now, the newest first."""
        now = datetime.now(UTC)
        return () if self.revoked else tuple(one for one in self.secrets if one.is_live(now))


class Issued(NamedTuple):
    """A key with a new secret, which is nowhere else."""

    key: Key
    secret: str


def create(
    database: Database,
    name: str,
    scopes: Iterable[str],
    *,
    who: str,
    tenant: str = TENANT,
    models: Iterable[str] = ("*",),
    expires_s: float | None = None,
    rate: float | None = None,
    burst: int | None = None,
    why: str = "",
) -> Issued:
    """Make a key and its first secret.

    Args:
        database: holds the keys.
        name: of the caller; a name is never given to another one, though its key was revoked.
        scopes: any of `access.SCOPES` and `ROLES`.
        who: who does it, for the audit.
        tenant: whose rows it sees and makes.
        models: names, or patterns such as `bank-*`.
        expires_s: life of the secret in seconds; None for no end.
        rate: requests a second that one process of a server lets through.
        burst: requests that may come at once; by default those of one second.
        why: the reason, for the audit.

    Raises:
        BadRequest: one of these can't be.
        Conflict: there is or was a key of that name.
    """
    row = {
        "name": _wanted(name, "a key's name"), "tenant": _wanted(tenant, "a tenant"),
        "scopes": json.dumps(_wanted_scopes(scopes)), "models": json.dumps(_wanted_models(models)),
        **_wanted_rate(rate, burst), "at": audit.now(), "who": who, "revoked": None,
    }  # fmt: skip
    with database.writing() as connection:
        audit.lock(connection)
        if (there := connection.execute(select(KEYS.c.revoked).where(KEYS.c.name == name)).first()) is not None:
            if there.revoked:
                raise Conflict(f"there was a key {name!r}: its name is not given again", hint="take another name")
            raise Conflict(f"there is a key {name!r}", hint=f"`luban keys rotate {name}`, or take another name")
        connection.execute(insert(KEYS).values(**row))
        secret = _issue(connection, name, expires_s)
        return Issued(_told(connection, name, "key-create", who=who, secret=secret, why=why), secret)


def rotate(
    database: Database,
    name: str,
    *,
    who: str,
    grace_s: float = GRACE_S,
    expires_s: float | None = None,
    why: str = "",
) -> Issued:
    """Give a key a new secret; the one before it goes on for a while.

    Args:
        database: holds the keys.
        name: of the key.
        who: who does it, for the audit.
        grace_s: how long the old secret goes on, in seconds; 0 ends it now.
        expires_s: life of the new secret in seconds; None for as long a one as the secret before it was given.
        why: the reason, for the audit.

    Raises:
        NotFound: there is no such key.
        Conflict: it was revoked, or has two live secrets already.
    """
    with database.writing() as connection:
        audit.lock(connection)
        key = _key(connection, name)
        if key.revoked:
            raise Conflict(f"the key {name!r} was revoked at {key.revoked}", hint="create one of another name")
        live = key.live()
        if len(live) >= MAX_LIVE and grace_s > 0:
            older = live[-1]
            raise Conflict(
                f"the key {name!r} has {len(live)} live secrets; {older.id} goes on until {older.expires}",
                hint=f"`luban keys revoke {name} --older` ends that one now; `--grace 0` ends both with the rotation",
            )
        if expires_s is None and key.secrets and (end := key.secrets[0].expires) is not None:
            expires_s = (_time(end) - _time(key.secrets[0].at)).total_seconds()
        ends = _iso(datetime.now(UTC) + timedelta(seconds=grace_s))
        for one in live:
            if one.expires is None or one.expires > ends:
                connection.execute(update(KEY_SECRETS).where(KEY_SECRETS.c.id == one.id).values(expires=ends))
        secret = _issue(connection, name, expires_s)
        return Issued(_told(connection, name, "key-rotate", who=who, secret=secret, why=why), secret)


def revoke(database: Database, name: str, *, who: str, older: bool = False, why: str = "") -> Key:
    """End a key, or with `older` its secrets but the newest; what has ended already stays as it is.

    Every server that reads this database refuses it within `keyring.STALE_S` seconds.

    Raises:
        NotFound: there is no such key.
    """
    with database.writing() as connection:
        audit.lock(connection)
        key = _key(connection, name)
        now = audit.now()
        ended = key.live()[1:] if older else key.live()
        if older:
            if not ended:
                return key
            there = KEY_SECRETS.c.id.in_([one.id for one in ended])
            connection.execute(update(KEY_SECRETS).where(there).values(expires=now))
        elif key.revoked:
            return key
        else:
            connection.execute(update(KEYS).where(KEYS.c.name == name).values(revoked=now))
        ids = ", ".join(one.id for one in ended)
        return _told(connection, name, "key-revoke", who=who, secret="", ended=ids, why=why)


def listed(database: Database) -> list[Key]:
    """Return every key, by name."""
    with database.reading() as connection:
        return read(connection)


def read(connection: Connection, name: str = "") -> list[Key]:
    """Return every key, or the one of a name, by name."""
    query, parts = select(KEYS).order_by(KEYS.c.name), select(KEY_SECRETS).order_by(KEY_SECRETS.c.at.desc())
    if name:
        query, parts = query.where(KEYS.c.name == name), parts.where(KEY_SECRETS.c.name == name)
    secrets: dict[str, list[Secret]] = {}
    for row in connection.execute(parts):
        fields = {field: value for field, value in row._mapping.items() if field != "name"}
        secrets.setdefault(row.name, []).append(Secret(**fields))
    return [
        Key(**{
            **row._mapping, "scopes": tuple(json.loads(row.scopes)), "models": tuple(json.loads(row.models)),
            "secrets": tuple(secrets.get(row.name, ())),
        })
        for row in connection.execute(query)
    ]  # fmt: skip


def note_used(database: Database, used: dict[str, float]) -> None:
    """Write down when secrets were last seen: id -> seconds since 1970. No change of the key, and not in the audit."""
    with database.writing() as connection:
        for id, at in list(used.items()):
            seen = _iso(datetime.fromtimestamp(at, UTC))
            here = (KEY_SECRETS.c.id == id) & (KEY_SECRETS.c.used.is_(None) | (KEY_SECRETS.c.used < seen))
            connection.execute(update(KEY_SECRETS).where(here).values(used=seen))


def secret_id(text: str) -> str:
    """Return the public id within a secret; empty where the text is none."""
    found = _SECRET.fullmatch(text)
    return "" if found is None else found[1]


def hashed(text: str) -> bytes:
    """Return what is kept of a secret: 32 bytes."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def expiry(secret: Secret) -> float:
    """Return when a secret ends, in seconds since 1970; infinity where it does not."""
    return float("inf") if secret.expires is None else _time(secret.expires).timestamp()


def _issue(connection: Connection, name: str, expires_s: float | None) -> str:
    """Make a secret, write down its hash, and return it."""
    if expires_s is not None and not 0 < expires_s <= 100 * 366 * 86_400:
        why = "its end has passed" if expires_s <= 0 else f"{expires_s / 86_400:,.0f} days are more than 100 years"
        raise BadRequest(f"a secret can't live so long: {why}", hint="e.g. 90d; without it, it has no end")
    id = random_bits.token_hex(8)
    secret = f"{_PREFIX}{id}_{random_bits.token_urlsafe(_SECRET_BYTES)}"
    now = datetime.now(UTC)
    expires = None if expires_s is None else _iso(now + timedelta(seconds=expires_s))
    connection.execute(
        insert(KEY_SECRETS).values(id=id, name=name, sha256=hashed(secret).hex(), at=_iso(now), expires=expires)
    )
    return secret


def _told(connection: Connection, name: str, action: str, *, who: str, secret: str, why: str, ended: str = "") -> Key:
    """Write the entry that says all of what the key is from now on, and return the key."""
    subject = f"key:{name}"
    state: dict[str, Any] = audit.key_states(connection, name)[subject]
    facts = {"key": state, "secret": secret_id(secret), "why": why, **({"ended": ended} if ended else {})}
    audit.append(connection, who=who, action=action, subject=subject, facts=facts)
    return _key(connection, name)


def _key(connection: Connection, name: str) -> Key:
    found = read(connection, name)
    if not found:
        names = connection.execute(select(KEYS.c.name)).scalars().all()
        hint = did_you_mean(name, names) or f"`luban keys create --name {name} --scopes predict` makes the first"
        raise NotFound(f"there is no key {name!r}", hint=hint)
    return found[0]


def _wanted(text: str, what: str) -> str:
    if not NAME.fullmatch(text):
        raise BadRequest(f"{text!r} can't be {what}", hint="letters, digits, `.`, `_` and `-`, 64 at most")
    return text


def _wanted_scopes(given: Iterable[str]) -> list[str]:
    wanted = {scope for one in given for scope in ROLES.get(one, (one,))}
    if unknown := sorted(wanted - set(SCOPES)):
        raise BadRequest(
            f"there is no scope {unknown[0]!r}",
            hint=f"{did_you_mean(unknown[0], SCOPES)}; sets of them: {', '.join(ROLES)}",
        )
    if not wanted:
        raise BadRequest("a key needs a scope", hint=f"any of {', '.join(SCOPES)}")
    return [scope for scope in SCOPES if scope in wanted]


def _wanted_models(given: Iterable[str]) -> list[str]:
    patterns = sorted(set(given))
    wrong = [one for one in patterns if not _PATTERN.fullmatch(one)]
    if wrong or not patterns:
        raise BadRequest(
            f"{wrong[0]!r} names no models" if wrong else "a key needs models",
            hint="a model's name, a pattern such as bank-*, or * for all",
        )
    return patterns


def _wanted_rate(rate: float | None, burst: int | None) -> dict[str, Any]:
    if rate is None:
        if burst is not None:
            raise BadRequest("a burst goes with a rate", hint="e.g. --rate 50/s --burst 100")
        return {"rate": None, "burst": None}
    if not 0 < rate < 1e9 or (burst is not None and not 0 < burst < 1e9):
        at_once = "" if burst is None else f", {burst} at once,"
        raise BadRequest(f"a rate of {rate:g} requests a second{at_once} can't be", hint="e.g. 50/s")
    burst = max(1, round(rate)) if burst is None else burst
    return {"rate": float(rate), "burst": burst}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
