"""What every objective promises, with every task: a finite loss that teaches, that is the task's own when neutral."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from luban.errors import PluginError
from luban.models.base import BaseFolder, load_body
from luban.models.heads import TaskModel
from luban.objectives import TaskLoss, catalogue, make, total
from luban.tasks import classify, tag

NEUTRAL: dict[str, dict[str, Any]] = {
    "focal": {"gamma": 0.0}, "noisy-labels": {"q": 0.0}, "r-drop": {"alpha": 0.0}, "adversarial": {"weight": 0.0},
}  # fmt: skip
TASKS: dict[str, Callable[[], Any]] = {
    "classify": lambda: classify.make(classify.Options(), ("a", "b", "c")),
    "multi-label": lambda: classify.make(classify.Options(multi_label=True), ("a", "b", "c")),
    "tag": lambda: tag.make(tag.Options(crf=False), ("PER",)),
    "crf": lambda: tag.make(tag.Options(crf=True), ("PER",)),
}
K = 3  # labels, and the tags O, B-PER, I-PER


@dataclass
class Scene:
    """A task, a model, a batch, and the loss as the project sets it."""

    task: Any
    model: TaskModel
    batch: dict[str, torch.Tensor]
    task_loss: TaskLoss

    def run(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of a batch."""
        logits: torch.Tensor = self.model(batch["input_ids"], batch["attention_mask"])
        return logits

    def loss(self, *objectives: Any) -> torch.Tensor:
        """Return the loss with objectives in it."""
        return total(objectives, self.run, self.batch, self.run(self.batch), self.task_loss)


@pytest.fixture
def scene(request: pytest.FixtureRequest, tiny: BaseFolder) -> Scene:
    """Return a scene for each task; weights and smoothing are set, and the dropout is the base's own."""
    task = TASKS[request.param]()
    torch.manual_seed(0)
    head = task.head(32, dropout=0.1, pooling="mean")
    for part in head.parameters():
        torch.nn.init.normal_(part, std=0.3)
    model = TaskModel(load_body(tiny), head).train()
    ids = torch.randint(5, 90, (4, 7))
    mask = torch.ones_like(ids)
    mask[2, 4:] = 0
    ids[2, 4:] = 0
    if request.param == "multi-label":
        targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]])
    elif request.param == "classify":
        targets = torch.tensor([0, 2, 1, 0])
    else:
        targets = torch.tensor([[-100, 0, 1, 2, 0, 0, -100]] * 4).where(mask == 1, torch.tensor(-100))
    batch = {"input_ids": ids, "attention_mask": mask, "targets": targets}
    return Scene(task, model, batch, TaskLoss(task, head, torch.tensor([0.5, 1.0, 2.0]), 0.1))


SINGLE_ANSWERS = ("focal", "noisy-labels")
"""Objectives that weigh single answers, which a conditional random field has none of."""
PAIRS = [(name, kind) for name in TASKS for kind in catalogue if name != "crf" or kind not in SINGLE_ANSWERS]
each = pytest.mark.parametrize(("scene", "kind"), PAIRS, indirect=["scene"])
each_of_tokens = pytest.mark.parametrize(
    ("scene", "kind"), [pair for pair in PAIRS if pair[0] in ("tag", "crf")], indirect=["scene"]
)


@each
def test_finite_and_teaches_every_part(kind: str, scene: Scene) -> None:
    loss = scene.loss(make(kind, {}, scene.task))
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, part in scene.model.named_parameters():
        assert part.grad is not None and torch.isfinite(part.grad).all(), name
    assert scene.model.body.get_input_embeddings().weight.grad.abs().sum() > 0  # type: ignore[operator]


@each
def test_differs_from_the_task_alone(kind: str, scene: Scene) -> None:
    torch.manual_seed(1)
    plain = scene.loss()
    torch.manual_seed(1)
    assert abs(scene.loss(make(kind, {}, scene.task)) - plain) > 1e-4


@each
def test_neutral_options_leave_the_task_alone(kind: str, scene: Scene) -> None:
    torch.manual_seed(1)
    plain = scene.loss()
    torch.manual_seed(1)
    torch.testing.assert_close(scene.loss(make(kind, NEUTRAL[kind], scene.task)), plain)


@each_of_tokens
def test_targets_that_are_not_asked_change_nothing(kind: str, scene: Scene) -> None:
    scene.model.eval()
    before = scene.loss(make(kind, {}, scene.task)).detach()
    real_run = scene.run

    def run(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = real_run(batch)
        asked = (scene.batch["targets"] >= 0).unsqueeze(-1)
        return torch.where(asked, logits, logits.detach() * 0 + 9.0)

    objectives = [make(kind, {}, scene.task)]
    after = total(objectives, run, scene.batch, run(scene.batch), scene.task_loss)
    torch.testing.assert_close(after, before)


@each_of_tokens
def test_nothing_asked_at_all_is_no_loss(kind: str, scene: Scene) -> None:
    scene.batch["targets"] = torch.full_like(scene.batch["targets"], -100)
    loss = scene.loss(make(kind, {}, scene.task))
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", SINGLE_ANSWERS)
def test_single_answers_are_not_to_be_had_of_a_conditional_random_field(kind: str) -> None:
    with pytest.raises(PluginError, match=r"conditional random field.*\n.*crf: false"):
        make(kind, {}, TASKS["crf"]())


@pytest.mark.parametrize("scene", [*TASKS], indirect=True)
def test_all_at_once_and_in_any_order(scene: Scene) -> None:
    kinds = [name for name in catalogue if name not in SINGLE_ANSWERS or not getattr(scene.task.options, "crf", False)]
    for order in (kinds, kinds[::-1]):
        loss = scene.loss(*(make(name, {}, scene.task) for name in order))
        assert torch.isfinite(loss)
        loss.backward()  # type: ignore[no-untyped-call]
