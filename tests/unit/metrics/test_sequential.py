"""Evidence that may be looked at after every observation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luban.metrics.sequential import at_least, evidence, evidence_of_more

RUNS, STEPS, ALPHA = 1000, 400, 0.05


def ever_sure(chance: np.ndarray, at_most: float) -> float:
    """Return the share of runs in which the evidence was enough at any of the moments."""
    sums = chance.cumsum(axis=1)
    looked = range(1, STEPS + 1, 4)
    known: dict[tuple[int, int], float] = {}

    def found(events: int, trials: int) -> float:
        if (events, trials) not in known:
            known[events, trials] = evidence(events, trials, at_most)
        return known[events, trials]

    wanted = math.log(1 / ALPHA)
    return float(np.mean([any(found(int(run[n - 1]), n) >= wanted for n in looked) for run in sums]))


@pytest.mark.parametrize("at_most", [0.01, 0.1, 0.5])
def test_looking_all_the_time_raises_no_more_alarms_than_promised(at_most: float) -> None:
    chance = np.random.default_rng(1).random((RUNS, STEPS)) < at_most
    assert ever_sure(chance, at_most) <= ALPHA


def test_a_test_that_may_be_looked_at_once_would_raise_more() -> None:
    """The usual one-sided test at 5% is wrong several times as often, when it is looked at as often."""
    sums = (np.random.default_rng(1).random((RUNS, STEPS)) < 0.1).cumsum(axis=1)
    n = np.arange(1, STEPS + 1)
    z = (sums - 0.1 * n) / np.sqrt(0.09 * n)
    assert float(np.mean((z[:, 20:] > 1.645).any(axis=1))) > 3 * ALPHA


def test_what_is_worse_is_found_soon() -> None:
    chance = np.random.default_rng(2).random((RUNS, STEPS)) < 0.3
    assert ever_sure(chance, 0.1) > 0.999


def test_a_hiccup_of_the_machine_accuses_neither_group() -> None:
    """Everything fails for a while, and much more than before: each group fails by its share of the traffic."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(RUNS):
        ours = rng.binomial(300, 0.05)
        alarms += evidence_of_more(int(ours), int(300 - ours), 0.05, 1.0) >= math.log(1 / ALPHA)
    assert alarms / RUNS <= ALPHA


def test_few_failures_of_a_small_group_are_enough_where_the_large_one_has_none() -> None:
    assert evidence_of_more(5, 0, 0.05, 2.0) > math.log(1000)
    assert evidence_of_more(5, 95, 0.05, 2.0) < 0
    assert evidence_of_more(0, 0, 0.05, 2.0) == 0


def test_the_lower_end_is_below_what_was_seen_and_near_it_at_last() -> None:
    assert at_least(0, 100) == 0.0
    assert at_least(10, 100) < 0.1
    assert 0.27 < at_least(3000, 10000) < 0.3
    assert at_least(5, 5) < 1.0
