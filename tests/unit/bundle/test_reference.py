"""The drift reference: its bins hold what they say."""

from __future__ import annotations

import base64

import numpy as np

from luban.bundle import reference as references
from luban.records import Encoded, LabelScores, Prediction, Span


def encoded(lengths: list[int], rows: list[int], ids: list[int]) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(np.array(ids, np.int32), offsets, np.array(rows), max(rows) + 1)


def test_lengths_count_all_windows_of_a_row() -> None:
    found = references.reference(encoded([3, 2, 4], [0, 0, 1], list(range(9))), [Prediction()] * 2, ["a"], 10)
    assert found["length"]["counts"][:3] == [1, 1, 0]  # 4 tokens, then 5
    assert found["none"] == 2


def test_edges_belong_to_the_bin_below_them() -> None:
    counts = references.length_counts(np.array([1, 4, 5, 512, 513, 9999]))
    assert counts[0] == 2 and counts[1] == 1 and counts[-2] == 1 and counts[-1] == 2


def test_confidences_of_zero_and_one_are_counted() -> None:
    counts = references.confidence_counts(np.array([0.0, 0.049, 0.05, 1.0]))
    assert counts[0] == 2 and counts[1] == 1 and counts[-1] == 1


def test_labels_and_entities_are_counted() -> None:
    scores = LabelScores(["a", "b"], np.array([0.7, 0.3]))
    some = encoded([1, 1], [0, 1], [5, 7])
    classified = references.reference(some, [Prediction(("a",), scores), Prediction((), scores)], ["a", "b"], 10)
    assert classified["labels"] == {"a": 1, "b": 0} and classified["none"] == 1
    assert sum(classified["confidence"]["counts"]) == 2
    spans = (Span(0, 1, "a", score=0.9), Span(2, 3, "a", score=0.2))
    tagged = references.reference(some, [Prediction(spans=spans), Prediction()], ["a", "b"], 10)
    assert tagged["labels"] == {"a": 2, "b": 0} and tagged["none"] == 1
    assert sum(tagged["confidence"]["counts"]) == 2


def test_seen_tokens_are_marked_one_bit_each() -> None:
    found = references.reference(encoded([3], [0], [0, 9, 17]), [Prediction()], [], 20)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(found["tokens"]["seen"]), np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [0, 9, 17]


def test_token_bins_spread_neighbouring_ids() -> None:
    bins = references.token_bins(np.arange(30_000))
    counts = np.bincount(bins, minlength=references.SKETCH_BINS)
    assert bins.min() == 0 and bins.max() == references.SKETCH_BINS - 1
    assert counts.max() < 1.1 * counts.mean()
