"""The commands of access keys as functions: where the registry is, and who does it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from luban.errors import BadRequest
from luban.stages.registering import registry_place, whoami

if TYPE_CHECKING:
    from luban.serve.keys import Issued, Key
    from luban.store.database import Database

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(?:s|sec|second)|/\s*(m|min|minute)|/\s*(h|hour))?")


def create_key(
    name: str,
    scopes: Sequence[str],
    *,
    tenant: str | None = None,
    models: Sequence[str] = (),
    expires: str = "",
    rate: str = "",
    burst: int | None = None,
    registry: str | None = None,
    who: str | None = None,
    why: str = "",
) -> Issued:
    """Make a key; see `luban.serve.keys.create`. Where there is no registry, it is made.

    Args:
        name: of the caller.
        scopes: scopes, or sets of them.
        tenant: whose rows it sees and makes.
        models: names or patterns; empty for all.
        expires: `90d`, or a day as `2027-01-31`; empty for no end.
        rate: `50/s` or `600/min`; empty for no limit.
        burst: requests that may come at once.
        registry: a folder or URL.
        who: who does it.
        why: the reason.
    """
    from luban.serve import keys

    more = {} if tenant is None else {"tenant": tenant}
    with opened_database(registry, create=True) as database:
        return keys.create(
            database, name, scopes, models=models or ("*",), expires_s=span_s(expires), rate=_per_second(rate),
            burst=burst, who=who or whoami(), why=why, **more,
        )  # fmt: skip


def list_keys(registry: str | None = None) -> list[Key]:
    """Return every key, by name."""
    from luban.serve import keys

    with opened_database(registry) as database:
        return keys.listed(database)


def rotate_key(
    name: str, *, grace: str = "", expires: str = "", registry: str | None = None, who: str | None = None, why: str = ""
) -> Issued:
    """Give a key a new secret; see `luban.serve.keys.rotate`."""
    from luban.serve import keys

    grace_s = span_s(grace) if grace.strip() != "0" else 0.0
    with opened_database(registry) as database:
        return keys.rotate(
            database, name, grace_s=keys.GRACE_S if grace_s is None else grace_s, expires_s=span_s(expires),
            who=who or whoami(), why=why,
        )  # fmt: skip


def revoke_key(
    name: str, *, older: bool = False, registry: str | None = None, who: str | None = None, why: str = ""
) -> Key:
    """End a key, or its older secret alone; see `luban.serve.keys.revoke`."""
    from luban.serve import keys

    with opened_database(registry) as database:
        return keys.revoke(database, name, older=older, who=who or whoami(), why=why)


@contextmanager
def opened_database(place: str | None, *, create: bool = False) -> Iterator[Database]:
    """Open the database of a registry; with `create`, make it where there is none."""
    from luban.store.database import open_database

    database = open_database(registry_place(place), create=create)
    try:
        yield database
    finally:
        database.close()


def span_s(text: str) -> float | None:
    """Return a length of time in seconds, from `90d` or a day to come; None of an empty text.

    Raises:
        BadRequest: it is neither.
    """
    text = text.strip()
    if not text:
        return None
    if match := _SPAN.fullmatch(text):
        return float(match[1]) * _UNITS_S[match[2]]
    try:
        end = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequest(
            f"{text!r} is no length of time", hint="a number with s, m, h, d or w, as 90d; or a day, as 2027-01-31"
        ) from error
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    return (end - datetime.now(UTC)).total_seconds()


def _per_second(text: str) -> float | None:
    """Return a rate in requests a second, from `50/s` or `600/min`; None of an empty text.

    Raises:
        BadRequest: it is neither.
    """
    text = text.strip()
    if not text:
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise BadRequest(f"{text!r} is no rate", hint="requests a second, minute or hour: 50/s, 600/min, 100/h")
    return float(match[1]) / (60 if match[2] else 3600 if match[3] else 1)
