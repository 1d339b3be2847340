"""Objectives: what the loss adds to the task's own. One file a method.

Legend: B windows in a pass, L tokens in the longest of them, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from luban.plugins import Catalogue

if TYPE_CHECKING:
    import torch

    from luban.tasks import Task

catalogue = Catalogue("luban.objectives", "objective", ignore=frozenset({"terms"}))

Batch = Mapping[str, "torch.Tensor"]
"""input_ids and attention_mask (B, L), targets, and windows (B,): which of the training rows' windows these are."""


@dataclass(frozen=True)
class TaskLoss:
    """The task's own loss as the project sets it: with its head, class weights and label smoothing."""

    task: Task
    head: torch.nn.Module
    weights: torch.Tensor | None = None
    """(K,) weight of each label."""
    smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss (a scalar) of logits (B, K) or (B, L, K)."""
        targets, mask = batch["targets"], batch["attention_mask"]
        return self.task.loss(logits, targets, mask, self.head, weights=self.weights, smoothing=self.smoothing)


class Objective(Protocol):
    """What `make(options, task)` of an objective's module returns."""

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the loss (a scalar) that is to be made small.

        Args:
            model: runs a batch again and returns its logits, for objectives that compare passes.
            batch: input_ids, attention_mask (B, L), targets and windows (B,); no window of it is left out.
            logits: (B, K) or (B, L, K) of a pass over the batch.
            inner: returns the loss of any logits for this batch, with the objectives before this one in it.
            task_loss: the task's own loss, for objectives that change its terms.
        """
        ...


def make(kind: str, options: Mapping[str, Any], task: Task) -> Objective:
    """Return an objective by name."""
    module = catalogue.load(kind)
    return module.make(module.Options(**options), task)  # type: ignore[no-any-return]


def total(
    objectives: Sequence[Objective],
    model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    batch: dict[str, torch.Tensor],
    logits: torch.Tensor,
    task_loss: TaskLoss,
) -> torch.Tensor:
    """Return the loss with all objectives in it, each around those before it."""

    def up_to(count: int, given: torch.Tensor) -> torch.Tensor:
        if count == 0:
            return task_loss(given, batch)
        return objectives[count - 1].loss(model, batch, given, partial(up_to, count - 1), task_loss)

    return up_to(len(objectives), logits)
