"""Weights of labels: rare ones count more, and all rows together as much as before."""

from __future__ import annotations

import numpy as np
import pytest

from luban.records import Encoded
from luban.tasks import make
from luban.train.weights import class_weights


def rows(targets: np.ndarray, units: np.ndarray | None = None) -> Encoded:
    """Return windows of one token with these targets."""
    n = len(targets)
    return Encoded(np.ones(n, np.int32), np.arange(n + 1), np.arange(n), n, targets=targets, units=units)


@pytest.mark.parametrize(("how", "ratio"), [("balanced", 9.0), ("sqrt", 3.0)])
def test_rare_labels_count_more(how: str, ratio: float) -> None:
    targets = np.array([0] * 90 + [1] * 10)
    weights = class_weights(rows(targets), make("classify", {}, ["common", "rare"]), how)
    assert weights is not None
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert weights[targets].mean() == pytest.approx(1.0)


def test_none_weighs_nothing() -> None:
    assert class_weights(rows(np.array([0, 1])), make("classify", {}, ["a", "b"]), "none") is None


def test_of_several_labels_each_is_weighed_against_its_absence() -> None:
    targets = np.zeros((100, 2), np.float32)
    targets[:10, 0], targets[:50, 1] = 1, 1
    weights = class_weights(rows(targets), make("classify", {"multi_label": True}, ["rare", "half"]), "balanced")
    assert weights is not None
    assert weights == pytest.approx([91 / 11, 1.0])


def test_of_tokens_those_count_at_which_units_begin() -> None:
    task = make("tag", {}, ["x"])
    targets = np.array([0, 0, 0, 1, 1, 2])
    units = np.array([0, 1, 2, 3, -1, 4])
    weights = class_weights(rows(targets, units), task, "balanced")
    assert weights is not None
    assert weights[1] / weights[0] == pytest.approx(3.0)
