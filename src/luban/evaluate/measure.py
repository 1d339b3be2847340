"""What each task counts, so that the rest of this room need not know tasks apart.

Legend: N rows, K labels, D counts a row, A answers (a row's label; one row and label; one entity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luban.metrics.classify import Answers, classify_per_label, classify_scores, classify_statistic, probabilities
from luban.metrics.interval import Floats, Statistic
from luban.metrics.tag import tag_counts, tag_labels, tag_per_label, tag_scores, tag_statistic
from luban.records import Prediction, Score

Gold = Sequence[Sequence[Any]]
"""A tuple of labels a row, or a tuple of Spans a row."""


@dataclass(frozen=True)
class Measure:
    """How the predictions of one task are scored."""

    task: str
    """`classify` or `tag`."""
    labels: tuple[str, ...]
    multi_label: bool = False

    def __post_init__(self) -> None:
        if self.task not in ("classify", "tag"):
            raise ValueError(f"a report on task {self.task!r}: known are classify and tag")

    @property
    def main(self) -> str:
        """The score that stands first in the report."""
        if self.task == "tag":
            return "f1"
        return "micro_f1" if self.multi_label else "accuracy"

    @property
    def answers_rows(self) -> bool:
        """Each row has exactly one right answer."""
        return self.task == "classify" and not self.multi_label

    def scores(self, gold: Gold, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return the scores with intervals, the main one first."""
        found = (
            tag_scores(_tuples(gold), predictions, self.labels)
            if self.task == "tag"
            else classify_scores(_tuples(gold), predictions, self.labels, self.multi_label)
        )
        return {self.main: found[self.main]} | found

    def per_label(self, gold: Gold, predictions: Sequence[Prediction]) -> dict[str, dict[str, Score]]:
        """Return label -> precision, recall, f1, support."""
        if self.task == "tag":
            return tag_per_label(_tuples(gold), predictions, self.labels)
        return classify_per_label(_tuples(gold), predictions, self.labels, self.multi_label)

    def counts(self, gold: Gold, *predictions: Sequence[Prediction]) -> tuple[list[NDArray[Any]], Statistic]:
        """Return (N, D) counts for each model's predictions, and the function from their sums to scores.

        The labels are those of gold and of all models, so that the counts of two models are comparable.
        """
        names = self.labels
        if self.task == "tag":
            for answers in predictions:
                names = tag_labels(gold, answers, names)
            return [tag_counts(gold, answers, names) for answers in predictions], tag_statistic(len(names))
        for answers in predictions:
            names = Answers.collect(gold, answers, names, self.multi_label, ranked=False).labels
        collected = [
            Answers.collect(gold, answers, names, self.multi_label, ranked=False).counts() for answers in predictions
        ]
        return collected, classify_statistic(len(names), self.multi_label)

    def main_counts(self, gold: Gold, predictions: Sequence[Prediction]) -> tuple[NDArray[Any], Statistic]:
        """Return the few counts (N, D) that the main score needs, and the function from their sums to it."""
        (counts,), _ = self.counts(gold, predictions)
        if self.answers_rows:
            return counts[:, -1:], lambda sums, n: {self.main: sums[:, 0] / max(n, 1)}
        n_labels = counts.shape[1] // 3
        parts = counts[:, : 3 * n_labels].reshape(len(counts), 3, n_labels).sum(axis=2, dtype=np.int32)
        return parts, self._f1

    def _f1(self, sums: Floats, n: int) -> Mapping[str, Floats]:
        below = sums[:, 1] + sums[:, 2]
        return {self.main: np.divide(2 * sums[:, 0], below, out=np.zeros(len(sums)), where=below > 0)}

    def hits(self, gold: Gold, predictions: Sequence[Prediction]) -> NDArray[np.bool_]:
        """Return (N,) rows that are wholly right."""
        if self.task == "tag":
            return np.array(
                [
                    {(span.start, span.end, span.label) for span in right}
                    == {(span.start, span.end, span.label) for span in answer.spans}
                    for right, answer in zip(gold, predictions, strict=True)
                ],
                np.bool_,
            )
        return Answers.collect(gold, predictions, self.labels, self.multi_label, ranked=False).hits

    def confidence(
        self, gold: Gold, predictions: Sequence[Prediction]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
        """Return (A,) how probable each answer was said to be, and whether it is right; None where nothing was said.

        Answers are the best label of each row (given or held back), each label of each row, or each entity given.
        """
        if self.task == "tag":
            given = [
                (
                    span.score,
                    any((span.start, span.end, span.label) == (one.start, one.end, one.label) for one in right),
                )
                for right, answer in zip(gold, predictions, strict=True)
                for span in answer.spans
            ]
            if not given:
                return None
            return np.array([score for score, _ in given]), np.array([right for _, right in given], np.bool_)
        shares = probabilities(predictions, self.labels)
        if shares is None:
            return None
        answers = Answers.collect(gold, predictions, self.labels, self.multi_label, ranked=False)
        own = answers.gold[:, : len(self.labels)]
        if self.multi_label:
            return shares.ravel(), own.ravel()
        best = shares.argmax(axis=1)
        rows = np.arange(len(best))
        return shares[rows, best], own[rows, best]


def _tuples(gold: Gold) -> Sequence[tuple[Any, ...]]:
    return [row if isinstance(row, tuple) else tuple(row) for row in gold]
