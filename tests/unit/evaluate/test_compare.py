"""Two models on the same rows."""

from __future__ import annotations

from typing import Any

import pytest

from luban.evaluate.compare import compare
from luban.evaluate.measure import Measure
from luban.records import Prediction

from .conftest import LABELS


def test_a_better_model_is_told_from_a_worse_one(rows: dict[str, Any]) -> None:
    measure = Measure("classify", LABELS)
    found = compare(measure, rows["gold"], rows["predictions"], rows["baselines"]["majority"])
    value = found.differences["accuracy"]
    assert value.is_clear
    assert value.value == pytest.approx((found.only_one - found.only_other) / 300)
    assert found.p < 1e-6
    turned = compare(measure, rows["gold"], rows["baselines"]["majority"], rows["predictions"])
    assert turned.differences["macro_f1"].value == pytest.approx(-found.differences["macro_f1"].value)


def test_a_model_equals_itself(entity_rows: dict[str, Any]) -> None:
    measure = Measure("tag", ("人", "地"))
    found = compare(measure, entity_rows["gold"], entity_rows["predictions"], entity_rows["predictions"])
    assert (found.only_one, found.only_other, found.p) == (0, 0, 1.0)
    assert all(not difference.is_clear for difference in found.differences.values())


def test_labels_that_only_one_model_gives_do_not_shift_the_other() -> None:
    gold = [("card",), ("loan",)]
    one = [Prediction(("card",)), Prediction(("something else",))]
    other = [Prediction(("card",)), Prediction(("loan",))]
    found = compare(Measure("classify", LABELS), gold, one, other)
    assert found.differences["accuracy"].value == -0.5


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="known are classify and tag"):
        Measure("rank", LABELS)
