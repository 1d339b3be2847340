"""Choosing among measured points: the frontier, budgets, and which plans go deeper than others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from luban.compress.ladder import Shape, ladder, windows
from luban.compress.search import Budget, Point, choose, deeper, frontier
from luban.errors import BelowGate
from luban.metrics.interval import Difference
from luban.project.schema import Plugin
from luban.records import Score


def point(size_mb: float, latency_ms: float, score: float, *plan: Plugin) -> Point:
    return Point(
        plan, size_mb, latency_ms, latency_ms * 2, 100.0, Score(score, score - 0.01, score + 0.01, 1000),
        Difference(0.9 - score, 0.88 - score, 0.92 - score, 0.5, 1000),
    )  # fmt: skip


def step(kind: str, **options: Any) -> Plugin:
    return Plugin(kind=kind, options=options)


QUANTISE = step("quantise")
WHOLE = point(90, 5.0, 0.9)


def test_the_frontier_holds_what_nothing_beats_in_everything() -> None:
    small, fast, bad = point(10, 4.0, 0.89), point(20, 2.0, 0.89), point(20, 4.0, 0.88)
    assert frontier([WHOLE, fast, bad, small]) == [small, fast, WHOLE]


def test_equal_points_stay_both() -> None:
    one, other = point(10, 4.0, 0.89, step("layers", keep=3)), point(10, 4.0, 0.89, step("prune"))
    assert frontier([one, other]) == [one, other]


def test_of_what_keeps_the_budget_the_smallest_and_fastest_is_chosen() -> None:
    good, better, lossy = (point(*costs, QUANTISE) for costs in ((20, 3.0, 0.897), (11, 3.0, 0.896), (5, 1.0, 0.88)))
    assert choose([WHOLE, good, better, lossy], Budget(size_mb=25, latency_ms=4)) is better


def test_a_budget_that_nothing_keeps_names_the_nearest() -> None:
    near = point(13, 3.0, 0.897, step("vocabulary"), step("quantise", bits=4))
    with pytest.raises(BelowGate, match=r"nearest, vocabulary, quantise bits=4, takes 13 MB, allowed is 12") as caught:
        choose([WHOLE, near, point(5, 1.0, 0.8, QUANTISE)], Budget(size_mb=12, latency_ms=10))
    assert caught.value.measured == pytest.approx(13 / 12)


def test_with_no_loss_allowed_only_what_loses_nothing_is_taken() -> None:
    same, small = point(20, 3.0, 0.9, QUANTISE), point(5, 1.0, 0.8999, QUANTISE)
    assert choose([WHOLE, same, small], Budget(lose=0.0)) is same


def test_the_uncompressed_model_is_no_choice() -> None:
    with pytest.raises(BelowGate, match="no plan was measured"):
        choose([WHOLE], Budget())
    with pytest.raises(BelowGate, match=r"the plan quantise loses 10 points on validation rows, allowed is 0.5"):
        choose([WHOLE, point(5, 1.0, 0.8, QUANTISE)], Budget(), own=True)


@pytest.mark.parametrize(
    ("plan", "than", "is_deeper"),
    [
        ([step("layers", keep=2), step("quantise", bits=8)], [step("layers", keep=3), step("quantise", bits=8)], True),
        ([step("layers", keep=4), step("quantise", bits=8)], [step("layers", keep=3), step("quantise", bits=8)], False),
        ([step("layers", keep=3), step("quantise", bits=8)], [step("layers", keep=3), step("quantise", bits=8)], False),
        ([step("prune", width=0.5), step("layers", keep=3)], [step("layers", keep=3)], True),
        ([step("quantise", how="weights", bits=4)], [step("quantise", how="dynamic", bits=8)], False),
        ([step("quantise", bits=8)], [step("layers", keep=3), step("quantise", bits=8)], False),
    ],
)
def test_deeper(plan: list[Plugin], than: list[Plugin], is_deeper: bool) -> None:
    assert deeper(plan, than) is is_deeper


def test_the_ladder_begins_with_what_is_only_converted_and_has_no_plan_twice() -> None:
    plans = ladder(Shape(n_layers=6))
    assert [step.kind for step in plans[0]] == ["quantise"]
    assert len({str(plan) for plan in plans}) == len(plans)
    kept = {step.options["keep"] for plan in plans for step in plan if step.kind == "layers"}
    assert kept == {4, 3, 2}


def test_a_model_of_one_layer_loses_none_and_one_without_words_no_vocabulary() -> None:
    kinds = {step.kind for plan in ladder(Shape(n_layers=1, has_vocabulary=False)) for step in plan}
    assert kinds == {"quantise", "prune"}


def test_shorter_windows_are_tried_where_texts_are_long() -> None:
    long, short = np.array([512] * 60 + [40] * 40), np.array([512] + [12] * 999)
    assert windows(long) == (256, 128)
    assert windows(short) == windows(np.zeros(0, np.int64)) == ()
    plans = ladder(Shape(n_layers=6, windows=windows(long)))
    tried = [step.options["tokens"] for plan in plans for step in plan if step.kind == "window"]
    assert tried == [256, 256, 128, 128]
    assert not [step for plan in ladder(Shape(n_layers=6)) for step in plan if step.kind == "window"]


def test_nothing_is_over_an_empty_budget() -> None:
    assert Budget(lose=0.01).excess(WHOLE) == 0.0
    assert math.isinf(Budget(lose=0.0).excess(point(5, 1.0, 0.8)))
