"""The stage `evaluate`: the graph is calibrated on validation rows, judged on test rows, and sealed as a bundle.

What is judged is what will be served: the engine runs the graph, not torch the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from luban.bundle import runtimes
from luban.bundle import seal as sealing
from luban.bundle.engine import Engine
from luban.data.split import Splits
from luban.errors import BelowGate
from luban.evaluate import baselines, render, score
from luban.evaluate.answers import pack
from luban.files import digest_json, read_json
from luban.models import checkpoint
from luban.models.processor import Processor
from luban.project import lock
from luban.project.across import LOWER_IS_BETTER
from luban.records import Bundle, Calibration, Prediction, Report
from luban.stages import probing
from luban.stages.parts import is_multi_label, measure_of
from luban.stages.places import BUNDLE, CHECKPOINT, DATA, GRAPH, REPORT
from luban.stages.probing import Probed
from luban.stages.record import Run, code_digest, digest_of, peak_memory_mb
from luban.tasks import Task


def evaluate(run: Run, splits: Splits, task: Task, probed: Probed | None) -> Report:
    """Calibrate, judge, write the report, and seal the bundle if it passes the gates.

    Raises:
        BelowGate: a score is below the project's gate; the report is written, the bundle is not.
    """
    settings = _settings(run)
    inputs = {
        "graph_digest": digest_of(run.folder / GRAPH),
        "data_digest": digest_of(run.folder / DATA),
        "settings": {key: settings[key] for key in ("name", "evaluate", "gates")},
        "project_digest": digest_json(settings),
        "code_digest": code_digest("metrics", "evaluate", "bundle", "tasks"),
    }
    run.stage("evaluate", inputs, [BUNDLE], lambda: _work(run, splits, task, probed))
    return render.from_json(read_json(run.folder / REPORT))


def _work(run: Run, splits: Splits, task: Task, probed: Probed | None) -> dict[str, Any]:
    project = run.loaded.project
    parts = checkpoint.read_parts(run.folder / CHECKPOINT)
    facts = run.remember("export") or {}
    runtime = runtimes.catalogue.load(project.export.runtime)
    runner = runtime.open(run.folder / GRAPH, facts["runtime"], project.train.threads)
    engine = Engine(
        name=project.name, task=task, processor=parts.processor, runner=runner, calibration=Calibration(),
        facts=parts.task["facts"],
    )  # fmt: skip
    run.tell("evaluate", "calibrating on validation rows")
    calibration = _calibrate(run, splits, engine)
    engine = engine.calibrated(calibration)
    run.tell("evaluate", f"answering {len(splits.test):,} test rows")
    table = splits.test.table
    inputs, started = task.inputs(table), time.monotonic()
    predictions = engine.predict(inputs)
    rows_per_s = len(inputs) / max(time.monotonic() - started, 1e-9)
    report = score.report(
        name=project.name, task=task.kind, labels=task.labels, multi_label=is_multi_label(run.loaded),
        gold=task.gold(table), predictions=predictions, table=table,
        baselines=_baselines(run, splits, task, parts.processor, probed),
        digests={
            **{name: digest_of(run.folder / name) for name in (DATA, GRAPH)}, "project": digest_json(_settings(run)),
        },
        settings=project.evaluate, calibration=_told(calibration, task.labels),
        costs=_costs(run, rows_per_s), lock=_lock(run, splits, parts, facts),
    )  # fmt: skip
    render.write(report, run.folder, project.evaluate.language)
    _gates(run, report)
    bundle = sealing.seal(
        run.folder / BUNDLE, name=project.name, task=parts.task, base=parts.base, runtime=facts["runtime"],
        languages=project.data.languages, processor=parts.processor, calibration=calibration, graph=run.folder / GRAPH,
        report=report, project=_settings(run),
        reference=engine.reference(task.inputs(splits.validation.table)),
        answers=pack(
            measure_of(run.loaded, task), task.gold(table), predictions, table,
            project.evaluate.slices,
        ),
    )  # fmt: skip
    return {"bundle": bundle.digest}


def _settings(run: Run) -> dict[str, Any]:
    """Return every setting that this bundle depends on: what compression makes of it later is not among them."""
    return {key: value for key, value in lock.resolved(run.loaded.project).items() if key != "compress"}


def _calibrate(run: Run, splits: Splits, engine: Engine) -> Calibration:
    settings = run.loaded.project.evaluate
    table = splits.validation.table
    encoded = engine.task.encode(table, engine.processor)
    return engine.task.calibrate(
        engine.logits(encoded), encoded, engine.task.gold(table), facts=engine.facts,
        temperature=settings.calibrate, thresholds=settings.thresholds, wanted_precision=settings.wanted_precision,
    )  # fmt: skip


def _baselines(
    run: Run, splits: Splits, task: Task, processor: Processor, probed: Probed | None
) -> Mapping[str, Sequence[Prediction]]:
    """Return what simpler means answer on the test rows."""
    found: dict[str, Sequence[Prediction]] = {}
    table = splits.test.table
    for name in run.loaded.project.evaluate.baselines:
        run.tell("evaluate", f"baseline: {name}")
        if name != "probe":
            found[name] = baselines.predict(
                name, task=task.kind, labels=task.labels, multi_label=is_multi_label(run.loaded),
                train=splits.train.table, test=table,
            )  # fmt: skip
        elif probed is not None:
            found[name] = probing.predict(probed.test, task.encode(table, processor), table, task)
    return found


def _gates(run: Run, report: Report) -> None:
    """Hold the scores against the project's gates, all of them.

    Raises:
        BelowGate: for the gate that is missed by most.
    """
    gates = run.loaded.project.gates
    reached = {name: report.scores[name].value for name in gates}
    sign = {name: -1 if name in LOWER_IS_BETTER else 1 for name in gates}
    short = {name: sign[name] * (gate - reached[name]) for name, gate in gates.items()}
    missed = {name: by for name, by in short.items() if by > 0}
    if missed:
        worst = max(missed, key=lambda name: missed[name])
        sides = {name: "below" if sign[name] > 0 else "above" for name in missed}
        told = "; ".join(f"{name} {report.scores[name]} is {side} {gates[name]}" for name, side in sides.items())
        raise BelowGate(
            told, measured=reached[worst], allowed=gates[worst],
            hint=f"see {run.folder / 'report.html'} for where it is wrong; no bundle was sealed",
        )  # fmt: skip


def _told(calibration: Calibration, labels: Sequence[str]) -> dict[str, Any]:
    thresholds = dict(zip(labels, calibration.thresholds, strict=True)) if calibration.thresholds else {}
    below = calibration.abstain_below
    return {"temperature": calibration.temperature, "thresholds": thresholds, "abstain_below": below}


def _costs(run: Run, rows_per_s: float) -> dict[str, float]:
    seconds = {f"{stage.name}_s": round(stage.seconds, 1) for stage in run.results if stage.state == "done"}
    return {**seconds, "predicted_rows_per_s": round(rows_per_s), "peak_memory_mb": round(peak_memory_mb())}


def _lock(run: Run, splits: Splits, parts: checkpoint.Parts, facts: Mapping[str, Any]) -> dict[str, Any]:
    rows = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
    base = {"name": parts.base.name, "revision": parts.base.revision, "licence": parts.base.licence}
    return {"base": base, "rows": rows, "parity": facts["parity"], "settings": _settings(run)}


def open_bundle(run: Run) -> Bundle:
    """Return the run's sealed bundle."""
    return sealing.open_bundle(run.folder / BUNDLE)
