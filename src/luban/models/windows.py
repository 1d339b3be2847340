"""Windows of tokens gathered into padded arrays, and into batches by their length.

Legend: B windows in a batch, L tokens in the longest of them, W windows in all.
"""

from __future__ import annotations

import numpy as np

from luban.records import Encoded

IGNORED = -100
"""Target of a token that nothing is asked of."""


def cut_to_budget(windows: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Cut windows into passes whose padded size stays within a budget of tokens, keeping their order by length."""
    if len(windows) * int(lengths[windows].max(initial=0)) <= batch_tokens:
        return [windows]
    ordered = windows[np.argsort(lengths[windows], kind="stable")]
    passes, first = [], 0
    for end in range(1, len(ordered) + 1):
        if end - first > 1 and (end - first) * int(lengths[ordered[end - 1]]) > batch_tokens:
            passes.append(ordered[first : end - 1])
            first = end - 1
    return [*passes, ordered[first:]]


def by_length(lengths: np.ndarray, *, max_rows: int, max_tokens: int) -> list[np.ndarray]:
    """Return all windows, longest last, in batches for prediction: bounded by rows and by padded tokens."""
    ordered = np.argsort(lengths, kind="stable")
    chunks = (ordered[start : start + max_rows] for start in range(0, len(ordered), max_rows))
    return [part for chunk in chunks for part in cut_to_budget(chunk, lengths, max_tokens)]


def token_places(encoded: Encoded, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for padded windows where each token stands in `ids` (B, L), 0 at padding, and which are real (B, L)."""
    starts = encoded.offsets[windows]
    lengths = encoded.offsets[windows + 1] - starts
    steps = np.arange(int(lengths.max(initial=0)))
    real = steps[None, :] < lengths[:, None]
    return np.where(real, starts[:, None] + steps[None, :], 0), real


def pad(encoded: Encoded, windows: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """Return `input_ids`, `attention_mask` (B, L) and, where the rows have targets, `targets`.

    Rows cut into units have a target a token, (B, L); others one a window, (B, ...).
    """
    places, real = token_places(encoded, windows)
    ids = np.full(real.shape, pad_id, np.int64)
    ids[real] = encoded.ids[places[real]]
    batch = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
    if encoded.targets is not None:
        if encoded.units is None:
            batch["targets"] = encoded.targets[windows]
        else:
            targets = np.full(real.shape, IGNORED, np.int64)
            targets[real] = encoded.targets[places[real]]
            batch["targets"] = targets
    return batch
