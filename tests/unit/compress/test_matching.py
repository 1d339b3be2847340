"""The terms of the distillation loss: zero where both sides agree, and of one size whatever temperature or batch."""

from __future__ import annotations

import pytest
import torch

from luban.compress.matching import disagreement, distance, relation_divergence


@pytest.mark.parametrize("several", [False, True])
def test_no_disagreement_with_oneself(several: bool) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert disagreement(logits, logits, 2.0, several_labels=several).abs() < 1e-6
    other = disagreement(logits + torch.eye(5, 4), logits, 2.0, several_labels=several)
    assert other > 1e-3


def test_it_is_the_divergence_of_the_answers() -> None:
    found, wanted = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    p = torch.tensor([2.0, 0.0]).softmax(0)
    assert float(disagreement(found, wanted, 1.0)) == pytest.approx(float((p * (2 * p).log()).sum()))
    q = torch.tensor(2.0).sigmoid()
    yes_or_no = float(q * (2 * q).log() + (1 - q) * (2 * (1 - q)).log())
    assert float(disagreement(found, wanted, 1.0, several_labels=True)) == pytest.approx(yes_or_no / 2, rel=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_gradients_keep_their_size_at_any_temperature(several: bool) -> None:
    wanted = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    sizes = []
    for temperature in (1.0, 4.0):
        found = torch.zeros(50, 4, requires_grad=True)
        disagreement(found, wanted, temperature, several_labels=several).backward()  # type: ignore[no-untyped-call]
        assert found.grad is not None
        sizes.append(float(found.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_nothing_asked_is_no_loss() -> None:
    found = torch.zeros(0, 3, requires_grad=True)
    assert disagreement(found, torch.zeros(0, 3), 2.0).item() == 0


def test_hidden_states_are_matched_evenly_and_at_tokens_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = [torch.randn(2, 5, 3, generator=generator) for _ in range(6)]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ours = [theirs[1].clone(), theirs[3].clone(), theirs[5].clone()]
    ours[0][0, 3:] = 99.0
    assert distance(ours, theirs, mask, torch.nn.Identity()) == 0
    ours[2][1, 4] += 1.0
    assert distance(ours, theirs, mask, torch.nn.Identity()) > 0
    scaled = [10 * states for states in ours], [10 * states for states in theirs]
    a, b = distance(ours, theirs, mask, torch.nn.Identity()), distance(*scaled, mask, torch.nn.Identity())
    assert float(a) == pytest.approx(float(b), rel=1e-5)


def test_relations_do_not_see_padding_and_bear_other_widths() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 5, 12, generator=generator), torch.randn(2, 5, 36, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    before = relation_divergence(ours, theirs, mask)
    assert before > 0
    ours[0, 3:], theirs[0, 3:] = 50.0, -50.0
    assert torch.allclose(relation_divergence(ours, theirs, mask), before, atol=1e-6)
    assert relation_divergence(theirs, theirs, mask).abs() < 1e-6
