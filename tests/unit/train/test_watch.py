"""When a loss counts as gone wrong, and when it is only noisy."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from luban.train.watch import FIRST_STEPS, LossWatch


def told(losses: Iterable[float], watch: LossWatch | None = None) -> tuple[int, str]:
    """Return after how many losses something was wrong, and what; -1 and nothing where nothing was."""
    watch = watch or LossWatch(None)
    for number, loss in enumerate(losses):
        if wrong := watch.wrong(loss, 1.0):
            return number, wrong
    return -1, ""


@pytest.mark.parametrize(("start", "later"), [(4.3, 40.0), (0.6, 12.0), (0.01, 12.0)])
def test_a_loss_that_stays_high_has_exploded(start: float, later: float) -> None:
    at, wrong = told([*[start] * FIRST_STEPS, *[later] * 10])
    assert at > FIRST_STEPS and "has risen" in wrong and f"from {start:.3g}" in wrong


@pytest.mark.parametrize("start", [0.0, 0.13, 0.5])
def test_single_batches_that_go_wrong_are_noise(start: float) -> None:
    assert told([*[start] * FIRST_STEPS, *([2.1, 0.1, 0.1, 7.0, 0.1, 0.1, 0.1] * 20)]) == (-1, "")


def test_after_going_back_the_same_batch_does_not_decide_alone() -> None:
    watch = LossWatch(1.5)
    assert told([9.0, 1.5, 1.5], watch) == (-1, "")
    at, wrong = told([9.0] * 20, watch)
    assert at > 0 and "has risen" in wrong


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_no_number_is_wrong_at_once(loss: float, grad_norm: float) -> None:
    assert LossWatch(None).wrong(loss, grad_norm)
