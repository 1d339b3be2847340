"""Let easy rows count less, so that rare and hard labels count more (Lin et al. 2017, "Focal Loss")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from luban.errors import PluginError

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
    if getattr(getattr(task, "options", None), "crf", False):
        raise PluginError(
            "the objective focal weighs single answers, and a conditional random field scores whole rows",
            hint="set crf: false in the task, or leave focal out; class_weights works with both",
        )
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
    """Return the mean focal loss (a scalar), which with gamma 0 is the mean cross entropy.

    Args:
        logits: (B, K) or (B, L, K).
        targets: (B,) or (B, L) int64, -100 where nothing is asked; or (B, K) floats of 0 and 1 for multi-label.
        gamma: power of the weight (1 - p).
        weights: (K,): of each label, or for multi-label of its ones against its zeros.
        smoothing: share of the target that is spread over all labels.
    """
    from torch.nn import functional

    if targets.is_floating_point():
        smooth = targets * (1 - smoothing) + smoothing / 2
        terms = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none")
        right = functional.logsigmoid(logits.where(targets > 0.5, -logits))
        return (terms * _weight(right, gamma)).mean()
    asked = targets >= 0
    scores, wanted = logits[asked], targets[asked]
    if not len(wanted):
        return logits.sum() * 0.0
    terms = functional.cross_entropy(scores, wanted, weight=weights, label_smoothing=smoothing, reduction="none")
    right = scores.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    counted = terms.new_tensor(len(wanted)) if weights is None else weights[wanted].sum()
    return (terms * _weight(right, gamma)).sum() / counted


def _weight(log_right: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return (1 - p)^gamma for log p; it is kept off 0, where powers below 1 have no finite gradient."""
    weight: torch.Tensor = (-log_right.expm1()).clamp(min=1e-6) ** gamma
    return weight
