"""Compression: from a trained model to the smallest and fastest one that keeps a promise of quality.

A method is one step of a plan, in one file of `methods/`; steps compose, and go from the model to its graph:

    vocabulary -> window -> layers -> early-exit -> prune -> factorise -> distil  |  quantise
    steps on the torch model, which can be trained again  |  steps on the exported graph

Legend: W windows, T tokens, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from luban.compress.methods import catalogue
from luban.records import Listener, ignore

if TYPE_CHECKING:
    import pyarrow as pa

    from luban.models.heads import TaskModel
    from luban.models.processor import Processor
    from luban.project.schema import Plugin, TrainSection
    from luban.records import Encoded
    from luban.tasks import Task

__all__ = [
    "Candidate", "GraphMethod", "Material", "ModelMethod", "as_json", "catalogue", "checkpoints", "make", "told",
    "works_on",
]  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A model on its way to being small. A method returns a new one and leaves the one that it was given as it was."""

    model: TaskModel
    """On the CPU, in evaluation mode."""
    processor: Processor
    """How inputs become what the model reads; only methods that are about text look into it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What methods have to tell, by their names: what was kept, what was cut, what it cost. JSON values."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a method may learn from. Test rows are never in it."""

    task: Task
    train: pa.Table
    """Labelled rows, as `Dataset.table` has them."""
    validation: pa.Table
    """Rows to choose by."""
    settings: TrainSection
    """How the model was trained: batch size, precision, seed, threads."""
    folder: Path
    """Where a method may keep states to go on from when it was killed. It is cleared when the step is done."""
    teacher: Candidate
    """The uncompressed model, with the processor that it was trained with."""
    unlabelled: Sequence[Any] = ()
    """Rows without labels, as the engine takes them, for methods that learn from a teacher's answers."""
    root: Path = Path()
    """Where paths in options start: the project's folder."""
    on_progress: Listener = ignore


class ModelMethod(Protocol):
    """What `make(options)` returns in the module of a method on models; the module says `WORKS_ON = "model"`.

    Where it reads other checkpoints, the module has `checkpoints(options)`, which returns their folders.
    """

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return a smaller or faster candidate.

        Raises:
            LubanError: this model has not what the method works on, with what it has; nothing is changed.
        """
        ...


class GraphMethod(Protocol):
    """What `make(options)` returns in the module of a method on graphs; the module says `WORKS_ON = "graph"`."""

    def apply(self, graph: bytes, example: Encoded, run: Callable[[bytes], Any]) -> tuple[bytes, dict[str, Any]]:
        """Return a smaller or faster graph, and facts about it as JSON values.

        Args:
            graph: an ONNX graph, serialised; its initialisers are inside.
            example: real windows, for calibration and for finding the operators that bear it badly.
            run: opens a graph and returns its `luban.bundle.runtimes.Runner`.
        """
        ...


def works_on(kind: str) -> Literal["model", "graph"]:
    """Tell whether a method changes the torch model or the exported graph."""
    where: Literal["model", "graph"] = catalogue.load(kind).WORKS_ON
    return where


def checkpoints(step: Plugin) -> tuple[str, ...]:
    """Return the folders of other checkpoints that a step reads, as its options name them."""
    module = catalogue.load(step.kind)
    return tuple(module.checkpoints(module.Options(**step.options))) if hasattr(module, "checkpoints") else ()


def make(step: Plugin) -> Any:
    """Return the method of one step of a plan, a `ModelMethod` or a `GraphMethod`."""
    module = catalogue.load(step.kind)
    return module.make(module.Options(**step.options))


def told(plan: Sequence[Plugin]) -> str:
    """Return a plan in one line, with the options that are not as the method has them: `layers keep=2, quantise`."""
    return ", ".join(
        " ".join(str(value) if name == "kind" else f"{name}={value}" for name, value in step.items())
        for step in as_json(plan)
    )


def as_json(plan: Sequence[Plugin]) -> list[dict[str, Any]]:
    """Return a plan as it stands in a project file, options that are as their method has them left out."""
    plain = {step.kind: {item.name: item.default for item in fields(_options(step.kind))} for step in plan}
    return [
        {"kind": step.kind, **{name: value for name, value in step.options.items() if plain[step.kind][name] != value}}
        for step in plan
    ]


def _options(kind: str) -> Any:
    return catalogue.load(kind).Options
