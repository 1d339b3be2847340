"""Batches with next to no padding: windows of like length go together, in an order that seed and epoch alone decide.

Legend: W windows in all.
"""

from __future__ import annotations

import numpy as np

POOL_BATCHES = 64
"""Batches whose windows are sorted by length together: enough to leave little padding, few enough to stay random."""


def plan_epoch(lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the batches of one epoch, each an array of window indices; every window stands in one batch.

    Windows are shuffled, sorted by length within pools, cut into batches, and the batches are shuffled again.

    Args:
        lengths: (W,) tokens in each window.
        batch_size: windows in a batch, at most.
        seed: start of the random numbers.
        epoch: counted from 0; each has an order of its own.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]
