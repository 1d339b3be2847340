"""Let easy rows count less, so that rare and hard labels count more (Lin et al. 2017, "Focal Loss")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from luban.objectives.terms import needs_single_answers, weighed

if TYPE_CHECKING:
    import torch

    from luban.objectives import TaskLoss
    from luban.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the objective `focal`."""

    gamma: Annotated[float, Field(ge=0.0)] = 2.0
    """The loss of an answer with probability p is multiplied by (1 - p) to this power; 0 changes nothing."""


def make(options: Options, task: Task) -> Focal:
    """Return the objective.

    Raises:
        PluginError: the task's loss has no terms by row or token, as that of a conditional random field.
    """
    needs_single_answers("focal", task)
    return Focal(options)


class Focal:
    """Takes the place of cross entropy; class weights and label smoothing of the project stay."""

    def __init__(self, options: Options) -> None:
        self.gamma = options.gamma

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the loss with the task's cross entropy exchanged for its focal form."""
        focal = focal_loss(logits, batch["targets"], self.gamma, task_loss.weights, task_loss.smoothing)
        return inner(logits) + focal - task_loss(logits, batch)


def focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    gamma: float,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the mean focal loss (a scalar), which with gamma 0 is the mean cross entropy; see `terms.weighed`."""

    def weight(log_right: torch.Tensor) -> torch.Tensor:
        # Kept off 0, where powers below 1 have no finite gradient.
        return (-log_right.expm1()).clamp(min=1e-6) ** gamma

    return weighed(logits, targets, weight, weights, smoothing)
