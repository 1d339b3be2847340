"""Train on the worst small change of the word vectors too (Miyato et al. 2017, "Adversarial Training for Text").

A step takes two passes more, one to find the change and one to learn from it. It works with frozen embeddings:
what is changed are the vectors of the pass, not the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luban.errors import TrainError

if TYPE_CHECKING:
    import torch

    from luban.objectives import TaskLoss
    from luban.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the objective `adversarial`."""

    epsilon: Annotated[float, Field(gt=0.0)] = 0.1
    """Length of the change of a row's word vectors, as a share of their own length: it suits bases of any scale."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the loss on changed vectors beside the loss on the true ones; 0 takes no further pass."""


def make(options: Options, task: Task) -> Adversarial:
    """Return the objective."""
    return Adversarial(options)


class Adversarial:
    """The loss on the rows as they are, plus that on their word vectors moved where the loss rises fastest."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the loss on true vectors plus the weighted loss on changed ones."""
        loss = inner(logits)
        if self.options.weight == 0:
            return loss
        change = self._worst_change(model, batch, task_loss)
        moved, _ = run_moved(model, batch, change)
        return loss + self.options.weight * inner(moved)

    def _worst_change(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the change (B, L, width) of each row's vectors along the gradient of the task's loss."""
        import torch

        logits, seen = run_moved(model, batch, None)
        gradient: torch.Tensor = torch.autograd.grad(task_loss(logits, batch), seen.change)[0]
        mask = batch["attention_mask"].unsqueeze(-1)
        lengths = (seen.vectors * mask).flatten(1).norm(dim=1)
        scale = self.options.epsilon * lengths / gradient.flatten(1).norm(dim=1).clamp(min=1e-20)
        change: torch.Tensor = gradient * scale[:, None, None]
        return change


@dataclass
class Seen:
    """The word vectors of a pass, (B, L, width), and what was added to them."""

    vectors: torch.Tensor
    change: torch.Tensor


def run_moved(
    model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    batch: dict[str, torch.Tensor],
    change: torch.Tensor | None,
) -> tuple[torch.Tensor, Seen]:
    """Run a batch with something added to its word vectors; None adds zeros that gradients are taken of.

    Returns:
        The logits, and what the vectors were.

    Raises:
        TrainError: the base does not look its tokens up in an embedding matrix.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    ids = batch["input_ids"]
    found: list[Seen] = []

    class Move(TorchFunctionMode):
        """Sees every lookup in an embedding matrix; that of the batch's own ids is the one of the words."""

        def __torch_function__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is torch.nn.functional.embedding and not found and _is(args[0], ids):
                added = torch.zeros_like(out, requires_grad=True) if change is None else change.to(out.dtype)
                found.append(Seen(out.detach(), added))
                return out + added
            return out

    with Move():
        logits = model(batch)
    if not found:
        raise TrainError(
            "adversarial found no word vectors: the base does not look its tokens up in an embedding matrix",
            hint="leave adversarial out of train.objectives",
        )
    return logits, found[0]


def _is(tensor: torch.Tensor, ids: torch.Tensor) -> bool:
    return tensor is ids or (tensor.shape == ids.shape and tensor.data_ptr() == ids.data_ptr())
