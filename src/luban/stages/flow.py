"""The stages in their order: prepare, probe, check, train, export, evaluate. What is done is not done again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from luban.data.split import Splits
from luban.errors import DataError, Problem, ProjectError, did_you_mean
from luban.files import only_one
from luban.models.base import folder_of
from luban.models.facts import BaseFolder
from luban.models.processor import Processor
from luban.project.load import Loaded
from luban.records import Finding, Listener, Report, ignore
from luban.stages.checking import check as check_stage
from luban.stages.checking import check_quickly, stop_at_failures
from luban.stages.parts import find_base, processor_of, task_of
from luban.stages.preparing import open_splits, prepare
from luban.stages.probing import Probed, probe
from luban.stages.record import Run, RunResult
from luban.stages.training import train as train_stage
from luban.tasks import Task

STAGES = ("prepare", "probe", "check", "train", "export", "evaluate")


@dataclass(frozen=True)
class Ready:
    """A project whose rows, base and probe are there, before training."""

    splits: Splits
    task: Task
    base: BaseFolder
    processor: Processor
    probed: Probed
    findings: list[Finding]


def check(project: Loaded, *, quick: bool = False, on_progress: Listener = ignore) -> list[Finding]:
    """Find everything wrong with data or project, before any training.

    Args:
        project: as `luban.project.load.load` returns it.
        quick: leave out what needs the base: lengths, suspect labels, time and memory. That there is a base of this
            name is looked at all the same, unless a hub would have to be asked.
        on_progress: told how far it has come.
    """
    with _begun(project, on_progress, ()) as run:
        if not quick:
            return _ready(run).findings
        folder_of(project.project.base, project.root)
        facts = prepare(run)
        return check_quickly(run, open_splits(run, facts["split"]), task_of(project, facts["labels"]))


def train(project: Loaded, *, force: Collection[str] = (), on_progress: Listener = ignore) -> RunResult:
    """Check and train; the best checkpoint is then in the run's folder."""
    with _begun(project, on_progress, force) as run:
        ready = _trained(run)
        return RunResult(run.folder, run.results, findings=ready.findings)


def export(project: Loaded, *, force: Collection[str] = (), on_progress: Listener = ignore) -> RunResult:
    """Check, train and write the graph."""
    from luban.stages.exporting import export as export_stage

    with _begun(project, on_progress, force) as run:
        ready = _trained(run)
        export_stage(run, ready.splits, ready.task, ready.base)
        return RunResult(run.folder, run.results, findings=ready.findings)


def run(project: Loaded, *, force: Collection[str] = (), on_progress: Listener = ignore) -> RunResult:
    """Do every stage that is not done yet, to a report and a sealed bundle.

    Args:
        project: as `luban.project.load.load` returns it.
        force: stages to do again although nothing changed.
        on_progress: told how far it has come.

    Raises:
        DataError: the data can't be used, or a check says FAIL.
        TrainError: training diverged twice, or memory ran out.
        GateError: the graph does not answer as the model, or a score is below its gate.
        Conflict: another process is at work on this run.
    """
    from luban.stages.evaluating import open_bundle

    with _begun(project, on_progress, force) as going:
        ready, report = _judged(going)
        return RunResult(going.folder, going.results, report, open_bundle(going), ready.findings)


@contextmanager
def trained(project: Loaded, on_progress: Listener = ignore) -> Iterator[tuple[Run, Ready]]:
    """Check and train, where that is not done yet, and hold the run's folder for what goes on from there."""
    with _begun(project, on_progress, ()) as going:
        yield going, _trained(going)


@contextmanager
def finished(project: Loaded, on_progress: Listener = ignore) -> Iterator[tuple[Run, Ready]]:
    """Do every stage of a run that is not done yet, and hold its folder for what goes on from there."""
    with _begun(project, on_progress, ()) as going:
        ready, _ = _judged(going)
        yield going, ready


@contextmanager
def _begun(project: Loaded, on_progress: Listener, force: Collection[str]) -> Iterator[Run]:
    """Yield the run while holding its folder against other processes.

    Raises:
        ProjectError: a stage that is to be forced does not exist.
    """
    unknown = [
        Problem("--force", repr(name), "a stage", hint=did_you_mean(name, STAGES))
        for name in force
        if name not in STAGES
    ]
    if unknown:
        raise ProjectError(unknown)
    going = Run(project, on_progress, force)
    with only_one(going.folder / ".lock", f"the run {project.project.name!r}"), going.begun():
        yield going


def _ready(run: Run) -> Ready:
    facts = prepare(run)
    splits = open_splits(run, facts["split"])
    _want_rows(splits)
    base = find_base(run.loaded, run.on_progress)
    task = task_of(run.loaded, facts["labels"])
    processor = processor_of(run.loaded, base)
    probed = probe(run, splits, base, task, processor)
    findings = check_stage(run, splits, task, base, processor, probed)
    return Ready(splits, task, base, processor, probed, findings)


def _trained(run: Run) -> Ready:
    ready = _ready(run)
    stop_at_failures(ready.findings, run.loaded.source)
    train_stage(run, ready.splits, ready.base, ready.task, ready.processor, ready.probed)
    return ready


def _judged(run: Run) -> tuple[Ready, Report]:
    from luban.stages.evaluating import evaluate
    from luban.stages.exporting import export as export_stage

    ready = _trained(run)
    export_stage(run, ready.splits, ready.task, ready.base)
    return ready, evaluate(run, ready.splits, ready.task, ready.probed)


def _want_rows(splits: Splits) -> None:
    """Raise DataError where a part has no rows: all three are needed."""
    problems = [
        Problem(f"data.split.{name}", "no rows", "a share above 0, or a file", hint=f"set it, or data.{name}")
        for name in ("validation", "test")
        if not len(getattr(splits, name))
    ]
    if problems:
        raise DataError(problems, source="the project's data")
