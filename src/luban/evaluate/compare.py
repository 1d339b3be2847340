"""Two models on the same rows: which is better, and could it be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luban.evaluate.measure import Gold, Measure
from luban.metrics.interval import Difference, mcnemar, paired
from luban.records import Prediction


@dataclass(frozen=True)
class Comparison:
    """One model against another, on the same rows."""

    differences: Mapping[str, Difference]
    """Score -> the one model's minus the other's, from resampling rows for both at once."""
    only_one: int
    """Rows that only the one model has wholly right."""
    only_other: int
    """Rows that only the other has wholly right."""
    p: float
    """McNemar's exact test on those rows: how likely so uneven a division is between equal models."""

    def to_json(self) -> dict[str, Any]:
        """Return the form in which it stands in report.json."""
        return {
            "differences": {name: found.to_json() for name, found in self.differences.items()},
            "only_one": self.only_one,
            "only_other": self.only_other,
            "p": self.p,
        }


def compare(measure: Measure, gold: Gold, one: Sequence[Prediction], other: Sequence[Prediction]) -> Comparison:
    """Compare two sets of predictions for the same rows.

    Args:
        measure: how the task is scored.
        gold: what is right for each row.
        one: the one model's predictions.
        other: the other's.

    Raises:
        ValueError: there are not as many predictions as gold rows.
    """
    (left, right), statistic = measure.counts(gold, one, other)
    hits, others = measure.hits(gold, one), measure.hits(gold, other)
    only_one, only_other = int(np.sum(hits & ~others)), int(np.sum(others & ~hits))
    return Comparison(paired(left, right, statistic), only_one, only_other, mcnemar(only_one, only_other))
