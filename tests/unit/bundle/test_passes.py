"""Which windows run together: every one once, within the budget, at the least cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.bundle.passes import cheapest, first_alike
from luban.records import Encoded

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)


def cost(found: list[np.ndarray], lengths: np.ndarray, begin_tokens: int) -> int:
    return sum(begin_tokens + len(windows) * int(lengths[windows].max()) for windows in found)


def encoded(*windows: list[int]) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum([len(window) for window in windows])]).astype(np.int64)
    ids = np.array([token for window in windows for token in window], np.int32)
    return Encoded(ids, offsets, np.arange(len(windows)), len(windows))


@given(LENGTHS, st.integers(1, 200), st.integers(0, 20))
@settings(deadline=None)
def test_every_window_runs_once_within_the_budget(lengths: np.ndarray, pass_tokens: int, begin_tokens: int) -> None:
    found = cheapest(np.arange(len(lengths)), lengths, pass_tokens=pass_tokens, begin_tokens=begin_tokens)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert all(len(windows) == 1 or len(windows) * lengths[windows].max() <= pass_tokens for windows in found)
    longest = [int(lengths[windows].max()) for windows in found]
    assert longest == sorted(longest)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7).map(np.array), st.integers(0, 20))
@settings(deadline=None)
def test_no_other_cut_by_length_costs_less(lengths: np.ndarray, begin_tokens: int) -> None:
    ordered = np.argsort(lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[ordered])) + 1
    others = [
        np.split(ordered, chosen) for n in range(len(edges) + 1) for chosen in itertools.combinations(edges.tolist(), n)
    ]
    least = min(cost(list(other), lengths, begin_tokens) for other in others)
    found = cheapest(np.arange(len(lengths)), lengths, pass_tokens=10_000, begin_tokens=begin_tokens)
    assert cost(found, lengths, begin_tokens) == least


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([10, 10, 10, 11], [[0, 1, 2, 3]]),  # three tokens of padding cost less than a run
        ([10] * 9 + [11], [[*range(9)], [9]]),  # nine cost more
        ([5, 50], [[0], [1]]),
        ([100] * 5, [[0, 1], [2, 3], [4]]),
        ([], []),
    ],
)
def test_passes_are_those_that_cost_least(lengths: list[int], wanted: list[list[int]]) -> None:
    found = cheapest(np.arange(len(lengths)), np.array(lengths, np.int64), pass_tokens=256, begin_tokens=8)
    assert sorted(windows.tolist() for windows in found) == wanted


def test_the_windows_asked_for_and_no_others() -> None:
    lengths = np.array([3, 9, 3, 9, 4])
    found = cheapest(np.array([1, 3]), lengths, pass_tokens=100, begin_tokens=8)
    assert [windows.tolist() for windows in found] == [[1, 3]]


def test_windows_with_the_same_tokens_are_found() -> None:
    rows = encoded([2, 7, 3], [2, 3], [2, 7, 3], [2, 7, 4], [2, 3], [])
    assert first_alike(rows).tolist() == [0, 1, 0, 3, 1, 5]
    assert first_alike(encoded()).tolist() == []
