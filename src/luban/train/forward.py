"""Passes over many windows with no gradients: what the probe's features and the validation scores are made with.

Legend: B windows in a batch, L tokens in the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from luban.models.windows import by_length, pad
from luban.records import Encoded

MAX_ROWS = 64


def batches(
    rows: Encoded, *, pad_id: int, max_tokens: int, device: torch.device
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield all windows in batches of like length: the windows (B,), and their ids and mask (B, L) on the device."""
    for windows in by_length(rows.lengths, max_rows=MAX_ROWS, max_tokens=max_tokens):
        batch = pad(rows, windows, pad_id)
        ids, mask = (torch.from_numpy(batch[name]).to(device) for name in ("input_ids", "attention_mask"))
        yield windows, ids, mask
