"""Objectives: what the loss adds to the task's own. One file a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from luban.plugins import Catalogue

if TYPE_CHECKING:
    import torch

    from luban.tasks import Task

catalogue = Catalogue("luban.objectives", "objective")


class Objective(Protocol):
    """What `make(options, task)` of an objective's module returns."""

    def loss(self, model: Callable[[dict[str, torch.Tensor]], torch.Tensor], batch: dict[str, torch.Tensor],
             logits: torch.Tensor, task_loss: torch.Tensor) -> torch.Tensor:
        """Return the new loss (a scalar).

        Args:
            model: runs a batch again, for objectives that compare two passes.
            batch: input_ids, attention_mask (B, L) and targets.
            logits: (B, K) or (B, L, K) of the pass that gave `task_loss`.
            task_loss: the task's loss, a scalar, or what the objective before this one returned.
        """
        ...


def make(kind: str, options: dict[str, Any], task: Task) -> Objective:
    """Return an objective by name."""
    module = catalogue.load(kind)
    return module.make(module.Options(**options), task)  # type: ignore[no-any-return]
