"""Scores of tagging: entities found, strict by edges and label, as conlleval and seqeval count them.

Legend: N rows, K labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from luban.metrics.classify import averages, label_table
from luban.metrics.interval import RESAMPLES, Floats, Rows, Statistic, bootstrap
from luban.records import Prediction, Score, Span


@dataclass(frozen=True, slots=True)
class Overlaps:
    """How entities were missed or made up; each gold and each predicted entity is counted once."""

    exact: int
    """Right edges and right label."""
    wrong_label: int
    """Right edges, another label."""
    wrong_edges: int
    """Overlaps a predicted entity of the same label, with other edges."""
    wrong_both: int
    """Overlaps a predicted entity, with other edges and another label."""
    missed: int
    """Gold entities that no prediction touches."""
    made_up: int
    """Predicted entities that touch no gold one."""

    def to_json(self) -> dict[str, int]:
        """Return the form in which they stand in report.json."""
        return asdict(self)


def tag_labels(
    gold: Sequence[Iterable[Span]], predictions: Sequence[Prediction], labels: Sequence[str]
) -> tuple[str, ...]:
    """Return the model's labels, then any that only gold or predictions have."""
    seen = {span.label for spans in gold for span in spans}
    seen.update(span.label for prediction in predictions for span in prediction.spans)
    return (*labels, *sorted(seen.difference(labels)))


def tag_counts(
    gold: Sequence[Iterable[Span]], predictions: Sequence[Prediction], labels: Sequence[str]
) -> NDArray[np.int32]:
    """Return per-row counts (N, 3K) of entities: hits by label, given by label, gold by label.

    Raises:
        ValueError: there are not as many predictions as gold rows.
    """
    if len(gold) != len(predictions):
        raise ValueError(f"{len(gold)} gold rows but {len(predictions)} predictions: wanted one a row")
    index = {label: position for position, label in enumerate(labels)}
    counts = np.zeros((len(gold), 3, len(labels)), np.int32)
    for row, (right, prediction) in enumerate(zip(gold, predictions, strict=True)):
        wanted = {(span.start, span.end, span.label) for span in right}
        answer = {(span.start, span.end, span.label) for span in prediction.spans}
        if not wanted and not answer:
            continue
        for part, entities in enumerate((wanted & answer, answer, wanted)):
            for _, _, label in entities:
                counts[row, part, index[label]] += 1
    return counts.reshape(len(gold), 3 * len(labels))


def tag_statistic(n_labels: int) -> Statistic:
    """Return the function from sums (R, 3K) to f1, precision, recall (all micro) and macro_f1, each (R,)."""

    def statistic(sums: Floats, n: int) -> Mapping[str, Floats]:
        hits, given, right = (sums[:, part * n_labels : (part + 1) * n_labels] for part in range(3))
        values = averages(hits, given, right)
        return {
            "f1": values["micro_f1"],
            "precision": values["micro_precision"],
            "recall": values["micro_recall"],
            "macro_f1": values["macro_f1"],
        }

    return statistic


def tag_scores(
    gold: Sequence[tuple[Span, ...]], predictions: Sequence[Prediction], labels: Sequence[str], intervals: bool = True
) -> dict[str, Score]:
    """Return f1, precision and recall over all entities, and macro_f1 over the labels that occur.

    An entity counts only with the right first and last character and the right label. `n` of recall is the gold
    entities, of precision the predicted ones, of the others the gold ones. Intervals come from resampling rows, since
    entities of one text are not independent.

    Args:
        gold: the right spans of each row.
        predictions: one a row.
        labels: the model's labels.
        intervals: measure intervals; without them low and high equal the value.

    Raises:
        ValueError: there are not as many predictions as gold rows.
    """
    names = tag_labels(gold, predictions, labels)
    rows = Rows.group(tag_counts(gold, predictions, names))
    found = bootstrap(rows, tag_statistic(len(names)), resamples=RESAMPLES if intervals else 0)
    _, given, right = rows.total()[0].reshape(3, len(names)).sum(axis=1).astype(np.int64)
    scores: dict[str, Score] = {}
    for name in ("f1", "precision", "recall", "macro_f1"):
        n = int(given if name == "precision" else right)
        value = float(found[name].value)
        if not intervals:
            scores[name] = Score(value, value, value, n)
        else:
            scores[name] = found[name].score(n) if n else Score(value, 0.0, 1.0, 0)
    return scores


def tag_per_label(
    gold: Sequence[tuple[Span, ...]], predictions: Sequence[Prediction], labels: Sequence[str], intervals: bool = True
) -> dict[str, dict[str, Score]]:
    """Return label -> precision, recall, f1 and support (the gold entities, as a Score without width)."""
    names = tag_labels(gold, predictions, labels)
    return label_table(names, Rows.group(tag_counts(gold, predictions, names)), intervals)


def overlaps(gold: Sequence[Iterable[Span]], predictions: Sequence[Prediction]) -> Overlaps:
    """Return how entities were missed or made up: label or edges wrong, untouched, or without any gold beneath."""
    found: Counter[str] = Counter()
    for right, prediction in zip(gold, predictions, strict=True):
        wanted, answers = list(right), list(prediction.spans)
        for span in wanted:
            found[_fate(span, answers)] += 1
        found["made_up"] += sum(not any(_touch(span, other) for other in wanted) for span in answers)
    return Overlaps(**{name: found[name] for name in Overlaps.__dataclass_fields__})


def _fate(span: Span, answers: Sequence[Span]) -> str:
    touching = [other for other in answers if _touch(span, other)]
    same_edges = [other.label == span.label for other in touching if (other.start, other.end) == (span.start, span.end)]
    if same_edges:
        return "exact" if any(same_edges) else "wrong_label"
    if touching:
        return "wrong_edges" if any(other.label == span.label for other in touching) else "wrong_both"
    return "missed"


def _touch(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end
