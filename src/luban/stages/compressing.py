"""The stage `compress`: the finished model made smaller, to a budget, and sealed as a second bundle beside the first.

Plans are chosen by validation rows; the chosen one is judged on the test rows once, beside the uncompressed model. The
uncompressed bundle is never touched.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban.bundle import seal as sealing
from luban.bundle.engine import Engine
from luban.bundle.runtimes import shares_base
from luban.compress import Candidate, Material, as_json, checkpoints, told
from luban.compress.build import Workshop
from luban.compress.ladder import Shape, ladder, windows
from luban.compress.search import Budget, Point, Scales, choose, frontier, search, shown
from luban.errors import BelowGate, Problem, ProjectError
from luban.evaluate import score
from luban.evaluate.answers import pack
from luban.evaluate.compare import compare
from luban.evaluate.frontier import write as write_frontier
from luban.files import digest_json, read_json, write_json, write_text
from luban.metrics.interval import Difference
from luban.models import checkpoint
from luban.project import lock
from luban.project.load import Loaded
from luban.project.schema import Plugin
from luban.project.write import with_setting
from luban.records import Bundle, Listener, ignore
from luban.stages.flow import Ready, finished
from luban.stages.parts import is_multi_label, measure_of, task_json
from luban.stages.places import BUNDLE, CHECKPOINT, COMPRESS, COMPRESSED, DATA
from luban.stages.record import Run, code_digest, digest_of
from luban.stages.unlabelled import unlabelled_rows
from luban.tasks import make_head


@dataclass(frozen=True)
class CompressResult:
    """What a search has found, and the bundle that was sealed."""

    folder: Path
    """Holds `compress.html`, `compress.md` and `compress.json`."""
    points: Sequence[Point]
    """Everything that was measured, the uncompressed model first."""
    best: Sequence[Point]
    """The frontier: what no other point beats in size, latency and quality at once; smallest first."""
    chosen: Point | None
    """None where only the frontier was asked for."""
    lost: Difference | None = None
    """What the chosen plan loses on the test rows, against the uncompressed model."""
    bundle: Bundle | None = None


def compress(
    project: Loaded,
    *,
    size_mb: float | None = None,
    latency_ms: float | None = None,
    lose: float | None = None,
    minutes: float | None = None,
    only_frontier: bool = False,
    on_progress: Listener = ignore,
) -> CompressResult:
    """Find the smallest and fastest model that keeps a budget, judge it, and seal it.

    Stages up to the uncompressed bundle are run first where they are not done. What is given here goes before the
    project file's. A project that has a plan gets that plan, built and judged; plans are searched where it has none, or
    where size, latency, minutes or the frontier are asked for here. The chosen plan is written into the project file.

    Args:
        project: as `luban.project.load.load` returns it.
        size_mb: most millions of bytes of the bundle.
        latency_ms: longest median time of one answer here.
        lose: how much of the task's main score may be lost.
        minutes: after so many no further plan is begun.
        only_frontier: measure every plan, and choose none.
        on_progress: told how far it has come.

    Raises:
        BelowGate: no plan keeps the budget, or the chosen one loses more on test rows for certain; the message has the
            nearest. No compressed bundle is then sealed, and one from before is gone.
        ProjectError: the project shares its base with others, settings beside its file say otherwise than what is
            given here, or a checkpoint that its plan reads is not there.
    """
    asked = {
        "compress.at_most": (size_mb, latency_ms),
        "compress.minutes": (minutes,),
        "compress.lose_at_most": (lose,),
    }
    given = {setting for setting, values in asked.items() if any(value is not None for value in values)}
    searches = only_frontier or bool(given - {"compress.lose_at_most"})
    _refuse_contradictions(project, given, searches=searches)
    _refuse_shared(project)
    settings = project.project.compress
    own = bool(settings.plan) and not searches
    if own:
        project.want("compress.plan", [folder for step in settings.plan for folder in checkpoints(step)])
    with finished(project, on_progress) as (run, ready):
        run.tell("compress", "measuring the uncompressed model")
        work = _Work(run, ready)
        budget = Budget(
            size_mb=size_mb or settings.at_most.get("size_mb", float("inf")),
            latency_ms=latency_ms or settings.at_most.get("latency_ms", float("inf")),
            lose=settings.lose_at_most if lose is None else lose,
        )
        plans = [settings.plan] if own else ladder(work.shape())
        minutes = minutes or settings.minutes
        run.tell("compress", "the project's own plan; `compress.plan=[]` searches for one" if own else
                 f"{len(plans)} plans to try, cheap ones first, none begun after {minutes:g} minutes (`--minutes`); "
                 "stopped and begun again, it goes on")  # fmt: skip
        points = []
        for point in search(
            work.workshop, work.scales, plans, lose=float("inf") if only_frontier else budget.lose,
            minutes=minutes, on_progress=run.on_progress,
        ):  # fmt: skip
            points.append(point)
            work.tell_all(points, None, None)
        best = frontier(points)
        if only_frontier:
            return CompressResult(work.folder, points, best, None)
        shutil.rmtree(run.folder / COMPRESSED, ignore_errors=True)  # it may not keep what is promised now
        chosen = choose(points, budget, own=own)
        run.tell("compress", f"chosen: {chosen.name}: {shown(chosen)}")
        lost, bundle = work.judge(chosen, budget)
        work.tell_all(points, chosen, lost)
        _remember(project, chosen.plan)
        return CompressResult(work.folder, points, best, chosen, lost, bundle)


class _Work:
    """What one call works with."""

    def __init__(self, run: Run, ready: Ready) -> None:
        self.run, self.ready = run, ready
        self.folder = run.folder / COMPRESS
        project = run.loaded.project
        source = run.folder / CHECKPOINT
        self.parts = checkpoint.read_parts(source)
        task = ready.task
        self.measure = measure_of(run.loaded, task)
        settings = lock.resolved(project)
        unlabelled = unlabelled_rows(run, ready)
        key = digest_json({
            "checkpoint": digest_of(source), "data": digest_of(run.folder / DATA),
            **({"unlabelled": digest_json(unlabelled)} if unlabelled else {}),
            "code": code_digest("compress", "bundle", "models", "tasks", "train", "objectives"),
            "train": settings["train"],
        })  # fmt: skip
        self.material = Material(
            task=task, train=ready.splits.train.table, validation=ready.splits.validation.table,
            settings=project.train, folder=self.folder / "states", teacher=_teacher(source),
            unlabelled=unlabelled, root=run.loaded.root, on_progress=run.on_progress,
        )  # fmt: skip
        self.workshop = Workshop(
            self.folder, source, self.material, key=key, max_difference=project.export.max_difference
        )
        opened = Engine.open(run.folder / BUNDLE)
        validation = ready.splits.validation.table
        self.scales = Scales(
            self.workshop.build(()), self.measure, opened, task.inputs(validation), task.gold(validation)
        )

    def shape(self) -> Shape:
        """Return what decides which plans make sense."""
        task = self.ready.task
        layers = read_json(self.run.folder / CHECKPOINT / "body.json").get("num_hidden_layers", 0)
        lengths = task.encode(self.material.train, self.material.teacher.processor).lengths
        return Shape(n_layers=int(layers), windows=() if task.per_token else windows(lengths))

    def judge(self, chosen: Point, budget: Budget) -> tuple[Difference, Bundle]:
        """Judge the chosen plan on the test rows, beside the uncompressed bundle, and seal it.

        Raises:
            BelowGate: it surely loses more than may be lost.
        """
        run, task = self.run, self.ready.task
        table = self.ready.splits.test.table
        rows, gold = task.inputs(table), task.gold(table)
        built = self.workshop.build(chosen.plan)
        engine = self._calibrated(self.scales.engine(built))
        run.tell("compress", f"judging on {len(rows):,} test rows")
        answers, before = engine.predict(rows), Engine.open(run.folder / BUNDLE).predict(rows)
        lost = compare(self.measure, gold, before, answers).differences[self.measure.main]
        if lost.low > budget.lose:
            raise BelowGate(
                f"{chosen.name} loses {lost.value:.4f} {self.measure.main} on the test rows, surely more than "
                f"{budget.lose:g}: the interval is {lost.low:.4f} to {lost.high:.4f}",
                measured=lost.value, allowed=budget.lose,
                hint="allow more, `compress.lose_at_most`; or give a gentler plan, or more validation rows",
            )  # fmt: skip
        project = run.loaded.project
        report = score.report(
            name=project.name, task=task.kind, labels=task.labels, multi_label=is_multi_label(run.loaded), gold=gold,
            predictions=answers, table=table, baselines={"uncompressed": before}, settings=project.evaluate,
            digests={
                "data": digest_of(run.folder / DATA), "graph": digest_of(built.folder), "project": run.loaded.digest,
            },
            lock={"plan": told(chosen.plan), "steps": built.facts},
        )  # fmt: skip
        kind, options = task_json(run.loaded)
        bundle = sealing.seal(
            run.folder / COMPRESSED, name=project.name,
            task={"kind": kind, "options": options, "labels": list(task.labels), "facts": self.parts.task["facts"]},
            base=self.parts.base, runtime=built.runtime, graph=built.folder, processor=built.processor,
            calibration=engine.calibration, report=report, languages=project.data.languages,
            reference=engine.reference(task.inputs(self.ready.splits.validation.table)),
            project={**_promised(lock.resolved(project), budget), "plan": as_json(chosen.plan)},
            answers=pack(self.measure, gold, answers, table, project.evaluate.slices),
        )  # fmt: skip
        return lost, bundle

    def tell_all(self, points: Sequence[Point], chosen: Point | None, lost: Difference | None) -> None:
        """Write what is known so far, for people and for programs."""
        best = frontier(points)
        facts = {
            "name": self.run.loaded.project.name,
            "score": self.measure.main,
            "points": [{**point.to_json(), "on_frontier": point in best} for point in points],
            "chosen": chosen.to_json() if chosen else None,
            "lost_on_test": lost.to_json() if lost else None,
        }
        write_json(self.folder / "compress.json", facts)
        write_frontier(facts, self.folder, self.run.loaded.project.evaluate.language)

    def _calibrated(self, engine: Engine) -> Engine:
        """Return the engine with a calibration of its own: smaller weights are sure of other answers."""
        settings = self.run.loaded.project.evaluate
        table = self.ready.splits.validation.table
        encoded = engine.task.encode(table, engine.processor)
        return engine.calibrated(engine.task.calibrate(
            engine.logits(encoded), encoded, engine.task.gold(table), facts=engine.facts,
            temperature=settings.calibrate, thresholds=settings.thresholds, wanted_precision=settings.wanted_precision,
        ))  # fmt: skip


def _promised(settings: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    """Return a project's settings with the budget that was kept, wherever it was given."""
    at_most = {"size_mb": budget.size_mb, "latency_ms": budget.latency_ms}
    limits = {name: value for name, value in at_most.items() if math.isfinite(value)}
    return {**settings, "compress": {**settings["compress"], "at_most": limits, "lose_at_most": budget.lose}}


def _teacher(source: Path) -> Candidate:
    model, parts = checkpoint.load(source, make_head)
    return Candidate(model, parts.processor)


def _refuse_shared(project: Loaded) -> None:
    if shares_base(kind := project.project.export.runtime):
        got, wanted = repr(kind), "a runtime with a model of its own: a smaller base would be no other task's"
        line = project.lines.get("export.runtime")
        problem = Problem("export.runtime", got, wanted, line, "set `export.runtime: onnx`, run, and compress then")
        raise ProjectError([problem], source=project.source)


def _refuse_contradictions(project: Loaded, given: Set[str], *, searches: bool) -> None:
    """Refuse a setting beside the file that is also given by the call, or a plan beside what asks for a search."""
    budget = project.project.compress.at_most
    problems = []
    for override in project.overrides:
        setting = override.partition("=")[0].strip()
        set_so = {f"{setting}.{name}" for name in budget} if setting == "compress.at_most" else {setting}
        if given & set_so:
            problems.append(Problem(setting, "two amounts, by option and by setting", "one", hint="leave one out"))
        if setting.startswith("compress.plan") and project.project.compress.plan and searches:
            got = "a plan beside what asks for a search: a budget, minutes or the frontier"
            hint = "leave the plan out; or give the budget as a setting, `compress.at_most.size_mb=12`"
            problems.append(Problem("compress.plan", got, "one of the two", hint=hint))
    if problems:
        raise ProjectError(problems, source=project.source)


def _remember(project: Loaded, plan: Sequence[Plugin]) -> None:
    """Write the plan into the project file, whose other lines and comments stay as they are."""
    path = Path(project.source)
    write_text(path, with_setting(path.read_text("utf-8"), "compress", "plan", as_json(plan)))
