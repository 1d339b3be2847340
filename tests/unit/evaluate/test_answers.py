"""Answers that travel in a bundle: small, without a text, and as good to compare with as the predictions themselves."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luban.evaluate.answers import by_slice, compared, pack, unpack
from luban.evaluate.compare import compare
from luban.evaluate.measure import Measure
from luban.records import Prediction, Span

N = 200


def scene(task: str, multi_label: bool, seed: int) -> tuple[Measure, list[Any], list[Prediction], pa.Table]:
    same, chance = random.Random(0), random.Random(seed)
    labels = ("a", "乙", "c")
    measure = Measure(task, labels, multi_label)
    gold: list[Any] = []
    answers = []
    for _ in range(N):
        if task == "tag":
            gold.append(tuple(Span(at, at + 2, same.choice(labels)) for at in range(0, same.randrange(12), 4)))
            answers.append(Prediction(spans=tuple(one for one in gold[-1] if chance.random() < 0.8)))
        else:
            right = tuple(same.sample(labels, same.randrange(3) if multi_label else 1))
            gold.append(right)
            wrong = tuple(chance.sample(labels, chance.randrange(2)))
            answers.append(Prediction(labels=right if chance.random() < 0.8 else wrong))
    table = pa.table({"text": [f"text {row}" for row in range(N)], "meta.shop": ["x", "y"] * (N // 2)})
    return measure, gold, answers, table


@pytest.mark.parametrize(("task", "multi_label"), [("classify", False), ("classify", True), ("tag", False)])
def test_they_compare_as_the_predictions_do(task: str, multi_label: bool) -> None:
    measure, gold, one, table = scene(task, multi_label, 1)
    *_, other, _ = scene(task, multi_label, 2)
    packed = [json.loads(json.dumps(pack(measure, gold, answers, table))) for answers in (one, other)]
    left, right = map(unpack, packed)
    assert compared(left, right) == compare(measure, gold, one, other)
    slices = by_slice(left, right)
    shops = [one for one in slices if one.by == "shop"]
    assert [one.value for one in shops] == ["x", "y"] and {one.difference.n for one in shops} == {N // 2}
    whole = compare(measure, gold[::2], one[::2], other[::2]).differences[measure.main]
    assert shops[0].difference.value == pytest.approx(whole.value)


def test_they_hold_no_text_and_are_small() -> None:
    measure, gold, answers, table = scene("classify", False, 1)
    packed = json.dumps(pack(measure, gold, answers, table), separators=(",", ":"))
    assert "text 1" not in packed
    assert len(packed) < 600 + 16 * N


def test_other_rows_are_not_compared() -> None:
    measure, gold, answers, table = scene("classify", False, 1)
    one = unpack(pack(measure, gold, answers, table))
    renamed = table.set_column(0, "text", pa.array([f"other {row}" for row in range(N)]))
    other = unpack(pack(measure, gold, answers, renamed))
    assert compared(one, other) is None and by_slice(one, other) == []
    relabelled = unpack(pack(measure, [("a",), *gold[1:]], answers, table))
    assert (compared(one, relabelled) is None) == (gold[0] != ("a",))


def test_what_is_no_answers_is_told() -> None:
    for wrong in ({}, {"format": 9}, {"format": 1, "labels": 3}):
        with pytest.raises(ValueError):
            unpack(wrong)


def test_rare_values_are_not_named() -> None:
    measure, gold, answers, table = scene("classify", False, 1)
    shops = ["Ms Li"] + ["x"] * (N - 1)
    packed = pack(measure, gold, answers, table.set_column(1, "meta.shop", pa.array(shops)))
    assert "Ms Li" not in json.dumps(packed)
    assert np.count_nonzero(np.array(packed["slices"]["shop"]["of"]) == -1) == 1
