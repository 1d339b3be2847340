"""The time of a batch is learned from batches."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.serve.pace import Pace


@pytest.mark.parametrize(("begin_s", "token_s"), [(2e-3, 5e-5), (1e-4, 1e-3), (1e-2, 1e-6)])
def test_a_machine_s_own_times_are_found(begin_s: float, token_s: float) -> None:
    pace, chance = Pace(), random.Random(1)
    for _ in range(400):
        tokens = chance.randint(5, 500)
        pace.add(tokens, (begin_s + token_s * tokens) * chance.uniform(0.9, 1.1))
    for tokens in (10, 100, 500):
        assert pace.seconds(tokens) == pytest.approx(begin_s + token_s * tokens, rel=0.3)


def test_a_slower_machine_is_noticed() -> None:
    pace = Pace()
    for factor in (1, 4):
        for number in range(300):
            tokens = 20 + number % 200
            pace.add(tokens, factor * (1e-3 + 1e-5 * tokens))
    assert pace.seconds(100) == pytest.approx(4 * 2e-3, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100)), max_size=60))
def test_whatever_is_measured_more_tokens_take_no_less_time(batches: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tokens, seconds in batches:
        pace.add(tokens, seconds)
    assert 0 <= pace.seconds(0) <= pace.seconds(10) <= pace.seconds(10_000) < float("inf")


def test_batches_of_one_size_leave_begin_and_token_in_proportion() -> None:
    pace = Pace()
    for _ in range(500):
        pace.add(100, 0.01)
    assert pace.seconds(100) == pytest.approx(0.01, rel=0.05)
