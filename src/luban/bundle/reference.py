"""The drift reference: what the validation rows and their answers look like, small enough to travel in the bundle.

Shares rather than rows: no text can be read back from it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luban.records import Encoded, Prediction

LENGTH_EDGES = (4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512)
"""Upper ends of the bins of lengths in tokens, half an octave each; the last bin is open."""
CONFIDENCE_BINS = 20
"""Bins of equal width between 0 and 1."""
SKETCH_BINS = 256
"""Bins of token ids: id -> bin by `token_bins`."""
_HASH = 2654435761
"""Knuth's multiplicative hash, golden ratio times 2^32: neighbouring ids fall into bins far apart."""


def reference(
    encoded: Encoded, predictions: Sequence[Prediction], labels: Sequence[str], vocabulary_size: int
) -> dict[str, Any]:
    """Return histograms of N rows and their answers, as JSON values.

    Returns:
        `n_rows`; `length` with `edges` and `counts`, of tokens a row; `labels`, label -> how often it was answered
        (for tagging, entities); `none`, rows answered without a label; `confidence` with `counts`, of the best
        probability a row (for tagging, of every entity); `tokens` with `counts`, of the bins of `token_bins`, and
        `seen`, base64 of one bit a token id (bit i of byte i // 8, lowest first) that is set where the id occurs.
    """
    lengths = np.bincount(encoded.rows, encoded.lengths, minlength=encoded.n_rows).astype(np.int64)
    counts = dict.fromkeys(labels, 0)
    none = 0
    confidence: list[float] = []
    for prediction in predictions:
        found = [*prediction.labels, *(span.label for span in prediction.spans)]
        none += not found
        for label in found:
            counts[label] += 1
        confidence += [span.score for span in prediction.spans] if not prediction.scores else [prediction.score]
    seen = np.zeros(max(vocabulary_size, int(encoded.ids.max(initial=0)) + 1), bool)
    seen[np.unique(encoded.ids)] = True
    return {
        "n_rows": encoded.n_rows,
        "length": {"edges": list(LENGTH_EDGES), "counts": length_counts(lengths).tolist()},
        "labels": counts,
        "none": none,
        "confidence": {"counts": confidence_counts(np.array(confidence)).tolist()},
        "tokens": {
            "counts": np.bincount(token_bins(encoded.ids), minlength=SKETCH_BINS).tolist(),
            "seen": base64.b64encode(np.packbits(seen, bitorder="little").tobytes()).decode(),
        },
    }


def made_up(found: Mapping[str, Any], n: int, *, seed: int = 13) -> list[list[int]]:
    """Return n rows of token ids that nobody wrote, with the lengths and out of the tokens that a reference tells of.

    They say nothing of meaning, and enough to compare two tools on where no row of the data is at hand.
    """
    rng = np.random.default_rng(seed)
    packed = np.frombuffer(base64.b64decode(found["tokens"]["seen"]), np.uint8)
    ids = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
    counts = np.array(found["length"]["counts"], np.float64)
    edges = [*found["length"]["edges"], 2 * found["length"]["edges"][-1]]
    if not len(ids) or not counts.sum():
        return []
    bins = rng.choice(len(counts), n, p=counts / counts.sum())
    lengths = [int(rng.integers(edges[place - 1] + 1 if place else 1, edges[place] + 1)) for place in bins]
    return [rng.choice(ids, length).tolist() for length in lengths]


def length_counts(lengths: np.ndarray) -> np.ndarray:
    """Return how many rows fall into each bin of `LENGTH_EDGES`, (bins,), for lengths (N,)."""
    return np.bincount(np.searchsorted(LENGTH_EDGES, lengths, side="left"), minlength=len(LENGTH_EDGES) + 1)


def confidence_counts(probabilities: np.ndarray) -> np.ndarray:
    """Return how many probabilities fall into each of `CONFIDENCE_BINS` bins, (bins,)."""
    bins = np.minimum((probabilities * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    return np.bincount(bins, minlength=CONFIDENCE_BINS)


def token_bins(ids: np.ndarray) -> np.ndarray:
    """Return the bin, 0 to `SKETCH_BINS` - 1, of each token id (T,)."""
    hashed = (ids.astype(np.uint64) * _HASH) & 0xFFFFFFFF
    bins: np.ndarray = (hashed >> 24).astype(np.int64)
    return bins
