"""Chains against brute force: every row of tags is enumerated, and the answers must be the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.tasks import chain

LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def valid(tags: tuple[int, ...]) -> bool:
    before = 0
    for tag in tags:
        if tag > 0 and tag % 2 == 0 and before not in (tag, tag - 1):
            return False
        before = tag
    return True


def every_row(scores: np.ndarray, transitions: np.ndarray) -> dict[tuple[int, ...], float]:
    """Return the score of each valid row of tags for scores (units, K)."""
    rows = (tags for tags in itertools.product(range(scores.shape[1]), repeat=len(scores)) if valid(tags))
    return {
        tags: sum(scores[unit, tag] for unit, tag in enumerate(tags))
        + sum(transitions[one, two] for one, two in itertools.pairwise(tags))
        for tags in rows
    }


def case(
    lengths: list[int], n_labels: int, seed: int, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n_tags = 1 + 2 * n_labels
    return random.normal(0, spread, (int(offsets[-1]), n_tags)), offsets, random.normal(0, 1, (n_tags, n_tags))


@given(LENGTHS, st.integers(1, 2), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_best_is_the_highest_of_all_valid_rows(lengths: list[int], n_labels: int, seed: int, crf: bool) -> None:
    scores, offsets, transitions = case(lengths, n_labels, seed)
    steps = transitions if crf else np.zeros_like(transitions)
    tags = chain.best(scores, offsets, transitions if crf else None)
    for begin, end in itertools.pairwise(offsets):
        rows = every_row(scores[begin:end], steps)
        assert rows[tuple(tags[begin:end].tolist())] == pytest.approx(max(rows.values()))


@given(LENGTHS, st.integers(1, 2), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_marginals_are_sums_over_all_valid_rows(lengths: list[int], n_labels: int, seed: int) -> None:
    scores, offsets, transitions = case(lengths, n_labels, seed)
    found = chain.marginals(scores, offsets, transitions)
    for begin, end in itertools.pairwise(offsets):
        wanted = np.zeros((end - begin, scores.shape[1]))
        for tags, score in every_row(scores[begin:end], transitions).items():
            wanted[np.arange(end - begin), list(tags)] += np.exp(score)
        if end > begin:
            np.testing.assert_allclose(found[begin:end], wanted / wanted.sum(1, keepdims=True), atol=1e-9)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 10**6),
    st.sampled_from([0.1, 5.0, 500.0]), st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_answers_are_always_valid_and_probabilities_always_probabilities(
    lengths: list[int], n_labels: int, seed: int, spread: float, crf: bool
) -> None:
    scores, offsets, transitions = case(lengths, n_labels, seed, spread)
    tags = chain.best(scores, offsets, transitions * spread if crf else None)
    assert all(valid(tuple(tags[begin:end].tolist())) for begin, end in itertools.pairwise(offsets))
    shares = chain.marginals(scores, offsets, transitions * spread)
    np.testing.assert_allclose(shares.sum(1), 1.0)
    assert (shares >= 0).all()


def test_only_the_wanted_rows_get_marginals() -> None:
    scores, offsets, transitions = case([3, 2, 4], 2, 5)
    whole = chain.marginals(scores, offsets, transitions)
    part = chain.marginals(scores, offsets, transitions, np.array([2, 2]))
    np.testing.assert_allclose(part[5:], whole[5:])
    assert not part[:5].any()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    scores, offsets, transitions = case([7, 1, 30, 4, 0, 12], 3, 11)
    together = chain.best(scores, offsets, transitions)
    shares = chain.marginals(scores, offsets, transitions)
    for begin, end in itertools.pairwise(offsets):
        alone = np.array([0, end - begin])
        assert (chain.best(scores[begin:end], alone, transitions) == together[begin:end]).all()
        np.testing.assert_allclose(chain.marginals(scores[begin:end], alone, transitions), shares[begin:end])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, offsets, transitions = case([5, 9, 2, 9, 1], 2, 3)
    whole = chain.best(scores, offsets, transitions), chain.marginals(scores, offsets, transitions)
    monkeypatch.setattr(chain, "_BLOCK_CELLS", 1)
    np.testing.assert_array_equal(chain.best(scores, offsets, transitions), whole[0])
    np.testing.assert_allclose(chain.marginals(scores, offsets, transitions), whole[1])


def test_tags_and_their_labels() -> None:
    assert chain.tags_of(["PER", "LOC"]) == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    tags = np.arange(5)
    assert chain.label_of(tags).tolist() == [0, 1, 1, 2, 2]
    assert chain.is_inside(tags).tolist() == [False, False, True, False, True]


def test_a_stray_inside_tag_becomes_a_begin() -> None:
    #                 row 0        row 1     row 2 (empty)  row 3
    tags = np.array([2, 2, 0, 4, 1, 2, 4, 4, 2])
    offsets = np.array([0, 4, 8, 8, 9])
    assert chain.repair(tags, offsets).tolist() == [1, 2, 0, 3, 1, 2, 3, 4, 1]


def test_segments_end_where_the_next_begins() -> None:
    first, last = chain.segments(np.array([1, 2, 1, 0, 3, 4, 4, 1]))
    assert (first.tolist(), last.tolist()) == ([0, 2, 4, 7], [1, 2, 6, 7])
    assert [len(part) for part in chain.segments(np.zeros(0, np.int64))] == [0, 0]
