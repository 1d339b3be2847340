"""Collects what is wrong with a data file, so that all of it is told at once, and what was mended while reading."""

from __future__ import annotations

from dataclasses import dataclass, field

from luban.errors import DataError, Problem

SHOWN = 20
"""Problems that are told one by one; the rest are counted."""


def shorten(value: object, at_most: int = 60) -> str:
    """Return a value as it is shown in a message: its repr, cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a nesting without end
        return f"a {type(value).__name__}"
    return text if len(text) <= at_most else f"{text[: at_most - 3]}..."


class Misfit(ValueError):
    """A value that can't be used: `got`, `wanted` and `hint` as messages say them."""

    def __init__(self, got: str, wanted: str, hint: str = "") -> None:
        super().__init__(got)
        self.got = got
        self.wanted = wanted
        self.hint = hint


@dataclass
class Faults:
    """The problems of one file."""

    source: str
    """The file, as messages name it."""
    lines: bool = False
    """Rows are known by their line in the file."""
    shown: list[Problem] = field(default_factory=list)
    total: int = 0

    def add(self, row: int | None, got: str, wanted: str, *, column: str = "", hint: str = "") -> None:
        """Note a problem of one row, or of the file where `row` is None."""
        self.total += 1
        if len(self.shown) >= SHOWN:
            return
        where = [self.source]
        if row is not None and not self.lines:
            where.append(f"row {row}")
        if column:
            where.append(f"column {column!r}")
        self.shown.append(Problem(", ".join(where), got, wanted, row if self.lines else None, hint))

    def error(self) -> DataError:
        """Return the error that tells of them all."""
        shown = sorted(self.shown, key=lambda problem: problem.line or 0)
        return DataError(shown, source=self.source, total=self.total)

    def stop(self) -> None:
        """Raise DataError where there is any problem."""
        if self.total:
            raise self.error()


def fault(source: str, got: str, wanted: str, *, line: int | None = None, hint: str = "") -> DataError:
    """Return the error of a file with one problem."""
    return DataError([Problem(source, got, wanted, line, hint)], source=source)


@dataclass
class Mended:
    """What was changed while reading so that rows could be used: counts and the first rows of each kind."""

    counts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)

    def add(self, kind: str, row: int, n: int = 1) -> None:
        """Note `n` changes of one kind in one row."""
        self.counts[kind] = self.counts.get(kind, 0) + n
        known = self.rows.setdefault(kind, [])
        if len(known) < 5:
            known.append(row)

    def to_json(self) -> dict[str, dict[str, object]]:
        """Return kind -> its count and first rows."""
        return {kind: {"count": count, "rows": self.rows[kind]} for kind, count in self.counts.items()}
