"""`luban export --fastest`: every runtime and precision there is, measured on this machine, and the best written down.

Rule: what was measured stands in the project file, beside its reason, and nothing is guessed when a bundle is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from luban.bundle import measure, parity, runtimes
from luban.bundle.engine import Engine
from luban.bundle.measure import Timing
from luban.bundle.runtimes import onnx, openvino
from luban.data.sample import evenly_by_length
from luban.errors import GateError, LubanError, MissingExtra
from luban.evaluate.compare import compare
from luban.files import write_text
from luban.metrics.interval import Difference
from luban.models import checkpoint
from luban.models.limits import cores
from luban.project.load import Loaded
from luban.project.write import with_setting
from luban.records import Calibration, Listener, ignore
from luban.stages.flow import Ready, trained
from luban.stages.parts import measure_of
from luban.stages.places import CHECKPOINT
from luban.stages.record import Run
from luban.tasks import make_head

ROWS = 256
"""Validation rows, of every length, that everything is measured on."""


@dataclass(frozen=True)
class Way:
    """One way to run the model, and what it does here."""

    runtime: str
    precision: runtimes.Precision
    threads: int
    timing: Timing | None = None
    """None where it can't be taken."""
    refused: str = ""
    """Why it can't be."""
    max_difference: float = 0.0
    """Largest difference of a logit from torch's."""
    lost: Difference | None = None
    """What is lost of the task's main score on validation rows, against ONNX Runtime in fp32: positive is worse."""

    @property
    def name(self) -> str:
        """The way in a few words."""
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True)
class FastestResult:
    """What was tried, and what was chosen and written down."""

    project: Path
    tried: list[Way]
    chosen: Way
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`export` settings as they stand in the project file now."""


def fastest(project: Loaded, *, lose: float | None = None, on_progress: Listener = ignore) -> FastestResult:
    """Measure all ways to run a trained model, choose the fastest, and write it into the project file.

    One window alone and many together count alike. What is hardly faster than what asks for less is not taken.

    Args:
        project: as `luban.project.load.load` returns it.
        lose: how much of the task's main score products of fewer bits may lose on validation rows; without it the
            project's `compress.lose_at_most`.
        on_progress: told how far it has come.

    Raises:
        LubanError: the base can't be exported to a graph, or is shared with other tasks.
        ParityFailed: even ONNX Runtime in fp32 does not answer as torch does.
    """
    if runtimes.shares_base(project.project.export.runtime):
        raise LubanError(
            f"a base that tasks share runs in {project.project.export.runtime} alone: there is nothing to choose",
            hint="set `export.runtime: onnx` first, if this task shall have a base of its own",
        )
    may_lose = project.project.compress.lose_at_most if lose is None else lose
    with trained(project, on_progress) as (run, ready), TemporaryDirectory(dir=run.folder) as name:
        bench = _Bench(run, ready, Path(name), may_lose)
        most = cores()
        judged = [bench.judged(*way, most) for way in bench.ways()]
        good = {(way.runtime, way.precision): way for way in judged if not way.refused}
        timed = bench.timed({key: (*key, most) for key in good})
        runtime, precision = measure.best(timed)
        by_threads = bench.timed({n: (runtime, precision, n) for n in measure.numbers_of_threads(most)})
        threads = measure.best(by_threads)
        tried = [
            way if way.refused else _with(way, timed[way.runtime, way.precision], way.threads) for way in judged
        ]  # fmt: skip
        won = good[runtime, precision]
        tried += [_with(won, timing, n) for n, timing in by_threads.items() if n != most]
        chosen = next(way for way in tried if (way.name, way.threads) == (won.name, threads))
    plain = next(way for way in tried if way.name == "onnx fp32" and way.threads == most)
    settings = {
        "runtime": runtime, "precision": precision, "threads": 0 if threads == most else threads,
        "max_difference": _allowed(chosen, project.project.export.max_difference),
    }  # fmt: skip
    _write(project, settings, _reasons(chosen, plain, most))
    return FastestResult(Path(project.source), tried, chosen, settings)


class _Bench:
    """A graph on the bench, and what is measured on it."""

    def __init__(self, run: Run, ready: Ready, folder: Path, may_lose: float) -> None:
        self._run, self._folder, self._may_lose = run, folder, may_lose
        self._model, self._parts = checkpoint.load(run.folder / CHECKPOINT, make_head)
        task = self._task = ready.task
        table = evenly_by_length(ready.splits.validation.table, ROWS)
        self._rows = task.encode(table, self._parts.processor)
        self._measure = measure_of(run.loaded, task)
        self._inputs, self._gold = task.inputs(table), task.gold(table)
        self._tell("writing the graph")
        self._graph = onnx.write(self._model, folder, self._rows)
        self._answers: list[Any] = []

    def ways(self) -> list[tuple[str, runtimes.Precision]]:
        """Return what may be tried, the plainest first."""
        return [("onnx", "fp32"), *(("openvino", precision) for precision in openvino.PRECISIONS)]

    def judged(self, runtime: str, precision: runtimes.Precision, threads: int) -> Way:
        """Return a way with what it does to the answers.

        Raises:
            GateError: the plainest way does not answer as torch does.
        """
        way = Way(runtime, precision, threads)
        self._tell(f"comparing the answers of {way.name}")
        try:
            runner = self._open(runtime, precision, threads)
            allowed = self._run.loaded.project.export.max_difference if precision == "fp32" else math.inf
            facts = parity.check(
                self._model, runner, self._rows, pad_id=self._parts.processor.pad_id, per_token=self._task.per_token,
                max_difference=allowed, precision=precision,
            )  # fmt: skip
        except (MissingExtra, GateError) as error:
            if runtime == "onnx":
                raise
            return Way(runtime, precision, threads, refused=error.message)
        engine = Engine(
            name=self._run.loaded.project.name, task=self._task, processor=self._parts.processor, runner=runner,
            calibration=Calibration(), facts=self._parts.task["facts"],
        )  # fmt: skip
        answers = engine.predict(self._inputs)
        self._answers = self._answers or answers
        lost = compare(self._measure, self._gold, self._answers, answers).differences[self._measure.main]
        refused, is_plain = "", answers is self._answers
        if lost.value > self._may_lose and not is_plain:
            refused = f"loses {lost.value:.4f} {self._measure.main} on validation rows, allowed is {self._may_lose:g}"
        return Way(runtime, precision, threads, None, refused, facts["max_difference"], lost)

    def timed(self, ways: Mapping[Any, tuple[str, runtimes.Precision, int]]) -> dict[Any, Timing]:
        """Measure ways in turn."""
        self._tell(f"measuring {len(ways)} ways in turn")
        runners = {name: self._open(*way) for name, way in ways.items()}
        return measure.in_turn(runners, self._rows, pad_id=self._parts.processor.pad_id)

    def _open(self, runtime: str, precision: runtimes.Precision, threads: int) -> runtimes.Runner:
        facts = self._graph if runtime == "onnx" else openvino.of_onnx(self._graph, precision)
        return runtimes.open(runtime, self._folder, facts, threads)

    def _tell(self, message: str) -> None:
        self._run.tell("export", message)


def _with(way: Way, timing: Timing, threads: int) -> Way:
    return Way(way.runtime, way.precision, threads, timing, "", way.max_difference, way.lost)


def _allowed(chosen: Way, before: float) -> float:
    """Return the largest difference that the export accepts from now on: twice what was seen, in one digit."""
    if chosen.precision == "fp32":
        return before
    seen = 2 * chosen.max_difference
    unit = 10.0 ** math.floor(math.log10(seen)) if seen > 0 else 1.0
    return float(f"{math.ceil(seen / unit) * unit:.1g}") if seen > 0 else before


def _reasons(chosen: Way, plain: Way, most: int) -> dict[str, str]:
    """Return the comment beside each setting."""
    assert chosen.timing is not None
    assert plain.timing is not None
    sooner = plain.timing.latency.p50_ms / chosen.timing.latency.p50_ms
    more = chosen.timing.throughput.windows_per_s / plain.timing.throughput.windows_per_s
    gain = f"measured here: one text {sooner:.2f} times as soon, many {more:.2f} times as fast as by onnx in fp32"
    told = {"runtime": "the fastest here" if chosen is plain or chosen.name == plain.name else gain}
    told["precision"] = "exact" if chosen.precision == "fp32" else "fewer bits a product; logits change"
    told["threads"] = "every core" if chosen.threads == most else f"of {most}: more gain nothing here"
    told["max_difference"] = "largest difference of a logit from torch's that is accepted"
    if chosen.precision != "fp32":
        told["max_difference"] += f"; {chosen.max_difference:.2g} was seen"
    return told


def _write(project: Loaded, settings: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    path = Path(project.source)
    text = path.read_text("utf-8")
    for name, value in settings.items():
        text = with_setting(text, "export", name, value, reasons[name])
    write_text(path, text)
