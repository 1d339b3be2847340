"""Batches: every window once an epoch, little padding, one order for one seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.models.windows import by_length, cut_to_budget, pad
from luban.records import Encoded
from luban.train.batching import plan_epoch

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300).map(np.array)


def padding_share(batches: list[np.ndarray], lengths: np.ndarray) -> float:
    """Return the share of padded tokens that batches would hold."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - float(lengths[np.concatenate(batches)].sum()) / padded if padded else 0.0


@given(lengths, st.integers(1, 40), st.integers(0, 5))
def test_every_window_stands_in_one_batch(found: np.ndarray, batch_size: int, epoch: int) -> None:
    batches = plan_epoch(found, batch_size, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(found)))
    assert max(map(len, batches)) <= batch_size


def test_order_depends_on_seed_and_epoch_alone() -> None:
    found = np.random.default_rng(0).integers(4, 60, 500)

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(plan_epoch(found, 16, seed=seed, epoch=epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_there_is_little_padding() -> None:
    found = np.random.default_rng(0).geometric(0.05, 5000) + 3
    ours = padding_share(plan_epoch(found, 32, seed=1, epoch=0), found)
    shuffled = np.random.default_rng(1).permutation(len(found))
    random = padding_share([shuffled[i : i + 32] for i in range(0, len(found), 32)], found)
    assert ours < 0.08 < random


@given(lengths, st.integers(1, 200))
def test_passes_stay_within_the_budget(found: np.ndarray, budget: int) -> None:
    passes = cut_to_budget(np.arange(len(found)), found, budget)
    assert sorted(np.concatenate(passes)) == list(range(len(found)))
    assert all(len(part) == 1 or len(part) * found[part].max() <= budget for part in passes)


@given(lengths)
def test_prediction_batches_hold_every_window_once(found: np.ndarray) -> None:
    batches = by_length(found, max_rows=7, max_tokens=100)
    assert sorted(np.concatenate(batches)) == list(range(len(found)))


@pytest.mark.parametrize("per_token", [False, True])
def test_padding_keeps_ids_and_targets(per_token: bool) -> None:
    targets = np.array([7, 8, -100, 9, 1, 2]) if per_token else np.array([3, 4])
    units = np.array([0, 1, -1, 2, 0, 1], np.int32) if per_token else None
    ids, offsets, rows = np.array([5, 6, 7, 8, 9, 4], np.int32), np.array([0, 4, 6]), np.array([0, 1])
    encoded = Encoded(ids, offsets, rows, 2, units=units, targets=targets)
    batch = pad(encoded, np.array([1, 0]), pad_id=0)
    assert batch["input_ids"].tolist() == [[9, 4, 0, 0], [5, 6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    wanted = [[1, 2, -100, -100], [7, 8, -100, 9]] if per_token else [4, 3]
    assert batch["targets"].tolist() == wanted


def test_targets_of_units_stay_by_token_where_each_window_is_one_token() -> None:
    ids, targets = np.array([5, 6], np.int32), np.array([7, 8])
    encoded = Encoded(ids, np.array([0, 1, 2]), np.array([0, 1]), 2, units=np.zeros(2, np.int32), targets=targets)
    assert pad(encoded, np.array([1, 0]), pad_id=0)["targets"].tolist() == [[8], [7]]
