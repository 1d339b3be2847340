"""Runtimes: what executes a bundle. One file a runtime: `write` puts a model into a folder, `open` runs it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from luban.errors import LubanError
from luban.models.limits import cores
from luban.plugins import Catalogue

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from luban.models.heads import TaskModel
    from luban.records import Encoded

Precision = Literal["fp32", "bf16"]
catalogue = Catalogue("luban.bundle.runtimes", "runtime")


@dataclass(frozen=True)
class Origin:
    """What a model was trained from, and what of it an adapter may have changed."""

    body: nn.Module
    """The base's plain body."""
    layers: Sequence[str] = ()
    """Paths of the linear layers that have changed by matrices of low rank."""


class Runner(Protocol):
    """A model that was opened and runs. Several threads may run it at once.

    Legend: B windows in a batch, L tokens in the longest of them, K outputs.
    """

    threads: int
    """Threads that one call may use."""

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return logits (B, K) or (B, L, K), float32, for ids and mask (B, L), both int64; the mask is 1 at tokens."""
        ...


class Runtime(Protocol):
    """What a runtime's module offers."""

    def write(self, model: TaskModel, folder: Path, example: Encoded, **given: Any) -> dict[str, Any]:
        """Write what `open` needs into `folder` and return facts for it, as JSON values.

        The same model gives the same bytes, and neither paths nor times are among them.

        Args:
            model: on the CPU, in evaluation mode.
            folder: is there; `write` adds files with endings that a bundle may hold.
            example: real windows, with which the runtime may try out what it has written.
            given: `precision` where it is not fp32, to a module whose `PRECISIONS` has it; `origin`, an `Origin`,
                to one whose `SHARES_BASE` is true.
        """
        ...

    def open(self, folder: Path, facts: Mapping[str, Any], threads: int) -> Runner:
        """Return a runner for what `write` left in a folder; `threads` 0 means the facts' own, or every core.

        Raises:
            CorruptBundle: the model's file can't be used; the message names it.
            MissingExtra: a package that this runtime needs is not installed.
        """
        ...


def shares_base(kind: str) -> bool:
    """Tell whether a runtime keeps the base apart from what a task has learned."""
    return bool(getattr(catalogue.load(kind), "SHARES_BASE", False))


def write(
    kind: str,
    model: TaskModel,
    folder: Path,
    example: Encoded,
    precision: Precision = "fp32",
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Write a model for a runtime, by its name; see `Runtime.write`.

    Raises:
        LubanError: the runtime has no products of this precision.
    """
    runtime: Runtime = catalogue.load(kind)
    if precision not in (known := getattr(runtime, "PRECISIONS", ("fp32",))):
        raise LubanError(
            f"the runtime {kind} multiplies in {' or '.join(known)}; got precision {precision}",
            hint="set `export.runtime: openvino`, or `export.precision: fp32`",
        )
    given: dict[str, Any] = {} if precision == "fp32" else {"precision": precision}
    if origin is not None and shares_base(kind):
        given["origin"] = origin
    return runtime.write(model, folder, example, **given)


def n_threads(facts: Mapping[str, Any], wanted: int) -> int:
    """Return how many threads a call may use: those wanted, else the bundle's own `threads` or every core there is."""
    return wanted or min(int(facts.get("threads", 0)) or cores(), cores())


def n_callers(threads: int) -> int:
    """Return how many runs at once pay for a runner with so many threads.

    Two runs at once keep the cores busy where one run alone has steps that only one thread can do: on two cores 1.2
    times as fast as one run with both, and no slower than two sessions with a thread each.
    """
    return max(1, min(threads, 4))


def open(kind: str, folder: Path, facts: Mapping[str, Any], threads: int = 0) -> Runner:
    """Open what a runtime wrote, by the runtime's name; see `Runtime.open`."""
    runtime: Runtime = catalogue.load(kind)
    return runtime.open(folder, facts, threads)
