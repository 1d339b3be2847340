"""What the clients of model hubs share: the listing of one commit, its check, and the error for a hub out of reach."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from luban.errors import LubanError, Problem, ProjectError
from luban.files import digest_file
from luban.records import Progress

Report = Callable[[Progress], None]


class Unreachable(LubanError):
    """A hub can't be asked now; what was fetched before may still serve."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a hub's repository."""

    size: int
    """In bytes; -1 where the hub does not tell."""
    sha256: str = ""
    """Empty where the hub does not tell."""
    git_sha1: str = ""
    """Git's own name for the contents; empty where the hub does not tell."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: Mapping[str, RemoteFile]


class Client(Protocol):
    """How Luban asks a hub."""

    def listing(self, repository: str, revision: str) -> Listing:
        """Return what a revision holds.

        Raises:
            ProjectError: there is no such repository or revision.
            Unreachable: the hub does not answer.
        """
        ...

    def bring(self, repository: str, listing: Listing, names: list[str], folder: Path, tell: Report) -> None:
        """Put files of a listing into a folder, checked."""
        ...


def check(path: Path, name: str, wanted: RemoteFile, source: str) -> None:
    """Compare a downloaded file with what the hub says of it.

    Raises:
        LubanError: size or digest differs.
    """
    size = path.stat().st_size
    if wanted.size >= 0 and size != wanted.size:
        got, should = f"{size} bytes", f"{wanted.size}"
    elif wanted.sha256 and (found := digest_file(path)) != wanted.sha256:
        got, should = f"SHA-256 {found}", wanted.sha256
    elif wanted.git_sha1 and not wanted.sha256 and (found := _git_sha1(path)) != wanted.git_sha1:
        got, should = f"git object {found}", wanted.git_sha1
    else:
        return
    raise LubanError(
        f"{name} of {source} came with {got}, wanted {should}", hint="run this again; it downloads the file anew"
    )


def absent(base: str, wanted: str, hint: str) -> ProjectError:
    """Return the error for a repository or revision that a hub does not have."""
    return ProjectError([Problem("base", repr(base), wanted, hint=hint)])


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
