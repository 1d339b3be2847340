"""Which windows go through a model together: equal ones once, and near lengths in one pass where that is cheaper.

Legend: W windows, T tokens of all windows, L tokens in the longest of a pass.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from luban.records import Encoded


def first_alike(encoded: Encoded) -> np.ndarray:
    """Return for each window (W,) the first that has the same tokens: itself, where none before it has."""
    size = encoded.ids.itemsize
    data, edges = encoded.ids.tobytes(), (encoded.offsets * size).tolist()
    seen: dict[bytes, int] = {}
    alike = (seen.setdefault(data[begin:end], window) for window, (begin, end) in enumerate(pairwise(edges)))
    return np.fromiter(alike, np.int64, len(encoded))


def cheapest(windows: np.ndarray, lengths: np.ndarray, *, pass_tokens: int, begin_tokens: int) -> list[np.ndarray]:
    """Cut windows into passes that cost least, shortest first.

    A pass costs what its padded tokens do, and what it takes to begin one, counted in tokens too. Windows of one length
    need no padding; few ones of a length are cheaper with the next longer ones than in a pass of their own.

    Args:
        windows: (W,) which ones.
        lengths: tokens of every window there is.
        pass_tokens: most padded tokens of a pass; a longer window goes alone.
        begin_tokens: what beginning a pass costs.
    """
    if len(windows) < 2:
        return [windows] if len(windows) else []
    ordered = windows[np.argsort(lengths[windows], kind="stable")]
    sizes, counts = np.unique(lengths[ordered], return_counts=True)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    # best[j]: least cost of all windows of the j shortest sizes; its last range of sizes begins at start[j].
    best, start = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, np.int64)
    for end in range(1, len(sizes) + 1):
        size = max(1, int(sizes[end - 1]))
        n_windows = before[end] - before[:end]
        n_passes = -(-n_windows // max(1, pass_tokens // size))
        costs = best[:end] + n_passes * begin_tokens + n_windows * size
        start[end] = int(costs.argmin())
        best[end] = costs[start[end]]
    passes: list[np.ndarray] = []
    end = len(sizes)
    while end:
        part, size = ordered[before[start[end]] : before[end]], max(1, int(sizes[end - 1]))
        n_passes = -(-len(part) // max(1, pass_tokens // size))
        passes += reversed(np.array_split(part, n_passes))  # equal ones, rather than full ones and a rest
        end = int(start[end])
    return passes[::-1]
