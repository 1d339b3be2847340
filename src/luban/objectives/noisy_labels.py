"""Let rows whose label the model does not believe teach less: for data in which many labels are wrong.

A model learns what most rows say before it learns single rows by heart (Arpit et al. 2017), so that what it does not
believe by then is often wrong. The gradient is that of generalised cross entropy (Zhang and Sabuncu 2018), which lies
between cross entropy and the mean absolute error, and of which label smoothing and class weights can be part.
"""

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
    """Settings of the objective `noisy-labels`."""

    q: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    """A label with probability p counts p to this power; 0 is cross entropy, 1 trusts least and learns slowest."""


def make(options: Options, task: Task) -> NoisyLabels:
    """Return the objective.

    Raises:
        PluginError: the task's loss has no terms by row or token, as that of a conditional random field.
    """
    needs_single_answers("noisy-labels", task)
    return NoisyLabels(options)


class NoisyLabels:
    """Takes the place of cross entropy; class weights and label smoothing of the project stay."""

    def __init__(self, options: Options) -> None:
        self.q = options.q

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the loss with the task's cross entropy exchanged for the doubting one."""
        doubting = weighed(
            logits, batch["targets"], lambda log_right: (self.q * log_right.detach()).exp(), task_loss.weights,
            task_loss.smoothing,
        )  # fmt: skip
        return inner(logits) + doubting - task_loss(logits, batch)
