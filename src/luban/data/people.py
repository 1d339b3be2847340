"""The word lists by which names and addresses are known, from `people.txt`: sections of words, or of characters."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("people.txt")


def words(section: str) -> tuple[str, ...]:
    """Return the words of a section, in its order."""
    return tuple(_sections()[section].split())


def signs(section: str) -> frozenset[str]:
    """Return the characters of a section."""
    return frozenset("".join(_sections()[section].split()))


@cache
def _sections() -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in _FILE.read_text("utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            name = line.strip("[]")
            found[name] = ""
        else:
            found[name] += f" {line}"
    return found
