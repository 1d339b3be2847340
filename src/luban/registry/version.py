"""What a version is, and how it is named: `bank@3`, `bank@champion`, or `@champion` beside another of the same name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luban.errors import BadRequest
from luban.records import Score

CHAMPION = "champion"
"""The alias that answers: what it is moved to is held against gates and against what it named before."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_REFERENCE = re.compile(rf"({NAME.pattern})?@({NAME.pattern})")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name and a number, or a name and an alias."""

    name: str
    number: int | None = None
    alias: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.alias or self.number}"


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered bundle. It never changes; what may change later are `aliases` and `card`."""

    name: str
    number: int
    """Counted from 1 for each name, with no gaps."""
    digest: str
    """SHA-256 of the bundle's manifest, which has those of its files."""
    at: str
    """When it was registered, UTC, ISO 8601."""
    who: str
    note: str
    task: str
    base: str
    data_digest: str
    """SHA-256 of the rows it was trained and tested on."""
    project_digest: str
    """SHA-256 of every setting that made it."""
    parent: str
    """The version it was made from, as NAME@NUMBER; empty where none was named."""
    size_bytes: int
    latency_ms: float | None
    """Median time of one answer where and when it was registered; None where it was not measured."""
    scores: Mapping[str, Score]
    """On the test rows, the main one first."""
    aliases: tuple[str, ...] = ()
    card: Mapping[str, str] = field(default_factory=dict)
    """What people have stated beside the bundle's own card: `licence`, `use`, `limits`."""
    object: str = ""
    """Key of its files in the object store."""

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def main(self) -> tuple[str, Score] | None:
        """The name and value of the score that stands first."""
        return next(iter(self.scores.items()), None)


@dataclass(frozen=True, kw_only=True)
class Move:
    """An alias was moved."""

    id: int
    name: str
    alias: str
    kind: str
    """`promote` or `rollback`."""
    before: int | None
    """Number of the version it named; None for the first move."""
    after: int
    at: str
    who: str
    why: str
    evidence: Mapping[str, Any]
    """What spoke for and against it: `gates`, `compared`, `refused` (reasons that were overruled)."""
    changed: bool = True
    """False where it had been done before, and nothing was changed now."""


def looks_like_reference(text: str) -> bool:
    """Tell whether a text can name a version: it has one `@`, and no slash."""
    return _REFERENCE.fullmatch(text) is not None


def parse(text: str, beside: str = "") -> Reference:
    """Return what a text names.

    Args:
        text: `NAME@NUMBER`, `NAME@ALIAS`, or `@ALIAS` where `beside` gives the name. A bare `NAME` is its champion.
        beside: the name that is meant where none is given.

    Raises:
        BadRequest: it is none of these.
    """
    hint = "NAME@NUMBER, e.g. bank@3, or NAME@ALIAS, e.g. bank@champion"
    if NAME.fullmatch(text):
        return Reference(text, alias=CHAMPION)
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise BadRequest(f"{text!r} names no version", hint=hint)
    name = match[1] or beside
    if not name:
        raise BadRequest(f"{text!r} does not say of which model", hint=hint)
    if match[2].isdigit():
        return Reference(name, number=int(match[2]))
    return Reference(name, alias=wanted_alias(match[2]))


def wanted_name(name: str) -> str:
    """Return a name that a model may have.

    Raises:
        BadRequest: it may not.
    """
    return _wanted(name, NAME, "a model's name", "a letter or digit")


def wanted_alias(alias: str) -> str:
    """Return a name that an alias may have.

    Raises:
        BadRequest: it may not.
    """
    return _wanted(alias, ALIAS, "an alias", "a letter")


def _wanted(text: str, pattern: re.Pattern[str], what: str, first: str) -> str:
    if not pattern.fullmatch(text):
        hint = f"letters, digits, `.`, `_` and `-`, 64 at most, {first} first"
        raise BadRequest(f"{text!r} can't be {what}", hint=hint)
    return text
