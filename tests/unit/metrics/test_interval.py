"""Intervals: they cover what they should, and comparisons find what is there and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luban.metrics.interval import Rows, bootstrap, mcnemar, on_logit_scale, paired, wilson


def shares(sums: np.ndarray, n: int) -> dict[str, np.ndarray]:
    return {"share": sums[:, 0] / n}


def test_grouping_rows_loses_nothing() -> None:
    counts = np.random.default_rng(0).integers(0, 3, size=(200, 5)).astype(np.int32)
    rows = Rows.group(counts)
    np.testing.assert_array_equal(rows.kinds[rows.kind_of], counts)
    np.testing.assert_array_equal(rows.total()[0], counts.sum(axis=0))
    flags = counts > 1
    np.testing.assert_array_equal(Rows.group(flags).kinds[Rows.group(flags).kind_of], flags)


@pytest.mark.parametrize("distinct", [3, 400])
def test_resampled_sums_have_the_spread_of_resampled_rows(distinct: int) -> None:
    values = np.random.default_rng(0).integers(0, distinct, size=(400, 1))
    sums = np.concatenate(list(Rows.group(values).resampled(4000)))
    assert sums.shape == (4000, 1)
    assert sums.mean() == pytest.approx(values.sum(), rel=0.01)
    assert sums.std() == pytest.approx(values.std() * math.sqrt(400), rel=0.05)


def test_bootstrap_of_a_share_agrees_with_wilson() -> None:
    flags = np.random.default_rng(0).random((2_000, 1)) < 0.9
    found, exact = bootstrap(Rows.group(flags), shares)["share"], wilson(int(flags.sum()), 2_000)
    assert float(found.value) == exact.value
    assert float(found.low) == pytest.approx(exact.low, abs=0.003)
    assert float(found.high) == pytest.approx(exact.high, abs=0.003)


def test_wilson_covers_as_promised() -> None:
    rng = np.random.default_rng(8)
    scores = [wilson(int(hits), 150) for hits in rng.binomial(150, 0.97, 2_000)]
    inside = [score.low <= 0.97 <= score.high for score in scores]
    assert 0.92 < np.mean(inside) < 0.98


def test_wilson_at_its_ends() -> None:
    assert wilson(0, 0).to_json() == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    assert wilson(10, 10).high == 1.0
    assert wilson(10, 10).low == pytest.approx(0.7225, abs=1e-4)
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)


def test_the_logit_scale_keeps_intervals_inside() -> None:
    score = on_logit_scale(0.999, 0.002, 50)
    assert 0.9 < score.low < 0.999 < score.high < 1.0
    perfect = on_logit_scale(1.0, 0.0, 50)
    assert perfect.low < 0.95
    assert perfect.high == 1.0


def test_a_paired_comparison_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(1)
    one = rng.random((2_000, 1)) < 0.85
    other = one & (rng.random((2_000, 1)) > 0.01)
    apart = bootstrap(Rows.group(one), shares)["share"], bootstrap(Rows.group(other), shares)["share"]
    assert apart[0].low < apart[1].high, "the intervals overlap"
    difference = paired(one, other, shares)["share"]
    assert difference.is_clear
    assert difference.p < 0.01
    assert difference.value == pytest.approx(one.mean() - other.mean())
    assert paired(other, one, shares)["share"].value == pytest.approx(-difference.value)


def test_equal_models_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(2)
    found = [paired(*(rng.random((2, 300, 1)) < 0.8), shares, resamples=400)["share"].p for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.1


def test_a_model_does_not_differ_from_itself() -> None:
    rows = np.random.default_rng(2).random((50, 1)) < 0.8
    difference = paired(rows, rows, shares)["share"]
    assert (difference.value, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)
    assert not difference.is_clear


def test_two_models_on_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="on the same rows"):
        paired(np.ones((3, 1)), np.ones((4, 1)), shares)


@pytest.mark.parametrize(("one", "other", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (1, 9, 2 * 11 / 1024)])
def test_mcnemar_by_hand(one: int, other: int, p: float) -> None:
    assert mcnemar(one, other) == pytest.approx(p)
    assert mcnemar(other, one) == pytest.approx(p)
    assert 0.0 <= mcnemar(10_000, 20_000) < 1e-100
