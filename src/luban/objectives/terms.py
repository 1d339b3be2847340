"""The terms of a loss, one an answer, each with a weight of its own: for objectives that trust answers unlike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from luban.errors import PluginError

if TYPE_CHECKING:
    import torch

    from luban.objectives import TaskLoss
    from luban.tasks import Task

Weight = Callable[["torch.Tensor"], "torch.Tensor"]
"""Makes weights of the logarithms of the probabilities that the right answers have."""


class Weighed:
    """An objective in place of cross entropy; class weights and label smoothing of the project stay."""

    def __init__(self, weight: Weight) -> None:
        self._weight = weight

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the loss with the task's cross entropy exchanged for its weighed form."""
        found = weighed(logits, batch["targets"], self._weight, task_loss.weights, task_loss.smoothing)
        return inner(logits) + found - task_loss(logits, batch)


def needs_single_answers(name: str, task: Task) -> None:
    """Refuse a task whose loss has no terms by row or token.

    Raises:
        PluginError: it is a conditional random field.
    """
    if getattr(getattr(task, "options", None), "crf", False):
        raise PluginError(
            f"the objective {name} weighs single answers, and a conditional random field scores whole rows",
            hint=f"set crf: false in the task, or leave {name} out; class_weights works with both",
        )


def weighed(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weight: Weight,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the mean cross entropy (a scalar) with each answer's term multiplied by a weight.

    Args:
        logits: (B, K) or (B, L, K).
        targets: (B,) or (B, L) int64, -100 where nothing is asked; or (B, K) floats of 0 and 1 for multi-label.
        weight: makes weights of the logarithms of the probabilities that the right answers have.
        weights: (K,): of each label, or for multi-label of its ones against its zeros.
        smoothing: share of the target that is spread over all labels.
    """
    from torch.nn import functional

    if targets.is_floating_point():
        smooth = targets * (1 - smoothing) + smoothing / 2
        terms = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none")
        right = functional.logsigmoid(logits.where(targets > 0.5, -logits))
        return (terms * weight(right)).mean()
    asked = targets >= 0
    scores, wanted = logits[asked], targets[asked]
    if not len(wanted):
        return logits.sum() * 0.0
    terms = functional.cross_entropy(scores, wanted, weight=weights, label_smoothing=smoothing, reduction="none")
    right = scores.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    counted = terms.new_tensor(len(wanted)) if weights is None else weights[wanted].sum()
    return (terms * weight(right)).sum() / counted
