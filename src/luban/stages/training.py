"""The stage `train`: base and head become the best checkpoint."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping
from typing import Any

from luban.data.split import Splits
from luban.files import digest_json
from luban.models import checkpoint
from luban.models.facts import BaseFolder
from luban.models.heads import TaskModel
from luban.models.processor import Processor
from luban.project import lock
from luban.records import Calibration
from luban.stages.parts import task_json
from luban.stages.places import CHECKPOINT, DATA, STATES
from luban.stages.probing import Probed
from luban.stages.record import Run, StepLog, code_digest, digest_of
from luban.tasks import Task

_NO_EFFECT = ("save_every_s", "trackers")
"""Settings that change nothing of the result."""


def train(
    run: Run, splits: Splits, base: BaseFolder, task: Task, processor: Processor, probed: Probed | None
) -> Mapping[str, Any]:
    """Fine-tune the base; the facts tell steps, speed and the best validation scores."""
    settings = lock.resolved(run.loaded.project)
    inputs = {
        "data_digest": digest_of(run.folder / DATA),
        "base_digest": base.facts.digest,
        "settings": {
            "task": settings["task"],
            "max_length": settings["max_length"],
            "train": {key: value for key, value in settings["train"].items() if key not in _NO_EFFECT},
        },
        "code_digest": code_digest("models", "tasks", "adapters", "objectives", "train"),
    }
    plan = digest_json(inputs)
    return run.stage("train", inputs, [CHECKPOINT], lambda: _work(run, splits, base, task, processor, probed, plan))


def _work(
    run: Run, splits: Splits, base: BaseFolder, task: Task, processor: Processor, probed: Probed | None, plan: str
) -> dict[str, Any]:
    import torch

    from luban.adapters import attach, merge
    from luban.models import body as bodies
    from luban.objectives import make as make_objective
    from luban.records import Progress
    from luban.train.loop import Training, logits_of
    from luban.train.trackers import make as make_tracker

    project = run.loaded.project
    settings = project.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    run.tell("train", "tokenising")
    rows, held = task.encode(splits.train.table, processor), task.encode(splits.validation.table, processor)
    body = bodies.load_body(base, settings.dropout)
    layers, embeddings = bodies.layers(body), bodies.embeddings(body)
    config: Any = body.config
    dropout = settings.dropout if settings.dropout is not None else getattr(config, "hidden_dropout_prob", 0.1)
    head = task.head(config.hidden_size, dropout=dropout, pooling=base.facts.pooling)
    if probed is not None and settings.start == "probe":
        started_from = {"output.weight": torch.from_numpy(probed.weight), "output.bias": torch.from_numpy(probed.bias)}
        head.load_state_dict(started_from, strict=False)
    model = TaskModel(attach(body, settings.adapter.kind, settings.adapter.options), head).to(settings.device)
    gold, inputs = task.gold(splits.validation.table), task.inputs(splits.validation.table)

    def measure(trained: TaskModel) -> dict[str, float]:
        logits = logits_of(trained, held, task, settings, processor.pad_id)
        predictions = task.decode(logits, held, inputs, Calibration(), task.facts(trained.head))
        return {name: score.value for name, score in task.score(gold, predictions, intervals=False).items()}

    kind, options = task_json(run.loaded)

    def keep(trained: TaskModel) -> None:
        merged = trained
        if settings.adapter.kind != "full":
            merged = TaskModel(merge(copy.deepcopy(trained.body), settings.adapter.kind), trained.head)
        facts = {"kind": kind, "options": options, "labels": list(task.labels), "facts": task.facts(trained.head)}
        checkpoint.save(merged, checkpoint.Parts(facts, base.facts, processor), run.folder / CHECKPOINT)

    training = Training(
        model, task, rows, settings,
        layers=layers, embeddings=embeddings, pad_id=processor.pad_id, folder=run.folder / STATES, plan=plan,
        measure=measure, keep=keep,
        objectives=[make_objective(plugin.kind, dict(plugin.options), task) for plugin in settings.objectives],
    )  # fmt: skip
    trackers = [make_tracker(plugin.kind, dict(plugin.options), run.folder) for plugin in settings.trackers]
    log, started, last = StepLog(run.folder, plan[:12]), time.monotonic(), None
    bettered = False
    try:
        for step in training.steps():
            log.add(step)
            for tracker in trackers:
                tracker.log(step)
            rate = step.examples_per_s
            run.on_progress(Progress("train", step.note, step.step, step.n_steps, "steps", rate, step.left_s, step))
            bettered = bettered or step.is_best
            last = step
    finally:
        log.close()
        for tracker in trackers:
            tracker.close()
    if training.best and not bettered:
        run.tell("train", f"no step was better than the start by {settings.choose_by} on validation rows: it is kept")
    shutil.rmtree(run.folder / STATES, ignore_errors=True)
    seconds = time.monotonic() - started
    return {"steps": last.step if last else training.n_steps, "seconds": round(seconds, 1), "best": training.best}
