"""Where a model's versions come from: a registry's alias or number, or a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luban.errors import NotFound
from luban.files import MANIFEST


@dataclass(frozen=True, kw_only=True)
class Found:
    """The version that should answer."""

    key: str
    """Differs from version to version."""
    folder: Callable[[], Path]
    """Where its bundle is on this machine; may fetch it first."""
    number: int | None = None
    digest: str = ""
    """SHA-256 of the bundle, where it is known before it is opened."""


class Source(Protocol):
    """Says which version should answer. Used by one thread at a time."""

    def newest(self) -> Found:
        """Return it. Asked every second: it must not take long.

        Raises:
            NotFound: there is none.
            RegistryError: it can't be known now.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class FromFolder:
    """A sealed folder; another that is put in its place is a new version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def newest(self) -> Found:
        """Return the bundle that is there now; see `Source`."""
        try:
            there = (self.folder / MANIFEST).stat()
        except OSError:
            hint = "`luban run` makes one; or name a version: NAME=ALIAS"
            raise NotFound(f"{self.folder} is no bundle", hint=hint) from None
        return Found(key=f"{there.st_ino} {there.st_mtime_ns}", folder=lambda: self.folder)

    def close(self) -> None:
        """Do nothing."""


class FromRegistry:
    """A version by its number, or by an alias that may move."""

    def __init__(self, place: str, reference: str) -> None:
        """Name it.

        Args:
            place: the registry: a folder or a URL.
            reference: `NAME@ALIAS` or `NAME@NUMBER`.
        """
        self.place = place
        self.reference = reference
        self._registry: Any = None

    def newest(self) -> Found:
        """Return the version that is named now; see `Source`."""
        from luban.registry.store import open_registry

        if self._registry is None:
            self._registry = open_registry(self.place)
        registry = self._registry
        version = registry.version(self.reference)
        return Found(
            key=version.digest, folder=lambda: registry.bundle(version), number=version.number, digest=version.digest
        )

    def close(self) -> None:
        """Close the registry."""
        if self._registry is not None:
            self._registry.close()
            self._registry = None
