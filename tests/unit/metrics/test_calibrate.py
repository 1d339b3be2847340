"""Calibration: probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from luban.metrics.calibrate import (
    abstain_threshold,
    choose_thresholds,
    ece,
    ece_score,
    fit_temperature,
    reliability,
    sigmoid,
    softmax,
)


def drawn(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and targets drawn from exactly the probabilities that they stand for."""
    logits = rng.normal(scale=2.0, size=(n, k))
    targets = (softmax(logits).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits, targets


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_logits_is_found_again(temperature: float) -> None:
    logits, targets = drawn(np.random.default_rng(2), 20_000, 5)
    found = fit_temperature(logits * temperature, targets)
    assert found == pytest.approx(temperature, rel=0.03)
    confidence = softmax(logits * temperature, found).max(axis=1)
    assert ece(confidence, logits.argmax(axis=1) == targets) < 0.01


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_sigmoids_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(scale=2.0, size=(8_000, 4))
    targets = (rng.random(logits.shape) < sigmoid(logits)).astype(np.float32)
    assert fit_temperature(logits * temperature, targets, multi_label=True) == pytest.approx(temperature, rel=0.03)


def test_a_model_that_is_always_right_does_not_become_certain_of_everything() -> None:
    logits = np.tile(np.array([4.0, 0.0, 0.0]), (50, 1))
    found = fit_temperature(logits, np.zeros(50, np.int64))
    assert 0.9 < softmax(logits, found).max(axis=1)[0] < 0.999


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.ones((5, 1))])
def test_with_nothing_to_fit_the_temperature_is_one(logits: np.ndarray) -> None:
    assert fit_temperature(logits, np.zeros(len(logits), np.int64)) == 1.0


def test_huge_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert np.isfinite(softmax(logits)).all()
    assert np.isfinite(sigmoid(logits)).all()
    assert 0.05 <= fit_temperature(logits, np.array([0, 0])) <= 20.0


def test_calibration_error_by_hand() -> None:
    confidence, correct = np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, True])
    assert ece(confidence, correct, bins=10) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert ece(confidence, correct, bins=1) == pytest.approx(0.0)
    assert ece(confidence, correct, bins=2, kind="mass") == pytest.approx(0.4)
    assert ece(np.zeros(0), np.zeros(0, bool)) == 0.0


def test_the_interval_of_a_calibrated_model_reaches_down_towards_zero() -> None:
    logits, targets = drawn(np.random.default_rng(4), 2_000, 5)
    score = ece_score(softmax(logits).max(axis=1), logits.argmax(axis=1) == targets)
    assert score.low <= score.value <= score.high
    assert score.low < 0.012


def test_bins_hold_every_answer_once() -> None:
    confidence = np.array([0.0, 0.05, 0.1, 0.5, 0.55, 1.0])
    for kind in ("width", "mass"):
        bins = reliability(confidence, confidence > 0.5, bins=10, kind=kind)  # type: ignore[arg-type]
        assert sum(part.n for part in bins) == len(confidence)
        assert all(part.accuracy_low <= part.accuracy <= part.accuracy_high for part in bins)
    assert reliability(confidence, confidence > 0.5, bins=10)[0].n == 3


def test_thresholds_beat_one_half_on_rows_that_were_not_used_to_choose_them() -> None:
    rng = np.random.default_rng(7)
    gold = rng.random((4_000, 6)) < np.array([0.3, 0.2, 0.1, 0.05, 0.03, 0.01])
    probabilities = sigmoid(rng.normal(size=gold.shape) + 2.5 * gold - 3.0)
    thresholds = np.array(choose_thresholds(probabilities[:2_000], gold[:2_000]))

    def f1(given: np.ndarray) -> float:
        hits = (given & gold[2_000:]).sum(axis=0)
        return float((2 * hits / np.maximum(given.sum(axis=0) + gold[2_000:].sum(axis=0), 1)).mean())

    assert f1(probabilities[2_000:] >= thresholds) > f1(probabilities[2_000:] >= 0.5) + 0.05


def test_a_label_with_one_gold_row_leans_on_the_others() -> None:
    rng = np.random.default_rng(7)
    gold = np.zeros((500, 3), bool)
    gold[:, :2] = rng.random((500, 2)) < 0.3
    probabilities = sigmoid(rng.normal(size=gold.shape) + 4 * gold - 2)
    gold[0, 2] = True
    probabilities[0, 2] = 0.99
    alone = choose_thresholds(probabilities, gold, borrowed=0.0)
    leaning = choose_thresholds(probabilities, gold)
    assert alone[2] > 0.8
    assert abs(leaning[2] - np.mean(leaning[:2])) < 0.2


def test_without_gold_rows_thresholds_are_one_half() -> None:
    assert choose_thresholds(np.full((4, 2), 0.3), np.zeros((4, 2))) == (0.5, 0.5)


def test_answers_above_the_abstain_threshold_are_right_as_often_as_wanted() -> None:
    rng = np.random.default_rng(11)
    kept, broken = [], 0
    for _ in range(60):
        confidence = rng.uniform(0.3, 1.0, 3_000)
        correct = rng.random(3_000) < confidence
        threshold = abstain_threshold(confidence[:1_000], correct[:1_000], 0.9)
        kept.append(np.mean(confidence >= threshold))
        # The true precision above t is its mean confidence, by construction.
        broken += (threshold + 1) / 2 < 0.9
    assert np.mean(kept) > 0.16, "a promise kept by answering nothing is worth nothing"
    assert broken <= 6


def test_the_abstain_threshold_at_its_ends() -> None:
    confidence = np.linspace(0.5, 1.0, 200)
    assert abstain_threshold(confidence, np.ones(200, bool), 0.95) == 0.0
    assert abstain_threshold(confidence, np.zeros(200, bool), 0.95) == 1.0
    assert abstain_threshold(confidence, np.zeros(200, bool), 0.0) == 0.0
    assert abstain_threshold(np.zeros(0), np.zeros(0, bool), 0.9) == 1.0
    alike = np.full(200, 0.7)
    assert abstain_threshold(alike, np.arange(200) < 100, 0.9) == 1.0, "rows of one probability stay together"
