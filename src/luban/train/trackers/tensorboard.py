"""TensorBoard: loss, rates, speed and scores as curves, in `tensorboard/` of the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.records import Step


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the tracker `tensorboard`."""

    folder: str = "tensorboard"
    """Folder of the events, within the run's folder."""


class TensorBoard:
    """Writes event files."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: Step) -> None:
        """Write one step's values."""
        values = {
            "train/loss": step.loss,
            "train/learning_rate": step.learning_rate,
            "train/grad_norm": step.grad_norm,
            "train/examples_per_s": step.examples_per_s,
            **{f"validation/{name}": value for name, value in (step.scores or {}).items()},
        }
        for name, value in values.items():
            self._writer.add_scalar(name, value, step.step)

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()


def make(options: Options, folder: Path) -> TensorBoard:
    """Return a tracker for one run."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoard(SummaryWriter(str(folder / options.folder)))
