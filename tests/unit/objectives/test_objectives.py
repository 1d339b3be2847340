"""Objectives against their formulas, worked out another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from luban.errors import TrainError
from luban.models.base import BaseFolder, embeddings, load_body
from luban.models.heads import TaskModel
from luban.objectives import TaskLoss, make, total
from luban.objectives.adversarial import run_moved
from luban.objectives.focal import focal_loss
from luban.objectives.r_drop import disagreement
from luban.objectives.terms import weighed
from luban.tasks import classify


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis."""
    powers: np.ndarray = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-2.0, 3.0, 1.0]], np.float32)


def test_focal_single_label() -> None:
    targets, weights = np.array([0, 2, 2]), np.array([1.0, 2.0, 4.0], np.float32)
    right = softmax(LOGITS)[np.arange(3), targets]
    terms = -((1 - right) ** 1.5) * np.log(right) * weights[targets]
    found = focal_loss(torch.tensor(LOGITS), torch.tensor(targets), 1.5, torch.tensor(weights))
    assert found.item() == pytest.approx(terms.sum() / weights[targets].sum(), rel=1e-5)


def test_focal_multi_label() -> None:
    targets = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0]], np.float32)
    p = 1 / (1 + np.exp(-LOGITS))
    right = np.where(targets == 1, p, 1 - p)
    wanted = (-((1 - right) ** 2) * np.log(right)).mean()
    assert focal_loss(torch.tensor(LOGITS), torch.tensor(targets), 2.0).item() == pytest.approx(wanted, rel=1e-5)


def test_focal_tokens_pass_over_what_is_not_asked() -> None:
    targets = torch.tensor([[0, -100, 2]])
    found = focal_loss(torch.tensor(LOGITS)[None], targets, 2.0)
    right = softmax(LOGITS)[[0, 2], [0, 2]]
    assert found.item() == pytest.approx((-((1 - right) ** 2) * np.log(right)).mean(), rel=1e-5)


def test_doubted_labels_have_the_gradient_of_generalised_cross_entropy() -> None:
    """(1 - p^q) / q, by its own formula."""
    q, targets = 0.7, torch.tensor([0, 2, 1])
    logits = torch.tensor(LOGITS, dtype=torch.double)[:3].requires_grad_()
    right = logits.softmax(-1).gather(1, targets[:, None])
    (wanted,) = torch.autograd.grad(((1 - right**q) / q).mean(), logits)
    found = weighed(logits, targets, lambda log_right: (q * log_right.detach()).exp())
    (got,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(got, wanted)


def test_focal_gradient_is_finite_at_certainty() -> None:
    for targets in (torch.tensor([0]), torch.tensor([[1.0, 0.0]])):
        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        for gamma in (0.5, 2.0):
            (gradient,) = torch.autograd.grad(focal_loss(logits, targets, gamma), logits)
            assert torch.isfinite(gradient).all()


def test_disagreement_single_label() -> None:
    other = LOGITS[::-1].copy()
    p, q = softmax(LOGITS), softmax(other)
    wanted = ((p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1)).mean() / 2
    found = disagreement(torch.tensor(LOGITS), torch.tensor(other), torch.tensor([0, 1, 2]))
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_disagreement_multi_label() -> None:
    other = LOGITS[::-1].copy()
    p, q = 1 / (1 + np.exp(-LOGITS.astype(float))), 1 / (1 + np.exp(-other.astype(float)))

    def divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found: np.ndarray = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
        return found

    wanted = (divergence(p, q) + divergence(q, p)).mean() / 2
    found = disagreement(torch.tensor(LOGITS), torch.tensor(other), torch.zeros(3, 3))
    assert found.item() == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def given(tiny: BaseFolder) -> tuple[TaskModel, dict[str, torch.Tensor], TaskLoss]:
    """Return a model in evaluation mode, a batch with padding, and the loss of classify."""
    task = classify.make(classify.Options(), ("a", "b", "c"))
    torch.manual_seed(0)
    model = TaskModel(load_body(tiny), task.head(32, dropout=0.0, pooling="mean")).eval()
    ids = torch.randint(5, 90, (3, 6))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    batch = {"input_ids": ids * mask, "attention_mask": mask, "targets": torch.tensor([0, 1, 2])}
    return model, batch, TaskLoss(task, model.head)


def runner(model: TaskModel) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    """Return what an objective runs a batch with."""
    return lambda batch: model(batch["input_ids"], batch["attention_mask"])


def test_change_of_word_vectors(given: tuple[TaskModel, dict[str, torch.Tensor], TaskLoss]) -> None:
    model, batch, _ = given
    logits, seen = run_moved(runner(model), batch, None)
    assert torch.equal(logits, runner(model)(batch))
    matrix = model.body.get_input_embeddings().weight  # type: ignore[operator]
    assert torch.equal(seen.vectors, matrix[batch["input_ids"]])
    replaced = torch.randn_like(seen.vectors)
    moved, _ = run_moved(runner(model), batch, replaced - seen.vectors)
    hidden = model.body(inputs_embeds=replaced, attention_mask=batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(moved, model.head(hidden, batch["attention_mask"]))


@pytest.mark.parametrize("frozen", [False, True])
def test_adversarial_finds_a_worse_place_than_chance(
    given: tuple[TaskModel, dict[str, torch.Tensor], TaskLoss], frozen: bool
) -> None:
    model, batch, task_loss = given
    embeddings(model.body).requires_grad_(not frozen)
    run = runner(model)
    objective: Any = make("adversarial", {"epsilon": 0.05}, task_loss.task)
    change = objective._worst_change(run, batch, task_loss)
    _, seen = run_moved(run, batch, None)
    mask = batch["attention_mask"].unsqueeze(-1)
    lengths = (seen.vectors * mask).flatten(1).norm(dim=1)
    torch.testing.assert_close(change.flatten(1).norm(dim=1), 0.05 * lengths)
    assert (change * (1 - mask)).abs().max() < 1e-6, "padding was changed"

    def loss_at(change: torch.Tensor) -> float:
        return task_loss(run_moved(run, batch, change)[0], batch).item()

    chance = torch.randn_like(change) * mask
    chance *= (change.flatten(1).norm(dim=1) / chance.flatten(1).norm(dim=1))[:, None, None]
    assert loss_at(change) > max(loss_at(chance), loss_at(torch.zeros_like(change)))
    whole = total([objective], run, batch, run(batch), task_loss)
    assert whole.item() == pytest.approx(loss_at(torch.zeros_like(change)) + loss_at(change), rel=1e-5)


def test_adversarial_with_every_family(
    family: str, random_body: Callable[[str], Any], given: tuple[TaskModel, dict[str, torch.Tensor], TaskLoss]
) -> None:
    model, batch, task_loss = given
    other = TaskModel(random_body(family), model.head)
    batch["input_ids"] = batch["input_ids"] % 60
    loss = total([make("adversarial", {}, task_loss.task)], runner(other), batch, runner(other)(batch), task_loss)
    assert loss.item() > task_loss(runner(other)(batch), batch).item()


def test_adversarial_without_word_vectors(given: tuple[TaskModel, dict[str, torch.Tensor], TaskLoss]) -> None:
    batch = given[1]
    weight = torch.randn(6, 3, requires_grad=True)
    with pytest.raises(TrainError, match="found no word vectors"):
        run_moved(lambda part: part["input_ids"].float() @ weight, batch, None)


def test_objectives_wrap_those_before_them(given: tuple[TaskModel, dict[str, torch.Tensor], TaskLoss]) -> None:
    model, batch, task_loss = given
    run, task = runner(model), task_loss.task
    focal, both = make("focal", {"gamma": 2.0}, task), make("r-drop", {"alpha": 3.0}, task)
    alone = total([focal], run, batch, run(batch), task_loss)
    # Without dropout both passes are one: R-Drop around focal is focal, not cross entropy.
    torch.testing.assert_close(total([focal, both], run, batch, run(batch), task_loss), alone)
    torch.testing.assert_close(total([both, focal], run, batch, run(batch), task_loss), alone)
    assert abs(alone - task_loss(run(batch), batch)) > 1e-3
