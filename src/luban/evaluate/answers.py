"""What a model answered to its test rows, small enough to travel in its bundle, so that versions can be paired later.

Labels are numbers, and no text can be read back: of the rows there is one digest, which tells whether another model
was judged on the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.evaluate.compare import Comparison, compare
from luban.evaluate.measure import Gold, Measure
from luban.evaluate.slices import LEAST, divisions
from luban.files import canonical_json
from luban.metrics.interval import Difference, paired
from luban.records import Prediction, Span

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
_NONE = -1
_RESAMPLES = 500


@dataclass(frozen=True)
class Answers:
    """Test rows and what one model answered to them."""

    rows: str
    """SHA-256 over texts and what is right for them, row by row."""
    measure: Measure
    gold: Gold
    predictions: Sequence[Prediction]
    """With the labels or spans alone: probabilities are not kept."""
    slices: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """What rows are divided by -> value -> (N,) which rows have it."""


@dataclass(frozen=True, slots=True)
class SliceDifference:
    """How one model does against another on rows that have something in common."""

    by: str
    value: str
    one: float
    """The main score of the one model."""
    other: float
    difference: Difference
    """The one's minus the other's, on the same rows."""


def pack(
    measure: Measure, gold: Gold, predictions: Sequence[Prediction], table: pa.Table, columns: Sequence[str] = ()
) -> dict[str, Any]:
    """Return answers as JSON values, some 5 bytes a row and as many again for what divides rows.

    Args:
        measure: how the task is scored.
        gold: what is right for each row.
        predictions: one a row.
        table: the test rows.
        columns: columns to divide rows by, as in `evaluate.slices`.
    """
    labels = list(dict.fromkeys([*measure.labels, *(name for row in gold for name in _names(row))]))
    place = {label: number for number, label in enumerate(labels)}
    texts: list[str] = table.column("text").to_pylist()
    whole = hashlib.sha256()
    for text, right in zip(texts, gold, strict=True):
        whole.update(canonical_json([text, _plain(right)]))
    single = measure.answers_rows
    return {
        "format": FORMAT,
        "rows": whole.hexdigest(),
        "task": measure.task,
        "multi_label": measure.multi_label,
        "labels": labels,
        "n_labels": len(measure.labels),
        "gold": [_packed(right, place, single) for right in gold],
        "answers": [_packed(one.spans or one.labels, place, single) for one in predictions],
        "slices": {by: _division(values) for by, values in divisions(table, columns)},
    }


def unpack(found: Mapping[str, Any]) -> Answers:
    """Return what `pack` has packed.

    Raises:
        ValueError: it is something else.
    """
    try:
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r}; this Luban reads {FORMAT}")
        labels, task = tuple(map(str, found["labels"])), str(found["task"])
        measure = Measure(task, labels[: found["n_labels"]], bool(found["multi_label"]))
        gold = [_unpacked(one, labels, task) for one in found["gold"]]
        answers = [_unpacked(one, labels, task) for one in found["answers"]]
        slices = {}
        for by, division in found["slices"].items():
            of = np.array(division["of"], np.int64)
            slices[by] = {value: of == number for number, value in enumerate(division["values"])}
        predictions = [Prediction(spans=one) if task == "tag" else Prediction(labels=one) for one in answers]
        return Answers(str(found["rows"]), measure, gold, predictions, slices)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"these are no answers: {error!r}") from error


def compared(one: Answers, other: Answers) -> Comparison | None:
    """Return one model against another, or None where they were not judged on the same rows."""
    if not _alike(one, other):
        return None
    return compare(_both(one, other), one.gold, one.predictions, other.predictions)


def by_slice(one: Answers, other: Answers) -> list[SliceDifference]:
    """Return the main score of both, slice by slice; nothing where they were not judged on the same rows."""
    if not _alike(one, other):
        return []
    measure, found = _both(one, other), []
    left, statistic = measure.main_counts(one.gold, one.predictions)
    right, _ = measure.main_counts(one.gold, other.predictions)
    for by, values in one.slices.items():
        for value, rows in values.items():
            n = int(rows.sum())
            if n < LEAST:
                continue
            difference = paired(left[rows], right[rows], statistic, resamples=_RESAMPLES)[measure.main]
            scores = [
                float(statistic(part[rows].sum(axis=0, dtype=np.float64)[None], n)[measure.main][0])
                for part in (left, right)
            ]
            found.append(SliceDifference(by, value, scores[0], scores[1], difference))
    return found


def _alike(one: Answers, other: Answers) -> bool:
    """Return whether both were judged on the same rows, by the same score."""
    return one.rows == other.rows and one.measure.main == other.measure.main and bool(one.gold)


def _both(one: Answers, other: Answers) -> Measure:
    labels = tuple(dict.fromkeys([*one.measure.labels, *other.measure.labels]))
    return Measure(one.measure.task, labels, one.measure.multi_label)


def _names(row: Sequence[Any]) -> list[str]:
    return [item if isinstance(item, str) else item.label for item in row]


def _plain(row: Sequence[Any]) -> list[Any]:
    return [item if isinstance(item, str) else [item.start, item.end, item.label] for item in row]


def _packed(row: Sequence[Any], place: Mapping[str, int], single: bool) -> Any:
    if single:
        return place[row[0]] if row else _NONE
    return [place[item] if isinstance(item, str) else [item.start, item.end, place[item.label]] for item in row]


def _unpacked(one: Any, labels: Sequence[str], task: str) -> tuple[Any, ...]:
    if isinstance(one, int):
        return () if one == _NONE else (labels[one],)
    if task == "tag":
        return tuple(Span(int(start), int(end), labels[label]) for start, end, label in one)
    return tuple(labels[label] for label in one)


def _division(values: Sequence[str]) -> dict[str, Any]:
    """Return the values that enough rows have, and for each row which; `_NONE` for rare ones, which are not named."""
    names, kind_of, times = np.unique(np.array(values, dtype=np.str_), return_inverse=True, return_counts=True)
    kept = np.flatnonzero(times >= LEAST)
    number = np.full(len(names), _NONE, np.int64)
    number[kept] = np.arange(len(kept))
    return {"values": [str(name) for name in names[kept]], "of": number[kind_of].tolist()}
