"""A data file whose format is known, and a batch of its rows as they stand in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from luban.data.problems import Faults

SAMPLE_CHARACTERS = 1 << 18
"""How much of a text file is looked at to tell its form."""


class Names(Protocol):
    """What reading needs of a project's `data` section."""

    @property
    def text(self) -> str:
        """Column of the text, or of the tokens."""

    @property
    def label(self) -> str:
        """Column of the labels, tags or spans."""

    @property
    def separator(self) -> str | None:
        """What stands between several labels in one string."""


@dataclass(frozen=True)
class Named:
    """The columns that were found by looking."""

    text: str
    label: str
    separator: str | None = None


@dataclass
class Raw:
    """A batch of rows as the file gives them."""

    rows: list[int]
    """Each row's line in the file (csv, tsv, jsonl, conll, lines, xlsx) or its number, counted from 1."""
    columns: dict[str, Any]
    """Name -> a list of Python values, or an Arrow array."""
    label_columns: tuple[str, ...] = ()
    """Label Studio: the columns that hold annotations."""


@dataclass
class Source:
    """A file or folder whose format is known."""

    path: Path
    format: str
    encoding: str = ""
    """Of text files; empty for others."""
    has_header: bool = True
    """csv, tsv, xlsx: the first row names the columns. Else they are `#1`, `#2`, ..."""
    fixed: tuple[str, str] | None = None
    """The columns of text and labels where the format itself says them."""
    faults: Faults = field(default_factory=lambda: Faults(""))

    def sample(self) -> str:
        """Return the beginning of a text file."""
        with self.path.open(encoding=self.encoding, newline="") as file:
            return file.read(SAMPLE_CHARACTERS)
