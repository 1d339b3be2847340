"""Small models of every kind of task with material to compress them on, made once for all tests that ask for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from luban.compress import Candidate, Material
from luban.models import base as bases
from luban.models import tiny
from luban.models.heads import TaskModel
from luban.models.processor import Processor, ProcessorSettings
from luban.project.schema import TrainSection
from luban.records import Calibration
from luban.tasks import make as make_task
from luban.train.loop import Training, logits_of

GOOD = ["lovely warm and kind", "so good , thank you", "a great day", "很好 很喜欢", "味道好极了", "fast and friendly"]
BAD = ["cold rude and slow", "so bad , never again", "an awful day", "很差 不喜欢", "味道糟透了", "late and broken"]
OTHER = ["warm weather", "broken and rude", "很好 味道", "never late"]
STRANGE = [first + second for first in ("qua", "wex", "zor", "blim") for second in ("ting", "le", "mor", "x", "pen")]
"""Words that have pieces of their own and stand in no row."""
KINDS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "classify": ("classify", {}, ["bad", "good"]),
    "chunk": ("classify", {"long_text": "chunk", "stride": 2}, ["bad", "good"]),
    "multi-label": ("classify", {"multi_label": True}, ["bad", "good"]),
    "tag": ("tag", {}, ["person"]),
    "crf": ("tag", {"crf": True}, ["person"]),
}


@dataclass
class Scene:
    """A model that knows its task, and what it may be compressed on."""

    candidate: Candidate
    material: Material
    base: bases.BaseFolder
    task_json: dict[str, Any]

    def logits(self, candidate: Candidate, rows: pa.Table | None = None) -> np.ndarray:
        """Return a candidate's logits for the training rows, or others."""
        rows = self.material.train if rows is None else rows
        encoded = self.material.task.encode(rows, candidate.processor)
        settings, pad_id = self.material.settings, candidate.processor.pad_id
        return logits_of(candidate.model, encoded, self.material.task, settings, pad_id)

    def with_settings(self, folder: Path, **settings: Any) -> Material:
        """Return the material with another folder and other settings."""
        return replace(self.material, folder=folder, settings=replace(self.material.settings, **settings))


def table(kind: str, copies: int = 6) -> pa.Table:
    texts = [f"{text} {copy}" for copy in range(copies) for text in GOOD + BAD]
    if kind in ("tag", "crf"):
        tokens = [text.replace("味道", "味 道 ").split() for text in texts]
        tags = [["B-person" if len(token) > 3 else "O" for token in row] for row in tokens]
        return pa.table({"text": [" ".join(row) for row in tokens], "tokens": tokens, "tags": tags})
    labels = [["good"]] * len(GOOD) + [["bad"]] * len(BAD)
    if kind == "multi-label":
        labels = [[], *labels[1:-1], ["bad", "good"]]
    return pa.table({"text": texts, "labels": labels * copies})


def make(factory: pytest.TempPathFactory, kind: str, *, epochs: int = 8, seed: int = 13, **sizes: int) -> Scene:
    """Train a tiny model of a kind of task and return it with its material."""
    folder = factory.mktemp("scene")
    base = tiny.make(folder / "tiny", (GOOD + BAD + OTHER + STRANGE) * 2, **sizes)
    name, options, labels = KINDS[kind]
    task, rows = make_task(name, options, labels), table(kind)
    settings = TrainSection(
        learning_rate=5e-3, batch_size=16, epochs=max(1, epochs), freeze="nothing", dropout=0.1, threads=1,
        choose_by=task.main_score, seed=seed, evaluate_every=max(1, epochs),
    )  # fmt: skip
    chunk = {"long_text": "chunk", "stride": 2} if kind == "chunk" else {}
    processor = Processor(
        ProcessorSettings(max_length=8 if kind == "chunk" else 32, **chunk),
        (base.folder / "tokenizer.json").read_text("utf-8"),
    )
    torch.manual_seed(seed)
    body = bases.load_body(base, 0.1)
    head = task.head(body.config.hidden_size, dropout=0.1, pooling="mean")
    encoded = task.encode(rows, processor)

    def measure(model: TaskModel) -> dict[str, float]:
        logits = logits_of(model, encoded, task, settings, processor.pad_id)
        predictions = task.decode(logits, encoded, task.inputs(rows), Calibration(), task.facts(model.head))
        return {name: score.value for name, score in task.score(task.gold(rows), predictions, intervals=False).items()}

    training = Training(
        TaskModel(body, head), task, encoded, settings,
        layers=bases.layers(body), embeddings=bases.embeddings(body), pad_id=processor.pad_id,
        folder=folder / "states", plan="plan", measure=measure, keep=lambda model: None,
    )  # fmt: skip
    if epochs:
        list(training.steps())
    plain = TaskModel(bases.load_body(base, 0.1), task.head(body.config.hidden_size, dropout=0.1, pooling="mean"))
    plain.load_state_dict(training.model.state_dict())
    told = {"kind": name, "options": options, "labels": labels, "facts": task.facts(plain.head)}
    candidate = Candidate(plain.eval(), processor)
    material = Material(
        task=task, train=rows, validation=rows, settings=settings, folder=folder / "work", teacher=candidate,
        unlabelled=OTHER,
    )  # fmt: skip
    return Scene(candidate, material, base, told)


_MADE: dict[tuple[Path, str], Scene] = {}


def made(factory: pytest.TempPathFactory, kind: str, **sizes: int) -> Scene:
    """Return a scene, made when it is first asked for in this session; it is not to be changed."""
    key = (factory.getbasetemp(), json.dumps([kind, sizes]))
    if key not in _MADE:
        _MADE[key] = make(factory, kind, **sizes)
    return _MADE[key]
