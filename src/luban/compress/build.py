"""From a plan to files: steps on the model, export, steps on the graph. What is finished is kept and not done twice.

Plans share their beginnings: what `vocabulary, layers keep=3` made serves every plan that goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luban.bundle import early, parity
from luban.bundle.runtimes import onnx as onnx_runtime
from luban.compress import Candidate, Material, as_json, checkpoints, make, told, works_on
from luban.data.sample import evenly_by_length
from luban.errors import Diverged, LubanError, Problem, ProjectError, TrainError
from luban.files import MANIFEST, digest_json, new_folder, read_json, seal, verify, write_json
from luban.models import checkpoint
from luban.models.processor import Processor
from luban.project.schema import Plugin
from luban.records import Encoded, Progress
from luban.tasks import make_head

MODELS, GRAPHS, STATES = "models", "graphs", "states"
FACTS = "steps.json"
EXAMPLE_ROWS = 256
"""Training rows on which graphs are compared with their models, and by which steps on graphs are calibrated."""


class Refused(Exception):
    """A step can't be done on this model. The search goes on without it; nobody above the search sees this."""

    def __init__(self, step: Plugin, error: LubanError) -> None:
        super().__init__(str(error))
        self.step, self.error = step, error


@contextmanager
def _refusing(step: Plugin) -> Iterator[None]:
    """Turn a step's errors into a refusal, but for training that this machine or its disk can't go on with."""
    try:
        yield
    except Diverged as error:
        found = Diverged(error.message, hint=f"give the step {step.kind} a lower learning_rate")
        raise Refused(step, found) from error
    except TrainError:
        raise
    except LubanError as error:
        raise Refused(step, error) from error


@dataclass(frozen=True)
class Built:
    """What a plan has made, sealed."""

    plan: tuple[Plugin, ...]
    folder: Path
    """Holds the runtime's files, the processor's, and `steps.json`."""
    runtime: Mapping[str, Any]
    """What the runtime needs to open it."""
    processor: Processor
    facts: Mapping[str, Any]
    """What each step has to tell, by its name."""

    @property
    def size_mb(self) -> float:
        """All its files, in millions of bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.name != FACTS) / 1e6


class Workshop:
    """Builds plans in one folder, where what is finished stays."""

    def __init__(self, folder: Path, source: Path, material: Material, *, key: str, max_difference: float) -> None:
        """Store what plans begin with.

        Args:
            folder: where models and graphs are kept.
            source: the checkpoint of the uncompressed model, which is never touched.
            material: what methods may learn from.
            key: digest of all that decides results besides the plan: checkpoint, data, code.
            max_difference: largest difference of a logit from torch's that an export may have.
        """
        self._folder, self._source, self._material = folder, source, material
        self._key, self._max_difference = key, max_difference
        self.parts = checkpoint.read_parts(source)

    def build(self, plan: Sequence[Plugin]) -> Built:
        """Return what a plan makes: from now, or as it was made before.

        Raises:
            Refused: a step can't be done on this model; what was finished before it stays.
            ParityFailed: the exported model does not answer as the torch model does.
        """
        plan = tuple(plan)
        folder = self._place(GRAPHS, plan)
        if not _is_sealed(folder):
            split = next((at for at, step in enumerate(plan) if works_on(step.kind) == "graph"), len(plan))
            if late := [step.kind for step in plan[split:] if works_on(step.kind) == "model"]:
                got = f"{late[0]} after {plan[split].kind}"
                raise ProjectError([Problem("compress.plan", got, f"{late[0]} before it: it changes the model")])
            self._write(plan[:split], plan[split:], folder)
        found = read_json(folder / FACTS)
        return Built(plan, folder, found["runtime"], Processor.from_dir(folder), found["facts"])

    def has(self, plan: Sequence[Plugin]) -> bool:
        """Tell whether a plan was built before, so that building it costs nothing."""
        return _is_sealed(self._place(GRAPHS, tuple(plan)))

    def candidate(self, plan: Sequence[Plugin]) -> Candidate:
        """Return the model that steps on models make, from now or from when it was made."""
        plan = tuple(plan)
        folder = self._place(MODELS, plan) if plan else self._source
        if plan and not _is_sealed(folder):
            return self._made(plan, folder)
        model, parts = checkpoint.load(folder, make_head)
        return Candidate(model, parts.processor, parts.task.get("compressed", {}))

    def _made(self, plan: tuple[Plugin, ...], folder: Path) -> Candidate:
        step = plan[-1]
        states = self._place(STATES, plan)
        before = self.candidate(plan[:-1])
        self._material.on_progress(_progress(f"{told(plan)}: {step.kind}"))
        with _refusing(step):
            found: Candidate = make(step).apply(before, replace(self._material, folder=states))
        facts = {**self.parts.task, "facts": self._material.task.facts(found.model.head), "compressed": found.facts}
        checkpoint.save(found.model, checkpoint.Parts(facts, self.parts.base, found.processor), folder)
        shutil.rmtree(states, ignore_errors=True)
        return found

    def _write(self, on_model: tuple[Plugin, ...], on_graph: tuple[Plugin, ...], folder: Path) -> None:
        from luban.models.heads import Shallow

        candidate = self.candidate(on_model)
        example = self.example(candidate.processor)
        task, leaving = self._material.task, candidate.model.early
        facts = dict(candidate.facts)
        self._material.on_progress(_progress(f"{told((*on_model, *on_graph)) or 'uncompressed'}: exporting"))
        with new_folder(folder, replace=True) as aside:
            runtime = onnx_runtime.write(candidate.model, aside, example)
            runner = onnx_runtime.open(aside, runtime, 0)
            views: list[tuple[Any, Any]] = [(candidate.model, runner)]
            if leaving is not None:
                views.append((Shallow(candidate.model).eval(), runner.giving(early.EARLY_LOGITS)))
            for model, one in views:
                parity.check(
                    model, one, example, pad_id=candidate.processor.pad_id, per_token=task.per_token,
                    max_difference=self._max_difference,
                )  # fmt: skip
            graph = aside / onnx_runtime.GRAPH
            for step in on_graph:
                self._material.on_progress(_progress(f"{told((*on_model, *on_graph))}: {step.kind}"))
                with _refusing(step):
                    changed, seen = make(step).apply(graph.read_bytes(), example, onnx_runtime.runner)
                graph.write_bytes(changed)
                facts = {**facts, step.kind: seen}
            if leaving is not None:
                with _refusing(next(step for step in on_model if step.kind == "early-exit")):
                    folded = early.fold(graph.read_bytes(), sure=leaving.sure, temperature=leaving.temperature)
                graph.write_bytes(folded)
            candidate.processor.to_dir(aside)
            write_json(aside / FACTS, {"runtime": runtime, "facts": facts})
            seal(aside, {"kind": "graph", "runtime": runtime})

    def example(self, processor: Processor) -> Encoded:
        """Return real windows of every length, for parity and calibration."""
        return self._material.task.encode(evenly_by_length(self._material.train, EXAMPLE_ROWS), processor)

    def _place(self, kind: str, plan: tuple[Plugin, ...]) -> Path:
        others = [self._material.root / folder / MANIFEST for step in plan for folder in checkpoints(step)]
        read = {"checkpoints": [read_json(one)["digest"] for one in others]} if others else {}
        return self._folder / kind / digest_json({"key": self._key, "steps": as_json(plan), **read})[:16]


def _is_sealed(folder: Path) -> bool:
    """Tell whether a folder was finished and is as it was then; anything else is made again."""
    try:
        verify(folder)
    except LubanError:
        return False
    return True


def _progress(message: str) -> Progress:
    return Progress("compress", message)
