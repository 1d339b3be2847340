"""Shapley values: how parts that act together share in what they make, each by what it adds in whatever company.

Exact where there are so few parts that every combination can be asked for; else estimated from the combinations that
tell most, by weighted least squares (Lundberg and Lee 2017, kernel SHAP; in pairs of opposites, Covert and Lee 2021).

Legend: P parts, R combinations, V values of each.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np


def company(n_parts: int, n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return which combinations of parts to ask for, without the whole and the empty one, and how much each counts.

    Args:
        n_parts: P.
        n_rows: R at most; twice P is needed for an answer that means something.
        seed: of those that are drawn; the same ones each time.

    Returns:
        (R, P) bool, which parts are there; (R,) weights. All of them where there are no more than `n_rows`; else first
        each part alone and each left out alone, then of the sizes nearest to these as many as there is room for, each
        with its opposite.
    """
    masks: list[np.ndarray] = []
    weights: list[float] = []
    sizes = list(range(1, n_parts // 2 + 1))
    room = n_rows
    while sizes:
        size = sizes[0]
        opposite = n_parts - size
        n_of_size = comb(n_parts, size) * (1 if size == opposite else 2)
        if n_of_size > room:
            break
        some = np.zeros((comb(n_parts, size), n_parts), bool)
        for row, chosen in enumerate(combinations(range(n_parts), size)):
            some[row, list(chosen)] = True
        masks.append(some if size == opposite else np.concatenate([some, ~some]))
        weights += [_mass(n_parts, size) / n_of_size] * n_of_size
        room -= n_of_size
        sizes.pop(0)
    if sizes and room >= 2:
        drawn = _drawn(n_parts, sizes, room // 2, np.random.default_rng(seed))
        masks.append(drawn)
        weights += [sum(_mass(n_parts, size) for size in sizes) / len(drawn)] * len(drawn)
    found = np.concatenate(masks) if masks else np.zeros((0, n_parts), bool)
    return found, np.array(weights)


def share(
    masks: np.ndarray, weights: np.ndarray, values: np.ndarray, empty: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """Return what each part adds, (P, V); together the difference between `whole` (V,) and `empty` (V,).

    Args:
        masks: (R, P) of `company`.
        weights: (R,) of `company`.
        values: (R, V) of these combinations.
        empty: (V,) with no part.
        whole: (V,) with all of them.
    """
    n_parts = masks.shape[1]
    difference = whole - empty
    if not n_parts or not len(masks):
        return np.broadcast_to(difference / max(n_parts, 1), (n_parts, len(difference))).copy()
    there = masks.astype(np.float64)
    weighted = there * weights[:, None]
    squares = weighted.T @ there
    # A little of each part for itself, so that too few combinations give something small rather than nothing.
    squares[np.diag_indices(n_parts)] += 1e-9 * squares.trace() / n_parts
    solved = np.linalg.solve(squares, np.concatenate([weighted.T @ (values - empty), np.ones((n_parts, 1))], 1))
    free, of_sum = solved[:, :-1], solved[:, -1:]
    shares: np.ndarray = free - of_sum * ((free.sum(0) - difference) / of_sum.sum())
    return shares


def _mass(n_parts: int, size: int) -> float:
    """Return the weight that the kernel gives to all combinations of a size and of its opposite together."""
    one = (n_parts - 1) / (size * (n_parts - size))
    return one if 2 * size == n_parts else 2 * one


def _drawn(n_parts: int, sizes: list[int], n_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Return (2 x pairs, P) combinations of these sizes by their weights, each followed by its opposite."""
    masses = np.array([_mass(n_parts, size) for size in sizes])
    chosen = rng.choice(sizes, n_pairs, p=masses / masses.sum())
    ranks = rng.random((n_pairs, n_parts)).argsort(1).argsort(1)
    some = ranks < chosen[:, None]
    return np.stack([some, ~some], 1).reshape(-1, n_parts)
