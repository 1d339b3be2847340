"""Let easy rows count less, so that rare and hard labels count more (Lin et al. 2017, "Focal Loss")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from luban.objectives.terms import Weighed, Weight, needs_single_answers, weighed

if TYPE_CHECKING:
    import torch

    from luban.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the objective `focal`."""

    gamma: Annotated[float, Field(ge=0.0)] = 2.0
    """The loss of an answer with probability p is multiplied by (1 - p) to this power; 0 changes nothing."""


def make(options: Options, task: Task) -> Weighed:
    """Return the objective.

    Raises:
        PluginError: the task's loss has no terms by row or token, as that of a conditional random field.
    """
    needs_single_answers("focal", task)
    return Weighed(_weight(options.gamma))


def focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    gamma: float,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the mean focal loss (a scalar), which with gamma 0 is the mean cross entropy; see `terms.weighed`."""
    return weighed(logits, targets, _weight(gamma), weights, smoothing)


def _weight(gamma: float) -> Weight:
    """Return what makes (1 - p)^gamma of log p; it is kept off 0, where powers below 1 have no finite gradient."""
    return lambda log_right: (-log_right.expm1()).clamp(min=1e-6) ** gamma
