"""The stage `check`: everything wrong or doubtful about project and data, before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from luban.data.check import check as check_rows
from luban.data.split import Splits
from luban.errors import DataError, Problem
from luban.files import new_folder, read_json, seal, write_json
from luban.models.facts import BaseFolder
from luban.models.processor import Processor
from luban.project import lock
from luban.project.schema import Project
from luban.records import Encoded, Finding
from luban.stages.parts import is_multi_label
from luban.stages.places import CHECK, DATA
from luban.stages.probing import Probed, probabilities
from luban.stages.record import Run, code_digest, digest_of
from luban.tasks import Task

_PASSES_A_STEP = 3
"""Forward passes that a training step costs: one forward, and a backward of about two."""
_PROCESS_BYTES = 1e9
"""What Python, torch and the rows take beside the model."""
_BYTES_A_UNIT, _BYTES_A_SCORE = 88, 14
"""Kept for the backward pass: by token, layer and unit of width; and by pair of tokens, layer and head. Korthikanti et
al. 2022 (section 4.1) count 34 and 5 where all is in 16 bits; these are fitted to measured peaks of processes, in fp32
and with products in bf16, which lie within a fifth of each other."""


def check_quickly(run: Run, splits: Splits, task: Task) -> list[Finding]:
    """Look at what needs no base; nothing is kept."""
    run.tell("check", "looking at rows and labels")
    return check_rows(splits, run.loaded.project.data, labels=task.labels, multi=is_multi_label(run.loaded))


def check(
    run: Run, splits: Splits, task: Task, base: BaseFolder, processor: Processor, probed: Probed
) -> list[Finding]:
    """Look at the rows, and with the base and its probe at lengths, suspect labels, time and memory."""
    settings = lock.resolved(run.loaded.project)
    inputs = {
        "data_digest": digest_of(run.folder / DATA),
        "base_digest": base.facts.digest,
        "settings": {
            "task": settings["task"], "max_length": settings["max_length"],
            "data": {"clean": settings["data"]["clean"], "replace": settings["data"]["replace"]},
            "train": {key: settings["train"][key] for key in ("epochs", "batch_size", "batch_tokens", "freeze")},
        },
        "code_digest": code_digest("data", "stages/checking.py"),
    }  # fmt: skip

    def work() -> None:
        run.tell("check", "looking at rows and labels")
        encoded = task.encode(splits.train.table, processor)
        findings = check_rows(
            splits, run.loaded.project.data, labels=task.labels, multi=is_multi_label(run.loaded),
            token_lengths=_lengths(splits, encoded, task, processor), max_length=run.loaded.project.max_length,
            probabilities=probabilities(probed, encoded, task),
            estimate=_estimate(run, splits, base, probed),
        )  # fmt: skip
        with new_folder(run.folder / CHECK, replace=True) as aside:
            write_json(aside / "findings.json", [asdict(finding) for finding in findings])
            seal(aside, {"kind": "check"})

    run.stage("check", inputs, [CHECK], work)
    values = read_json(run.folder / CHECK / "findings.json")
    return [Finding(**{**value, "examples": tuple(value["examples"])}) for value in values]


def stop_at_failures(findings: Sequence[Finding], source: str) -> None:
    """Raise what `luban check` calls FAIL, all at once.

    Raises:
        DataError: there is such a finding.
    """
    failed = [finding for finding in findings if finding.verdict == "FAIL"]
    if failed:
        problems = [Problem(finding.what, finding.message, "no such rows", hint=finding.mend) for finding in failed]
        raise DataError(problems, source=source, hint="`luban check` shows rows of each")


def _lengths(splits: Splits, encoded: Encoded, task: Task, processor: Processor) -> np.ndarray:
    """Return (N,) tokens of each training row, uncut."""
    if not task.per_token:
        return processor.lengths(splits.train.table.column("text").to_pylist())
    return np.bincount(encoded.rows, weights=encoded.lengths, minlength=encoded.n_rows).astype(np.int64)


def _estimate(run: Run, splits: Splits, base: BaseFolder, probed: Probed) -> Mapping[str, float]:
    """Return what training will need, from the probe's measured speed and the base's size."""
    import psutil

    settings = run.loaded.project.train
    config = read_json(base.folder / "config.json")
    weights = (base.folder / "model.safetensors").stat().st_size
    return {
        "memory_bytes": memory_bytes(run.loaded.project, config, weights),
        "available_bytes": float(psutil.virtual_memory().available),
        "train_s": len(splits.train) * settings.epochs * _PASSES_A_STEP / probed.rows_per_s,
    }


def memory_bytes(project: Project, config: Mapping[str, int], weights: int) -> float:
    """Return about how much memory the training process takes at its highest.

    Args:
        project: its `train` section and window decide how much one pass holds.
        config: the base's config.json.
        weights: bytes of the base's weights, fp32.
    """
    settings = project.train
    width, layers = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    fixed = {"nothing": 0, "embeddings": 4 * width * config.get("vocab_size", 0), "base": weights}[settings.freeze]
    # A gradient and the optimiser's two moments for each weight that is trained.
    held = _PROCESS_BYTES + weights + 3.0 * max(0, weights - fixed)
    if settings.freeze == "base":
        return held
    tokens = min(settings.batch_tokens, settings.batch_size * project.max_length)
    heads = config.get("num_attention_heads", 12)
    return held + tokens * layers * (width * _BYTES_A_UNIT + project.max_length * heads * _BYTES_A_SCORE)
