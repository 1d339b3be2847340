"""The rows of a project's three parts end to end, as the checks look at them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from luban.data import duplicates, units
from luban.data.clean import Cleaner
from luban.data.split import Splits, row_labels
from luban.records import Dataset

if TYPE_CHECKING:
    from luban.project.schema import DataSection

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
EXAMPLES = 5
PARTS = ("train", "validation", "test")


@dataclass
class Rows:
    """The rows of all parts end to end: training, validation, test."""

    splits: Splits
    section: DataSection
    labels: tuple[str, ...] | None

    @property
    def parts(self) -> tuple[Dataset, Dataset, Dataset]:
        """The three parts, in the order of `PARTS`."""
        return self.splits.train, self.splits.validation, self.splits.test

    @property
    def per_token(self) -> bool:
        """Rows are tagged."""
        return "tags" in self.splits.train.table.column_names

    @cached_property
    def part(self) -> np.ndarray:
        """(N,) the part of each row."""
        return np.repeat(np.arange(3), [len(part) for part in self.parts])

    @cached_property
    def texts(self) -> list[str]:
        """N texts as they stand in the files."""
        return [text for part in self.parts for text in part.table.column("text").to_pylist()]

    @cached_property
    def clean(self) -> list[str]:
        """N texts as the model will see them."""
        return Cleaner(self.section.clean, self.section.replace)(self.texts)

    @cached_property
    def answers(self) -> list[tuple[str, ...]]:
        """What each row is labelled with: its labels sorted, or its entities as `mention (kind)`."""
        if self.per_token:
            pairs = zip(self.tokens, self.tags, strict=True)
            return [
                tuple(f"{spell(tokens[start:end])} ({label})" for start, end, label in entities(tags))
                for tokens, tags in pairs
            ]
        return [tuple(sorted(labels)) for part in self.parts for labels in row_labels(part.table)]

    @cached_property
    def tokens(self) -> list[list[str]]:
        """The tokens of each row, where rows are tagged."""
        return [tokens for part in self.parts for tokens in part.table.column("tokens").to_pylist()]

    @cached_property
    def tags(self) -> list[list[str]]:
        """The BIO tags of each row, where rows are tagged."""
        return [tags for part in self.parts for tags in part.table.column("tags").to_pylist()]

    @cached_property
    def kinds(self) -> list[tuple[str, ...]]:
        """The labels of each row, or the kinds of entities in it."""
        return [labels for part in self.parts for labels in row_labels(part.table)]

    @cached_property
    def duplicates(self) -> duplicates.Duplicates:
        """Which of the N rows repeat each other."""
        return duplicates.find(self.texts)

    @cached_property
    def places(self) -> list[tuple[str, int]]:
        """The part and the row in its file of each of the N rows."""
        return [
            (name, row)
            for name, part in zip(PARTS, self.parts, strict=True)
            for row in part.table.column("row").to_pylist()
        ]

    def show(self, place: int, more: str = "", text: str | None = None) -> str:
        """Return a row as an example: its part, its row, its text."""
        name, row = self.places[place]
        shown = " ".join((self.texts[place] if text is None else text).split())
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return f"{name}, row {row}: {shown!r}{more}"

    def shows(self, places: Iterable[int]) -> tuple[str, ...]:
        """Return the first few of some rows as examples."""
        return tuple(self.show(place) for _, place in zip(range(EXAMPLES), places, strict=False))


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (first token, one past the last, label) of each entity of BIO tags."""
    found: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((place, place + 1, tag[2:]))
        elif tag.startswith("I-") and found:
            start, _, label = found[-1]
            found[-1] = (start, place + 1, label)
    return found


def spell(tokens: Sequence[str]) -> str:
    """Return a mention as it is read: characters close together, words with spaces."""
    return "".join(tokens) if all(len(token) == 1 for token in tokens) else units.join(tokens)


def share_of(part: int, whole: int) -> float:
    """Return a part's share of a whole; 0 of nothing."""
    return part / whole if whole else 0.0


def percent(share: float) -> str:
    """Return a share as it is told."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "less than 0.1%"


def named(names: Sequence[str], at_most: int = 8) -> str:
    """Return names as a list that does not run on."""
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")
