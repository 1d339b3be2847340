"""Rows of BIO tags as chains: which tag may follow which, the best whole row, and how probable each tag is in it.

Tag 0 is `O`; label j has `B-` at 1 + 2j and `I-` at 2 + 2j. All of it is numpy, for serving.

Legend: N rows, U units of all rows laid end to end, K tags, R rows of one block, P units of the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

OUTSIDE = 0
_BLOCK_CELLS = 2**22
_LOWEST = -200.0


def tags_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the K = 1 + 2 x labels tags in the order of the outputs."""
    return ("O", *(f"{side}-{label}" for label in labels for side in "BI"))


def label_of(tags: np.ndarray) -> np.ndarray:
    """Return each tag's label counted from 1, and 0 for `O`."""
    labels: np.ndarray = (tags + 1) // 2
    return labels


def is_inside(tags: np.ndarray) -> np.ndarray:
    """Return which tags go on with an entity: the `I-` ones."""
    inside: np.ndarray = (tags > OUTSIDE) & (tags % 2 == 0)
    return inside


def allowed(n_tags: int) -> np.ndarray:
    """Return (K, K) bool, from -> to: an `I-` stands only after a `B-` or `I-` of its own label."""
    tags = np.arange(n_tags)
    same = label_of(tags)[:, None] == label_of(tags)[None, :]
    free: np.ndarray = same | ~is_inside(tags)[None, :]
    return free


def repair(tags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the tags (U,) with every `I-` that goes on with nothing made the `B-` of its label (conlleval's reading).

    Args:
        tags: (U,) tags of all rows.
        offsets: (N + 1,), row n is tags[offsets[n]:offsets[n + 1]].
    """
    before = np.concatenate([[OUTSIDE], tags[:-1]]).astype(tags.dtype)[: len(tags)]
    before[_begins(offsets)] = OUTSIDE
    stray = is_inside(tags) & (label_of(before) != label_of(tags))
    return np.where(stray, tags - 1, tags)


def best(scores: np.ndarray, offsets: np.ndarray, transitions: np.ndarray | None = None) -> np.ndarray:
    """Return the valid tags (U,) that have the highest sum of scores in each row (Viterbi 1967).

    Args:
        scores: (U, K) log-scores of each unit's tags, without a scale.
        offsets: (N + 1,) where rows begin and end.
        transitions: (K, K) what a step from one tag to the next adds; without it nothing.
    """
    n_tags = scores.shape[1]
    tags: np.ndarray = scores.argmax(1)
    chosen = np.flatnonzero(offsets[1:] > offsets[:-1])
    if transitions is None:
        # Where the best tag of each unit already makes a valid row, no other row can be better.
        wrong = repair(tags, offsets) != tags
        chosen = np.unique(np.searchsorted(offsets, np.flatnonzero(wrong), side="right") - 1)
        transitions = np.zeros((n_tags, n_tags))
    steps = np.where(allowed(n_tags), transitions, -np.inf)
    for rows in _blocks(chosen, offsets, n_tags * n_tags):
        cells, padded = _pad(scores, offsets, rows)
        found = _viterbi(padded, offsets[rows + 1] - offsets[rows], steps)
        real = cells >= 0
        tags[cells[real]] = found[real]
    return tags


def marginals(
    scores: np.ndarray, offsets: np.ndarray, transitions: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return (U, K) float64, the probability of each unit's tags over all valid rows of tags (Lafferty et al. 2001).

    Args:
        scores: (U, K), as in `best`.
        offsets: (N + 1,).
        transitions: (K, K).
        rows: the rows that are wanted, at most N of them; the others are left at 0. Without it all.
    """
    n_tags = scores.shape[1]
    result = np.zeros(scores.shape, np.float64)
    low = np.clip(transitions - transitions.max(), _LOWEST, 0.0)
    steps = np.where(allowed(n_tags), np.exp(low), 0.0)
    filled = np.flatnonzero(offsets[1:] > offsets[:-1])
    if rows is not None:
        filled = np.intersect1d(filled, rows)
    for block in _blocks(filled, offsets, 3 * n_tags):
        cells, padded = _pad(scores, offsets, block)
        real = cells >= 0
        result[cells[real]] = _forward_backward(padded, offsets[block + 1] - offsets[block], steps)[real]
    return result


def segments(tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, last) units of the entities in valid tags (U,), last one included."""
    first = np.flatnonzero((tags > OUTSIDE) & ~is_inside(tags))
    goes_on = np.concatenate([is_inside(tags)[1:], [False]])
    last = np.flatnonzero((tags > OUTSIDE) & ~goes_on[: len(tags)])
    return first, last


def _begins(offsets: np.ndarray) -> np.ndarray:
    """Return the first unit of every row that has one."""
    begins: np.ndarray = offsets[:-1][offsets[1:] > offsets[:-1]]
    return begins


def _blocks(rows: np.ndarray, offsets: np.ndarray, cells_a_unit: int) -> Iterator[np.ndarray]:
    """Yield the rows, longest first, in blocks whose padded arrays stay small."""
    lengths = offsets[rows + 1] - offsets[rows]
    rows = rows[np.argsort(-lengths, kind="stable")]
    start = 0
    while start < len(rows):
        longest = int(offsets[rows[start] + 1] - offsets[rows[start]])
        size = max(1, _BLOCK_CELLS // (longest * cells_a_unit))
        yield rows[start : start + size]
        start += size


def _pad(scores: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (R, P) indices of units with -1 for padding, and their scores (R, P, K) with 0 for padding."""
    lengths = offsets[rows + 1] - offsets[rows]
    steps = np.arange(int(lengths.max(initial=0)))
    cells = np.where(steps < lengths[:, None], offsets[rows][:, None] + steps, -1)
    padded = scores[cells]
    padded[cells < 0] = 0.0
    return cells, padded


def _viterbi(scores: np.ndarray, lengths: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the best tags (R, P) for scores (R, P, K); rows are longest first, so that those still going lead."""
    n_rows, n_units, n_tags = scores.shape
    back = np.broadcast_to(np.arange(n_tags), (n_rows, n_units, n_tags)).copy()
    total = scores[:, 0].astype(np.float64)
    total[:, is_inside(np.arange(n_tags))] = -np.inf
    for unit in range(1, n_units):
        going = int((lengths > unit).sum())
        ways = total[:going, :, None] + steps
        back[:going, unit] = ways.argmax(1)
        total[:going] = ways.max(1) + scores[:going, unit]
    tags = np.empty((n_rows, n_units), np.int64)
    tag = total.argmax(1)
    for unit in range(n_units - 1, -1, -1):
        tags[:, unit] = tag
        tag = back[np.arange(n_rows), unit, tag]
    return tags


def _forward_backward(scores: np.ndarray, lengths: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return marginals (R, P, K) for scores (R, P, K); `steps` (K, K) are factors, 0 where a step is forbidden."""
    n_rows, n_units, n_tags = scores.shape
    high = scores.max(2, keepdims=True)
    here: np.ndarray = np.exp(np.clip(scores.astype(np.float64) - high, _LOWEST, 0.0))
    forward = np.empty_like(here)
    forward[:, 0] = _share(here[:, 0] * ~is_inside(np.arange(n_tags)))
    for unit in range(1, n_units):
        going = int((lengths > unit).sum())
        forward[going:, unit] = 1.0
        forward[:going, unit] = _share((forward[:going, unit - 1] @ steps) * here[:going, unit])
    backward = np.ones((n_rows, n_tags))
    result = np.empty_like(here)
    for unit in range(n_units - 1, -1, -1):
        result[:, unit] = _share(forward[:, unit] * backward)
        going = int((lengths > unit).sum())
        backward[:going] = _share((here[:going, unit] * backward[:going]) @ steps.T)
    return result


def _share(weights: np.ndarray) -> np.ndarray:
    """Return weights (R, K) that sum to 1 in each row."""
    shares: np.ndarray = weights / weights.sum(1, keepdims=True)
    return shares
