"""How much each row counts in the loss by its label.

Legend: K outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luban.records import Encoded

if TYPE_CHECKING:
    from luban.tasks import Task


def class_weights(rows: Encoded, task: Task, how: str) -> np.ndarray | None:
    """Return (K,) weights of labels from their counts in the rows, or None.

    Args:
        rows: windows with targets.
        task: which tells labels of tokens from those of windows.
        how: `none`; `balanced`, one over the label's count; or `sqrt`, the root of that. With one label a row the mean
            over the rows is 1. With several, a label's weight is that of its rows beside those without it.
    """
    if how == "none":
        return None
    targets = targets_of(rows, task)
    if targets.ndim == 2:
        counts = targets.sum(0)
        weights = (len(targets) - counts + 1) / (counts + 1)
        return np.asarray(np.sqrt(weights) if how == "sqrt" else weights, np.float32)
    counts = np.bincount(targets[targets >= 0], minlength=task.n_outputs).astype(np.float64)
    weights = 1.0 / np.maximum(counts, 1.0)
    weights = np.sqrt(weights) if how == "sqrt" else weights
    return np.asarray(weights * counts.sum() / np.maximum((weights * counts).sum(), 1e-12), np.float32)


def targets_of(rows: Encoded, task: Task) -> np.ndarray:
    """Return the targets of windows, or of the tokens at which units begin."""
    assert rows.targets is not None
    if not task.per_token:
        return rows.targets
    assert rows.units is not None
    return rows.targets[rows.units >= 0]
