"""Slices find where a model is worse, and nothing where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luban.evaluate.measure import Measure
from luban.evaluate.slices import LEAST, script, slices
from luban.records import Prediction

from .conftest import LABELS, classify_table


def test_the_column_that_hides_the_mistakes_is_found(rows: dict[str, Any]) -> None:
    found = slices(Measure("classify", LABELS), rows["gold"], rows["predictions"], rows["table"])
    below = [(part.by, part.value) for part in found if part.is_below]
    assert below == [("channel", "phone")]
    phone = next(part for part in found if part.value == "phone")
    assert phone.score.n == 100
    assert phone.score.low <= phone.score.value <= phone.score.high
    assert phone.score.value < phone.rest
    assert {part.by for part in found} == {"length", "script", "channel"}
    assert {part.value for part in found if part.by == "script"} == {"han", "latin"}


def test_slices_of_a_model_that_is_the_same_everywhere_are_seldom_marked() -> None:
    rng = np.random.default_rng(3)
    marked = 0
    for _ in range(40):
        right = rng.random(400) < 0.8
        gold = [("card",)] * 400
        predictions = [Prediction(("card" if hit else "loan",)) for hit in right]
        table = classify_table(gold, ["text"] * 400, source=[f"s{number % 10}" for number in range(400)])
        marked += any(part.is_below for part in slices(Measure("classify", LABELS), gold, predictions, table))
    assert marked <= 6


def test_few_rows_give_no_slices() -> None:
    gold = [("card",)] * (2 * LEAST - 1)
    table = classify_table(gold, ["a" * number for number in range(len(gold))])
    assert slices(Measure("classify", LABELS), gold, [Prediction(("card",))] * len(gold), table) == []


def test_columns_with_many_values_are_used_only_when_asked_for() -> None:
    gold = [("card",)] * 200
    table = classify_table(gold, ["text"] * 200, age=list(range(200)), empty=[None] * 200)
    table = table.append_column("meta.names", pa.array([["a"]] * 200))
    measure, predictions = Measure("classify", LABELS), [Prediction(("card",))] * 200
    assert {part.by for part in slices(measure, gold, predictions, table)} == set()
    asked = slices(measure, gold, predictions, table, ["age", "not there"])
    assert [part.value for part in asked] == ["0-49", "50-99", "100-149", "150-199"]


def test_entities_and_several_labels_have_slices_too(entity_rows: dict[str, Any]) -> None:
    table = entity_rows["table"].append_column("meta.part", pa.array(["a" if n % 3 else "b" for n in range(60)]))
    found = slices(Measure("tag", ("人", "地")), entity_rows["gold"], entity_rows["predictions"], table)
    assert [(part.value, part.is_below) for part in found if part.by == "part"] == [("a", False), ("b", True)]
    gold = [("card", "loan")] * 60
    predictions = [Prediction(("card",)) if n % 3 == 0 else Prediction(("card", "loan")) for n in range(60)]
    found = slices(Measure("classify", LABELS, multi_label=True), gold, predictions, table.drop_columns(["tokens"]))
    assert [(part.value, part.is_below) for part in found if part.by == "part"] == [("a", False), ("b", True)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("我的卡", "han"),
        ("my card", "latin"),
        ("naïve façade", "latin"),
        ("カードはどこ漢字", "kana"),
        ("내 카드", "hangul"),
        ("моя карта", "cyrillic"),
        ("بطاقتي", "arabic"),
        ("123 !?", "none"),
        ("", "none"),
        ("打开wifi", "han+latin"),
        ("这个 app 怎么一直打不开呀真是的", "han"),
    ],
)
def test_scripts(text: str, name: str) -> None:
    assert script(text) == name
