"""Make two passes with different dropout agree (Liang et al. 2021, "R-Drop").

A step costs about twice as much, and it needs dropout: without it, both passes are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    import torch

    from luban.objectives import TaskLoss
    from luban.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the objective `r-drop`."""

    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the disagreement beside the task's loss; the paper takes 0.1 to 5. 0 takes no second pass."""


def make(options: Options, task: Task) -> RDrop:
    """Return the objective."""
    return RDrop(options)


class RDrop:
    """The mean loss of two passes, and how far their answers are apart."""

    def __init__(self, options: Options) -> None:
        self.alpha = options.alpha

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the mean of both passes' losses plus alpha times their disagreement."""
        if self.alpha == 0:
            return inner(logits)
        other = model(batch)
        return (inner(logits) + inner(other)) / 2 + self.alpha * disagreement(logits, other, batch["targets"])


def disagreement(one: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean of both Kullback-Leibler divergences between two passes, a scalar, in nats.

    Args:
        one: (B, K) or (B, L, K) logits.
        other: logits of the same shape.
        targets: as the task has them: float for multi-label, where every label is a distribution of its own;
            -100 where nothing is asked, and nothing compared.
    """
    from torch.nn import functional

    if targets.is_floating_point():
        # Both divergences together are (p - q)(log odds of p - log odds of q), and logits are log odds.
        return ((one.sigmoid() - other.sigmoid()) * (one - other)).mean() / 2
    asked = targets >= 0
    if not bool(asked.any()):
        return one.sum() * 0.0
    p, q = one[asked].log_softmax(-1), other[asked].log_softmax(-1)
    there = functional.kl_div(p, q, log_target=True, reduction="batchmean")
    back = functional.kl_div(q, p, log_target=True, reduction="batchmean")
    return (there + back) / 2
