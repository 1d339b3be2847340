"""What callers say of answers, kept in the registry's database: posted once, listed, counted for trials, and deleted.

A post is one transaction: all of its rows are there or none, and sent again under the same key of the caller's it adds
nothing. Rows begin in quarantine; what may be learnt from is decided elsewhere. Posts of several callers go into one
transaction together, so that many of them share one flush of the disk.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, distinct, func, insert, or_, select, true

from luban.errors import BadRequest, Conflict
from luban.registry import audit
from luban.store.database import Database
from luban.store.tables import FEEDBACK, FEEDBACK_POSTS, SETTINGS

State = Literal["quarantined", "approved", "rejected"]
STATES: tuple[State, ...] = ("quarantined", "approved", "rejected")
FIRST: State = "quarantined"
ONCE_DAYS = 30
"""For how long a post that is sent again is known, in days."""
_SECRET = "feedback.secret"
_PAGE = 1000
_PSEUDONYM = "~"


@dataclass(frozen=True, kw_only=True)
class Said:
    """One thing that a caller says of an answer or a text, as it is kept."""

    model: str
    """Name in the registry; for a bundle that is served from a folder, its name on the server."""
    version: int | None = None
    """Number of the version that answered; where no answer is named, of the one that was asked; None for a folder."""
    answer: str = ""
    """Which answer, in hexadecimal digits; empty where none was named."""
    rollout: int | None = None
    """The trial in which the answer was given; None where it was given in none."""
    unit: str = ""
    """What was decided by lot once in that trial: a request or a caller."""
    wrong: bool | None = None
    """The answer was wrong; None where that is not known."""
    text: str | None = None
    truth: Mapping[str, Any] | None = None
    """What is right: `label`, `labels` or `spans`."""
    said: Mapping[str, Any] | None = None
    """What the answer was, in the same form, where it is known."""
    source: str = ""
    """Who or what it comes from, in the caller's words, or a pseudonym of them."""
    comment: str = ""
    masked: bool = True
    """Personal data was masked before it was kept."""
    until: str | None = None
    """From then on it counts as gone, UTC, ISO 8601."""


@dataclass(frozen=True, kw_only=True)
class Kept(Said):
    """What was said, by whom and when."""

    seq: int
    id: str
    at: str
    tenant: str
    caller: str
    """Name of the access key."""
    state: State


@dataclass(frozen=True, kw_only=True)
class Post:
    """What a caller says at once."""

    caller: str
    tenant: str
    rows: tuple[Said, ...]
    once: str = ""
    """Hash of the caller's idempotency key; empty where there was none."""
    digest: str = ""
    """Hash of what was sent."""


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which rows are meant; those of all fields that are given."""

    model: str = ""
    version: int | None = None
    source: str = ""
    caller: str = ""
    tenant: str = ""
    state: State | None = None
    before: str = ""
    """Kept before then, UTC, ISO 8601."""
    ids: tuple[str, ...] = ()


def add(database: Database, posts: Sequence[Post]) -> list[tuple[str, ...] | Conflict]:
    """Keep posts in one transaction; when this returns they are on the disk.

    Returns:
        For each post the ids of its rows, those it was given at first where it was sent before; or a `Conflict` where
        the same caller sent something else under the same key.

    Raises:
        RegistryError: the database could not be written; the message says what is known.
    """
    results: dict[int, tuple[str, ...] | Conflict] = {}
    # In one order everywhere, so that two servers with the same posts never wait for each other in a ring.
    order = sorted(range(len(posts)), key=lambda place: (posts[place].caller, posts[place].once))
    with database.writing() as connection:
        now = audit.now()
        rows: list[dict[str, Any]] = []
        for place in order:
            post = posts[place]
            ids = tuple(secrets.token_hex(12) for _ in post.rows)
            if post.once and (known := _claimed(connection, post, ids, now)) is not None:
                results[place] = known
                continue
            rows += [_row(post, one, id, now) for one, id in zip(post.rows, ids, strict=True)]
            results[place] = ids
        if rows:
            connection.execute(insert(FEEDBACK), rows)
    return [results[place] for place in range(len(posts))]


def listed(database: Database, which: Which | None = None, *, last: int = 0) -> list[Kept]:
    """Return what was said, the oldest first; with `last` no more than so many, the newest."""
    query = select(FEEDBACK).where(_meant(which or Which(), database)).order_by(FEEDBACK.c.seq.desc())
    with database.reading() as connection:
        found = connection.execute(query.limit(last) if last else query).all()
    return [_kept(row) for row in reversed(found)]


def each(database: Database, which: Which | None = None) -> Iterator[Kept]:
    """Yield what was said, the oldest first, some at a time: memory does not grow with it."""
    meant, seq = _meant(which or Which(), database), 0
    while True:
        query = select(FEEDBACK).where(meant, FEEDBACK.c.seq > seq).order_by(FEEDBACK.c.seq).limit(_PAGE)
        with database.reading() as connection:
            page = connection.execute(query).all()
        yield from map(_kept, page)
        if len(page) < _PAGE:
            return
        seq = page[-1].seq


def remove(database: Database, which: Which, *, who: str, why: str = "") -> int:
    """Delete what is meant, with an entry in the audit, and return how many rows that was.

    The entry has the number of rows and what they were found by; not a source, which may name a person.

    Raises:
        BadRequest: nothing says which.
    """
    if which == Which():
        raise BadRequest("nothing says what is to be deleted", hint="name a source, a caller, a model or a time")
    meant = _meant(which, database, gone_too=True)
    with database.writing() as connection:
        audit.lock(connection)
        n_rows = connection.execute(delete(FEEDBACK).where(meant)).rowcount
        if n_rows:
            by = {name: value for name, value in vars(which).items() if value and name not in ("source", "ids")}
            facts = {"rows": n_rows, "by": by | ({"source": True} if which.source else {}), "why": why}
            subject = f"feedback:{which.model or '*'}"
            audit.append(connection, who=who, action="feedback-delete", subject=subject, facts=facts)
    return n_rows


def expire(database: Database) -> int:
    """Delete rows whose time is over and posts that need not be known any more; return how many rows that was."""
    now = audit.now()
    with database.reading() as connection:
        over = FEEDBACK.c.until <= now
        n_over = connection.execute(select(func.count()).select_from(FEEDBACK).where(over)).scalar_one()
        old = FEEDBACK_POSTS.c.at < _earlier(now, ONCE_DAYS)
        n_old = connection.execute(select(func.count()).select_from(FEEDBACK_POSTS).where(old)).scalar_one()
    if not n_over and not n_old:
        return 0
    with database.writing() as connection:
        connection.execute(delete(FEEDBACK_POSTS).where(old))
        return connection.execute(delete(FEEDBACK).where(over)).rowcount


def quality(connection: Connection, rollout: int) -> dict[int, tuple[int, int]]:
    """Return what was said of the answers in a trial: version -> units of which something is known, and wrong ones.

    A unit is what was decided by lot once; however many of its answers are wrong, and however often it is said, it
    counts once.
    """
    told = (FEEDBACK.c.rollout == rollout) & FEEDBACK.c.wrong.is_not(None)
    wrong = case((FEEDBACK.c.wrong == true(), FEEDBACK.c.unit))
    query = select(FEEDBACK.c.version, func.count(distinct(FEEDBACK.c.unit)), func.count(distinct(wrong)))
    rows = connection.execute(query.where(told).group_by(FEEDBACK.c.version))
    return {version: (n_units, n_wrong) for version, n_units, n_wrong in rows}


def secret(database: Database) -> bytes:
    """Return the secret, 32 bytes, under which ids of answers and pseudonyms are made; it is made where there is none.

    It never changes: ids that were given out, and pseudonyms that were kept, are good for as long as the database is.
    """
    here = select(SETTINGS.c.value).where(SETTINGS.c.name == _SECRET)
    with database.reading() as connection:
        found = connection.execute(here).scalar_one_or_none()
    if found is None:
        with database.writing() as connection:
            audit.lock(connection)  # one after another, so that all have the same one
            found = connection.execute(here).scalar_one_or_none()
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(insert(SETTINGS).values(name=_SECRET, value=found))
    return bytes.fromhex(found)


def pseudonym(key: bytes, source: str) -> str:
    """Return what stands for a source that can't be kept as it is: the same for the same one, and no way back."""
    return _PSEUDONYM + hmac.new(key, source.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def _claimed(connection: Connection, post: Post, ids: tuple[str, ...], now: str) -> tuple[str, ...] | Conflict | None:
    """Take a caller's key for a post; return what the key was taken for before, or None."""
    row = {"caller": post.caller, "once": post.once, "digest": post.digest, "ids": json.dumps(ids), "at": now}
    if connection.execute(_taking(connection.dialect.name), row).first() is not None:
        return None
    here = (FEEDBACK_POSTS.c.caller == post.caller) & (FEEDBACK_POSTS.c.once == post.once)
    there = connection.execute(select(FEEDBACK_POSTS).where(here)).one()
    if not hmac.compare_digest(there.digest, post.digest):
        return Conflict(
            f"`once`: the key was used at {there.at[:19]} for other feedback", hint="take a new key for what is new"
        )
    return tuple(json.loads(there.ids))


@cache
def _taking(kind: str) -> Any:
    """Return the statement that takes a key, and returns a row where it was free."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect: Any = postgresql if kind == "postgresql" else sqlite
    return dialect.insert(FEEDBACK_POSTS).on_conflict_do_nothing().returning(FEEDBACK_POSTS.c.once)


def _row(post: Post, one: Said, id: str, now: str) -> dict[str, Any]:
    told = {
        name: None if value is None else json.dumps(value, ensure_ascii=False)
        for name, value in (("truth", one.truth), ("said", one.said))
    }
    return {**vars(one), **told, "id": id, "at": now, "tenant": post.tenant, "caller": post.caller, "state": FIRST}


def _kept(row: Row[Any]) -> Kept:
    told = {name: None if row[name] is None else json.loads(row[name]) for row in (row._mapping,) for name in _JSON}
    return Kept(**{**row._mapping, **told})


_JSON = ("truth", "said")


def _meant(which: Which, database: Database, *, gone_too: bool = False) -> ColumnElement[bool]:
    """Return the condition for rows."""
    here: list[ColumnElement[bool]] = []
    if not gone_too:
        here.append(or_(FEEDBACK.c.until.is_(None), FEEDBACK.c.until > audit.now()))
    for name in ("model", "version", "caller", "tenant", "state"):
        if (value := getattr(which, name)) not in ("", None):
            here.append(FEEDBACK.c[name] == value)
    if which.source:
        here.append(FEEDBACK.c.source.in_([which.source, pseudonym(secret(database), which.source)]))
    if which.before:
        here.append(FEEDBACK.c.at < which.before)
    if which.ids:
        here.append(FEEDBACK.c.id.in_(which.ids))
    return and_(true(), *here)


def _earlier(now: str, days: float) -> str:
    return later(now, -days)


def later(now: str, days: float) -> str:
    """Return the time so many days after another, as it is written down."""
    moment = datetime.fromisoformat(now) + timedelta(days=days)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
