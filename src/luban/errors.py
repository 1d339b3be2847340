"""Every error Luban raises on purpose, and the one table that turns an error into an exit, HTTP and gRPC code.

LubanError(message, hint)
├── ProjectError(problems)
├── DataError(problems)
├── PluginError
│   ├── UnknownPlugin
│   └── MissingExtra
├── TrainError
│   ├── Diverged
│   └── OutOfMemory
├── GateError(measured, allowed)
│   ├── BelowGate
│   └── ParityFailed
├── RegistryError
│   ├── NotFound
│   ├── Conflict
│   └── CorruptBundle
└── ServeError
    ├── BadRequest
    │   ├── TooLarge
    │   ├── TooSlow
    │   └── UnsupportedMedia
    ├── Unauthenticated
    ├── Forbidden
    ├── Overloaded(retry_after_s)
    ├── Unavailable(retry_after_s)
    └── DeadlineExceeded
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a project file or a data file, with the place and the mend."""

    where: str
    """What is wrong: a setting's path (`train.epochs`), a column, or a row (`reviews.csv, row 17`)."""
    got: str
    """What was found, shortened for reading."""
    wanted: str
    """What would have been right."""
    line: int | None = None
    """Line of the file, counted from 1; None where lines have no meaning."""
    hint: str = ""
    """How to mend it, often a "did you mean"."""
    means: str = ""
    """What the setting is, where nothing better can be told."""

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where} (line {self.line})"
        text = f"{place}: got {self.got}, wanted {self.wanted}"
        more = [self.hint, self.means and f"It means: {self.means}"]
        return ". ".join([text, *filter(None, more)])


class LubanError(Exception):
    """Something a user can mend: `message` says what and where, `hint` how."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors of worker processes come back this way; a constructor with arguments by name would not be called right.
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[LubanError], args: tuple[Any, ...], state: dict[str, Any]) -> LubanError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class _Problems(LubanError):
    """An error that carries every problem found in one file."""

    def __init__(
        self, problems: Sequence[Problem], *, source: str = "", hint: str = "", total: int | None = None
    ) -> None:
        self.problems = tuple(problems)
        self.source = source
        self.total = len(self.problems) if total is None else total
        """How many there are in all; `problems` may hold the first of them only."""
        count = f"{self.total} problem{'' if self.total == 1 else 's'}"
        heading = f"{count} in {source}" if source else count
        more = [f"  ... and {self.total - len(self.problems)} more"] if self.total > len(self.problems) else []
        super().__init__("\n".join([f"{heading}:", *(f"  {problem}" for problem in self.problems), *more]), hint=hint)


class ProjectError(_Problems):
    """The project file can't be used."""


class DataError(_Problems):
    """A data file can't be used."""


class PluginError(LubanError):
    """A plug-in can't be used."""


class UnknownPlugin(PluginError):
    """No plug-in of that name in the catalogue."""


class MissingExtra(PluginError):
    """A package that this needs is not installed; `hint` is the pip command."""


class TrainError(LubanError):
    """Training could not go on."""


class Diverged(TrainError):
    """The loss was not finite or exploded, and going back to the last good state did not help."""


class OutOfMemory(TrainError):
    """The machine has too little memory for these settings."""


class GateError(LubanError):
    """A promise about quality was not kept."""

    def __init__(self, message: str, *, measured: float, allowed: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.measured = measured
        self.allowed = allowed


class BelowGate(GateError):
    """A score is below the gate that the project sets."""


class ParityFailed(GateError):
    """An exported graph does not answer as the model it was made from."""


class RegistryError(LubanError):
    """A stored model can't be used."""


class NotFound(RegistryError):
    """No such run, bundle, version or alias."""


class Conflict(RegistryError):
    """The thing to be made exists already, or another process is at it."""


class CorruptBundle(RegistryError):
    """A file of a sealed folder is missing, added or changed."""


class ServeError(LubanError):
    """A request can't be answered."""


class BadRequest(ServeError):
    """The request itself is wrong."""


class TooLarge(BadRequest):
    """The request is beyond a limit in bytes, items or tokens."""


class TooSlow(BadRequest):
    """The request did not arrive in time."""


class UnsupportedMedia(BadRequest):
    """The request is in a form that is not read here, or wants its answer in one that is not written."""


class Unauthenticated(ServeError):
    """No key, or none that is good."""


class Forbidden(ServeError):
    """This key may not do this."""


class _Later(ServeError):
    """A request that may be answered if it comes again."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        """Seconds after which it may be asked again."""


class Overloaded(_Later):
    """The queue is full, or the caller's rate is used up; try again later."""


class Unavailable(_Later):
    """Not ready yet, or about to stop; ask another server, or try again later."""


class DeadlineExceeded(ServeError):
    """The answer would have come too late."""


class Codes(NamedTuple):
    """What an error is called at each border."""

    exit: int
    http: int
    grpc: str


CODES: dict[type[LubanError], Codes] = {
    LubanError: Codes(1, 500, "INTERNAL"),
    ProjectError: Codes(2, 400, "INVALID_ARGUMENT"),
    DataError: Codes(3, 422, "INVALID_ARGUMENT"),
    PluginError: Codes(4, 501, "UNIMPLEMENTED"),
    TrainError: Codes(5, 500, "INTERNAL"),
    GateError: Codes(6, 409, "FAILED_PRECONDITION"),
    RegistryError: Codes(7, 500, "INTERNAL"),
    NotFound: Codes(7, 404, "NOT_FOUND"),
    Conflict: Codes(7, 409, "ALREADY_EXISTS"),
    CorruptBundle: Codes(7, 500, "DATA_LOSS"),
    ServeError: Codes(8, 500, "INTERNAL"),
    BadRequest: Codes(8, 400, "INVALID_ARGUMENT"),
    TooLarge: Codes(8, 413, "INVALID_ARGUMENT"),
    TooSlow: Codes(8, 408, "DEADLINE_EXCEEDED"),
    UnsupportedMedia: Codes(8, 415, "INVALID_ARGUMENT"),
    Unauthenticated: Codes(8, 401, "UNAUTHENTICATED"),
    Forbidden: Codes(8, 403, "PERMISSION_DENIED"),
    Overloaded: Codes(8, 429, "RESOURCE_EXHAUSTED"),
    Unavailable: Codes(8, 503, "UNAVAILABLE"),
    DeadlineExceeded: Codes(8, 504, "DEADLINE_EXCEEDED"),
}


def codes(error: LubanError | type[LubanError]) -> Codes:
    """Return the codes of an error: its own row of the table, or the nearest ancestor's."""
    kind = error if isinstance(error, type) else type(error)
    return next(CODES[ancestor] for ancestor in kind.__mro__ if ancestor in CODES)


_SYSTEM_MENDS = {
    "ENOSPC": "the disk is full: free some space and run it again",
    "EDQUOT": "your share of the disk is used up: free some space and run it again",
    "EACCES": "give yourself the right to read or write it, or choose another place",
    "EROFS": "the place is read-only: choose another",
    "EMFILE": "too many files are open: raise the limit with `ulimit -n`",
    "EIO": "the disk failed: look after it, then run it again",
}


def system_mend(error: OSError) -> str:
    """Return how to mend what the system refused; empty where nothing is known."""
    return _SYSTEM_MENDS.get(errno.errorcode.get(error.errno or 0, ""), "")


@cache
def install(extra: str = "", *, upgrade: bool = False) -> str:
    """Return the command that installs Luban, with an extra, from where it came: a folder, an address or an index."""
    import json
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    what = f"luban[{extra}]" if extra else "luban"
    try:
        found = json.loads(metadata.distribution("luban").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        found = {}
    url = found.get("url", "")
    if url.startswith("file://") and "dir_info" in found:
        folder = url2pathname(urlsplit(url).path)
        what = f"{folder}[{extra}]" if extra else folder
        editable = "-e " if found["dir_info"].get("editable") else ""
        return f"pip install {editable}'{what}'"
    if url:
        what = f"{what} @ {url}"
    return f"pip install {'--upgrade ' if upgrade else ''}'{what}'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that offers the nearest known name and lists them all; empty where nothing is known."""
    names = sorted(known)
    if not names:
        return ""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    offer = f"did you mean {near[0]!r}? " if near else ""
    return f"{offer}known: {', '.join(names)}"
