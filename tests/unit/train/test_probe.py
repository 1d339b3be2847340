"""The linear probe: its penalty, its answers for rows it has not seen, and the weights a head starts from."""

from __future__ import annotations

import numpy as np
import pytest

from luban.train import probe

WIDTH, CLASSES = 8, 3


def clusters(n: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return n points around one corner a class, in features of very unlike sizes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, CLASSES, n)
    sizes = np.logspace(-2, 1, WIDTH)
    x = (np.eye(CLASSES, WIDTH)[targets] * 2 + rng.normal(0, spread, (n, WIDTH))) * sizes
    return x.astype(np.float32), targets


def right(logits: np.ndarray, targets: np.ndarray) -> float:
    return float((logits.argmax(1) == targets).mean())


def test_it_learns_what_can_be_told_apart_whatever_the_features_sizes() -> None:
    x, targets = clusters(300, 0.3)
    fresh, gold = clusters(300, 0.3, seed=1)
    assert right(probe.fit(x, targets, CLASSES, seed=0).logits(fresh), gold) > 0.95


def test_rows_are_judged_by_a_probe_that_has_not_seen_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 200)).astype(np.float32)  # more features than rows: any labels can be known by heart
    targets = rng.integers(0, 2, 60)
    assert right(probe.fit(x, targets, 2, seed=0, penalty=100.0).logits(x), targets) == 1.0
    assert right(probe.out_of_fold(x, targets, 2, seed=0, penalty=100.0), targets) < 0.75


def test_noise_asks_for_a_stronger_penalty() -> None:
    rng = np.random.default_rng(0)
    x, targets = clusters(200, 0.1)
    noise = rng.normal(size=(200, 100)).astype(np.float32)
    noisy = probe.fit(noise, rng.integers(0, CLASSES, 200), CLASSES, seed=0)
    assert noisy.penalty == probe.PENALTIES[0] < probe.fit(x, targets, CLASSES, seed=0).penalty


def test_a_head_starts_from_smaller_weights_that_answer_much_the_same() -> None:
    x, targets = clusters(2000, 0.3)
    best = probe.fit(x, targets, CLASSES, seed=0, penalty=1.0)
    start = probe.start(x, targets, CLASSES, seed=0, best=best)
    assert start.penalty == pytest.approx(probe.START_PENALTY / 2000)
    assert np.abs(start.weight).mean() < np.abs(best.weight).mean()
    assert right(start.logits(x), targets) > 0.95


def test_few_rows_start_from_the_best_probe_itself() -> None:
    x, targets = clusters(100, 0.3)
    best = probe.fit(x, targets, CLASSES, seed=0, penalty=0.3)
    assert probe.start(x, targets, CLASSES, seed=0, best=best) is best


def test_a_class_that_no_row_has_is_never_the_answer() -> None:
    x, targets = clusters(100, 0.3)
    logits = probe.fit(x, targets, CLASSES + 1, seed=0).logits(x)
    assert logits.shape == (100, CLASSES + 1)
    assert (logits.argmax(1) < CLASSES).all()


def test_one_class_alone_and_labels_that_all_or_no_rows_have() -> None:
    x, _ = clusters(20, 0.3)
    assert (probe.fit(x, np.ones(20, np.int64), CLASSES, seed=0).logits(x).argmax(1) == 1).all()
    both = probe.fit(x, np.tile([1.0, 0.0], (20, 1)), 2, seed=0).logits(x)
    assert (both[:, 0] > 0).all()
    assert (both[:, 1] < 0).all()
