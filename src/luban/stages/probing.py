"""The stage `probe`: features of the frozen base, the linear probe on them, and what it says of each training row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from luban.data.split import Splits
from luban.files import new_folder, seal
from luban.models.facts import BaseFolder
from luban.models.processor import Processor
from luban.records import Calibration, Encoded, Prediction
from luban.stages.places import DATA, PROBE
from luban.stages.record import Run, code_digest, digest_of
from luban.tasks import Task
from luban.train.weights import targets_of

MAX_ROWS = 20_000
"""Training rows that the probe is fitted on, at most."""


@dataclass(frozen=True)
class Probed:
    """What the stage has found."""

    weight: np.ndarray
    """(K, width) that the head's `output` layer starts with; smaller than the best probe's."""
    bias: np.ndarray
    """(K,)."""
    train: np.ndarray
    """Out-of-fold logits of the training windows (W, K) or units' first tokens; empty where rows were left out."""
    test: np.ndarray
    """Logits of the test windows (W, K), or of their units' first tokens."""
    score: float
    """The task's main score on the validation rows."""
    rows_per_s: float
    """Rows a second through the frozen base here."""


def probe(run: Run, splits: Splits, base: BaseFolder, task: Task, processor: Processor) -> Probed:
    """Fit the probe, or read what an earlier run has found."""
    project = run.loaded.project
    inputs = {
        "data_digest": digest_of(run.folder / DATA),
        "base_digest": base.facts.digest,
        "settings": {
            "task": {"kind": task.kind, **project.task.options},
            "max_length": project.max_length,
            "train": {"precision": project.train.precision, "device": project.train.device, "seed": project.train.seed},
            "threads": project.train.threads,
        },
        "code_digest": code_digest("models", "tasks", "train/probe.py"),
    }
    facts = run.stage("probe", inputs, [PROBE], lambda: _work(run, splits, base, task, processor))
    from safetensors.numpy import load_file

    arrays = load_file(run.folder / PROBE / "probe.safetensors")
    return Probed(**arrays, score=facts["score"], rows_per_s=facts["rows_per_s"])


def _work(run: Run, splits: Splits, base: BaseFolder, task: Task, processor: Processor) -> dict[str, Any]:
    import time

    from safetensors.numpy import save_file

    from luban.models.body import load_body
    from luban.train import probe as linear

    settings = run.loaded.project.train
    body = load_body(base).to(settings.device)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    rows = {name: data.table for name, data in parts.items()}
    if len(splits.train) > MAX_ROWS:
        chosen = np.sort(np.random.default_rng(settings.seed).choice(len(splits.train), MAX_ROWS, replace=False))
        rows["train"] = rows["train"].take(chosen)
    encoded = {name: task.encode(table, processor) for name, table in rows.items()}
    total = sum(len(part) for part in encoded.values())
    done, found, started = 0, {}, time.monotonic()
    count = run.counter("probe", "features of the frozen base", total)
    for name, part in encoded.items():
        found[name] = linear.features(
            body, part, pooling=base.facts.pooling, per_token=task.per_token, pad_id=processor.pad_id,
            bf16=settings.precision == "bf16", on_rows=partial(_count_on, count, done),
        )  # fmt: skip
        done += len(part)
    rows_per_s = total / (time.monotonic() - started)
    run.tell("probe", "fitting")
    targets = targets_of(encoded["train"], task)
    fitted = linear.fit(found["train"], targets, task.n_outputs, seed=settings.seed)
    held_out = np.zeros((0, task.n_outputs), np.float32)
    if len(splits.train) <= MAX_ROWS and not task.per_token:
        run.tell("probe", "judging each training row by the others")
        held_out = linear.out_of_fold(
            found["train"], targets, task.n_outputs, seed=settings.seed, penalty=fitted.penalty
        )
    start = linear.start(found["train"], targets, task.n_outputs, seed=settings.seed, best=fitted)
    validation = rows["validation"]
    predictions = predict(fitted.logits(found["validation"]), encoded["validation"], validation, task)
    score = task.score(task.gold(validation), predictions, intervals=False)[task.main_score].value
    with new_folder(run.folder / PROBE, replace=True) as aside:
        save_file(
            {"weight": start.weight, "bias": start.bias, "train": held_out, "test": fitted.logits(found["test"])},
            aside / "probe.safetensors",
        )
        seal(aside, {"kind": "probe"})
    run.tell("probe", f"linear probe on the frozen base: {task.main_score} {score:.3f} on validation rows")
    return {"score": score, "rows_per_s": round(rows_per_s, 1)}


def _count_on(count: Callable[[int], None], before: int, n: int) -> None:
    count(before + n)


def predict(logits: np.ndarray, encoded: Encoded, table: Any, task: Task) -> list[Prediction]:
    """Decode a probe's logits as the task decodes a model's."""
    if task.per_token:
        assert encoded.units is not None
        wide = np.zeros((len(encoded.ids), task.n_outputs), np.float32)
        wide[encoded.units >= 0] = logits
        logits = wide
    return task.decode(logits, encoded, task.inputs(table), Calibration(), {})


def probabilities(probed: Probed, encoded: Encoded, task: Task) -> np.ndarray | None:
    """Return out-of-fold probabilities of the training rows (N, K), or None where there are none."""
    if task.per_token or not len(probed.train):
        return None
    predictions = task.decode(probed.train, encoded, [""] * encoded.n_rows, Calibration(), {})
    return np.stack([prediction.scores.row for prediction in predictions])  # type: ignore[attr-defined]
