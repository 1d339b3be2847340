"""The conditional random field's loss against enumeration of every row of tags."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.tasks import chain, crf


def enumerate_loss(scores: np.ndarray, tags: list[int], transitions: np.ndarray) -> float:
    """Return -log p(tags) by summing over every row that BIO allows; a row may begin inside an entity."""
    free = chain.allowed(scores.shape[1])

    def total(row: tuple[int, ...]) -> float:
        moves = sum(transitions[pair] for pair in itertools.pairwise(row))
        return float(sum(scores[unit, tag] for unit, tag in enumerate(row)) + moves)

    rows = itertools.product(range(scores.shape[1]), repeat=len(scores))
    allowed = [row for row in rows if all(free[pair] for pair in itertools.pairwise(row))]
    return math.log(sum(math.exp(total(row)) for row in allowed)) - total(tuple(tags))


def batch(
    seed: int, lengths: list[int], n_labels: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]]]:
    """Return logits (B, L, K), targets with holes of -100, transitions, and each row's valid tags."""
    random = np.random.default_rng(seed)
    n_tags = 1 + 2 * n_labels
    width = max(lengths) * 2 + 2
    logits = torch.tensor(random.normal(0, 2, (len(lengths), width, n_tags)), dtype=torch.float32)
    targets = torch.full((len(lengths), width), -100)
    rows = []
    for row, length in enumerate(lengths):
        tags = chain.repair(random.integers(0, n_tags, length), np.array([0, length]))
        places = np.sort(random.choice(np.arange(1, width), length, replace=False))
        targets[row, torch.from_numpy(places)] = torch.from_numpy(tags)
        rows.append(tags.tolist())
    return logits, targets, torch.tensor(random.normal(0, 1, (n_tags, n_tags)), dtype=torch.float32), rows


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_loss_is_the_enumerated_likelihood(seed: int, lengths: list[int]) -> None:
    logits, targets, transitions, rows = batch(seed, lengths)
    wanted = 0.0
    for row, tags in enumerate(rows):
        scores = logits[row][targets[row] >= 0].double().numpy()
        wanted += enumerate_loss(scores, tags, transitions.double().numpy())
    assert crf.loss(logits, targets, transitions).item() == pytest.approx(wanted / sum(lengths), rel=1e-4, abs=1e-5)


def test_gradients_are_finite_and_reach_transitions_that_bio_allows_alone() -> None:
    logits, targets, transitions, _ = batch(3, [4, 1, 3])
    logits.requires_grad_()
    transitions.requires_grad_()
    crf.loss(logits, targets, transitions, smoothing=0.1, weights=torch.rand(5) + 0.5).backward()
    assert logits.grad is not None and transitions.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert bool((logits.grad[targets < 0] == 0).all())
    assert bool((transitions.grad[torch.from_numpy(~chain.allowed(5))] == 0).all())
    assert bool((transitions.grad[0] != 0).any())


def test_without_transitions_and_labels_apart_it_is_cross_entropy_over_allowed_rows() -> None:
    # One unit a row: nothing to step to, so the field is a plain softmax.
    logits, targets, transitions, _ = batch(8, [1, 1, 1])
    plain = torch.nn.functional.cross_entropy(logits[targets >= 0], targets[targets >= 0])
    assert crf.loss(logits, targets, transitions).item() == pytest.approx(plain.item(), rel=1e-5)


def test_equal_weights_change_nothing_and_a_weight_of_zero_silences_its_rows() -> None:
    logits, targets, transitions, _ = batch(4, [3, 2])
    plain = crf.loss(logits, targets, transitions)
    assert crf.loss(logits, targets, transitions, weights=torch.full((5,), 3.0)).item() == pytest.approx(plain.item())
    targets[0][targets[0] >= 0] = 0
    targets[1][targets[1] >= 0] = 1
    weights = torch.ones(5)
    weights[0] = 0.0
    alone = crf.loss(logits[1:], targets[1:], transitions)
    assert crf.loss(logits, targets, transitions, weights=weights).item() == pytest.approx(alone.item(), rel=1e-5)


def test_smoothing_has_a_floor_and_punishes_certainty() -> None:
    _, targets, _, _ = batch(5, [4, 3])
    logits = torch.zeros((*targets.shape, 5)).scatter(2, targets.clamp(min=0).unsqueeze(2), 1.0)
    steps = torch.zeros(5, 5)
    losses = [crf.loss(logits * scale, targets, steps, smoothing=0.1).item() for scale in (0.0, 4.0, 1000.0)]
    assert losses[1] < losses[0] < losses[2]
    # Descent from anywhere stays above the floor: the smoothed target is a distribution over whole rows.
    free = torch.zeros((*targets.shape, 5), requires_grad=True)
    steps = torch.zeros((5, 5), requires_grad=True)
    optimiser = torch.optim.Adam([free, steps], 0.3)
    for _ in range(200):
        optimiser.zero_grad()
        value = crf.loss(free, targets, steps, smoothing=0.3)
        value.backward()
        optimiser.step()
    assert 0.0 < value.item() < losses[0]


def test_a_batch_with_nothing_asked_costs_nothing() -> None:
    logits = torch.randn(2, 5, 5, requires_grad=True)
    value = crf.loss(logits, torch.full((2, 5), -100), torch.zeros(5, 5))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None and bool((logits.grad == 0).all())


def test_the_head_answers_every_token_and_carries_transitions() -> None:
    head = crf.CrfHead(8, 5, dropout=0.0)
    assert head(torch.zeros(2, 3, 8), torch.ones(2, 3)).shape == (2, 3, 5)
    assert head.transitions.shape == (5, 5)
    crf.loss(torch.randn(1, 3, 5), torch.tensor([[0, 1, 2]]), head.transitions).backward()
    assert head.steps.grad is not None and bool((head.steps.grad != 0).any())
