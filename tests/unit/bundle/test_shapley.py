"""Shapley values: exact where all combinations are asked for, and fair where they are not."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.bundle.shapley import company, share


def shares(game: dict[tuple[bool, ...], float], n: int, n_rows: int) -> np.ndarray:
    masks, weights = company(n, n_rows)
    values = np.array([[game[tuple(mask)]] for mask in masks.tolist()]).reshape(-1, 1)
    empty, whole = np.array([game[(False,) * n]]), np.array([game[(True,) * n]])
    return share(masks, weights, values, empty, whole)[:, 0]


def games(n: int, rng: np.random.Generator) -> dict[tuple[bool, ...], float]:
    return {tuple(bool(number >> part & 1) for part in range(n)): float(rng.normal()) for number in range(1 << n)}


@given(n=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_with_all_combinations_they_are_what_shapley_defined(n: int, seed: int) -> None:
    game = games(n, np.random.default_rng(seed))
    wanted = np.zeros(n)
    for order in permutations(range(n)):
        there = [False] * n
        for part in order:
            before = game[tuple(there)]
            there[part] = True
            wanted[part] += (game[tuple(there)] - before) / factorial(n)
    assert shares(game, n, 1 << n) == pytest.approx(wanted, abs=1e-6)


@given(n=st.integers(1, 10), n_rows=st.integers(0, 200), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_they_always_add_up(n: int, n_rows: int, seed: int) -> None:
    game = games(n, np.random.default_rng(seed))
    assert shares(game, n, n_rows).sum() == pytest.approx(game[(True,) * n] - game[(False,) * n], abs=1e-6)


def test_what_each_adds_alone_is_found_out_of_few_combinations() -> None:
    adds = np.random.default_rng(3).normal(size=(30, 2))
    masks, weights = company(30, 100)
    found = share(masks, weights, 0.5 + masks @ adds, np.full(2, 0.5), 0.5 + adds.sum(0))
    assert found == pytest.approx(adds, abs=1e-6)


@given(n=st.integers(1, 60), n_rows=st.integers(0, 300))
@settings(deadline=None)
def test_no_more_is_asked_than_may_be_and_each_with_its_opposite(n: int, n_rows: int) -> None:
    masks, weights = company(n, n_rows)
    rows = {tuple(mask) for mask in masks.tolist()}
    assert len(masks) == len(weights) <= n_rows and (weights > 0).all()
    assert all(tuple(not part for part in mask) in rows for mask in rows)
    assert (True,) * n not in rows and (False,) * n not in rows
    if n_rows >= 2 * n > 2:
        assert all(tuple(part == one for part in range(n)) in rows for one in range(n))


def test_the_same_is_asked_each_time() -> None:
    assert (company(20, 100)[0] == company(20, 100)[0]).all()
