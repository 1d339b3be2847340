"""Sealed bundles of tiny random models, made once for all tests that ask for them."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from luban import files
from luban.adapters import attach, low_rank, merge
from luban.bundle import parity, runtimes, seal
from luban.bundle.engine import Engine
from luban.models import base as bases
from luban.models import tiny
from luban.models.heads import TaskModel
from luban.models.processor import Processor, ProcessorSettings
from luban.records import Bundle, Calibration, Encoded, Report, Score
from luban.tasks import Task, make

LABELS = {"classify": ["card lost", "转账", "refund | late"], "tag": ["person", "地点"]}
WORDS = [
    "where", "is", "my", "new", "card", "I", "want", "to", "pay", "a", "bill", "late", "again", "naïve", "café",
    "我的", "卡", "丢了", "转账", "什么", "时候", "到", "北京", "退款",
]  # fmt: skip
MAX_LENGTH = 40
PROJECT: dict[str, Any] = {
    "max_length": MAX_LENGTH,
    "data": {
        "train": "train.csv", "validation": None, "test": "test.csv", "text": "text", "clean": ["unicode", "control"],
        "split": {"by": "stratified", "seed": 13},
    },
    "train": {"adapter": {"kind": "full"}, "epochs": 3.0, "learning_rate": 5e-5, "seed": 13},
    "evaluate": {"language": "en"},
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A bundle with the model it was made from."""

    bundle: Bundle
    model: TaskModel
    task: Task
    processor: Processor
    rows: Encoded

    @property
    def folder(self) -> Path:
        """Where the bundle is; it is not to be changed."""
        return self.bundle.folder


def texts(n: int, *, seed: int = 0, longest: int = 30) -> list[str]:
    """Return texts of 1 to `longest` words, English and Chinese mixed; equal arguments give equal texts."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(n)]


def model_of(task: Task, base: bases.BaseFolder, *, scale: float = 3.0) -> TaskModel:
    """Return a random model whose answers differ from text to text."""
    body = bases.load_body(base)
    torch.manual_seed(7)
    head = task.head(body.config.hidden_size, dropout=0.1, pooling="mean")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return TaskModel(body, head).eval()


def report(scores: dict[str, float] | None = None) -> Report:
    """Return a report with scores made up."""
    made = {name: Score(value, value - 0.1, value + 0.05, 120) for name, value in (scores or {"accuracy": 0.9}).items()}
    per_label = {"card lost": {"f1": Score(0.5, 0.1, 0.9, 12), "precision": Score(0.6, 0.1, 0.9, 12)}}
    baseline = {"majority": {name: Score(0.3, 0.2, 0.4, 120) for name in made}}
    return Report("made", "classify", made, baseline, per_label, {"data": "d" * 64, "project": "p" * 64})


def make_bundle(folder: Path, base: bases.BaseFolder, kind: str, runtime: str, **options: Any) -> Made:
    """Export, compare and seal a tiny model."""
    task = make(kind, options, LABELS[kind])
    return sealed(folder, base, model_of(task, base), task, runtime, options)


def adapted(
    folder: Path, base: bases.BaseFolder, kind: str, labels: tuple[str, ...], *, rank: int, seed: int,
    runtime: str = "onnx-shared",
) -> Made:  # fmt: skip
    """Export, compare and seal a tiny model that differs from its base by a random adapter and a random head."""
    task, settings = make(kind, {}, labels), {"rank": rank}
    plain = model_of(task, base)
    body = attach(copy.deepcopy(plain.body), "lora", settings)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in plain.head.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for parameter in (part for part in body.parameters() if part.requires_grad):
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    origin = runtimes.Origin(plain.body, low_rank(plain.body, "lora", settings))
    model = TaskModel(merge(body, "lora"), plain.head).eval()
    return sealed(folder, base, model, task, runtime, {}, origin)


def sealed(
    folder: Path, base: bases.BaseFolder, model: TaskModel, task: Task, runtime: str, options: dict[str, Any],
    origin: runtimes.Origin | None = None,
) -> Made:  # fmt: skip
    """Export, compare and seal a model."""
    settings = ProcessorSettings(
        max_length=MAX_LENGTH, clean=("unicode", "control", "whitespace"),
        long_text=options.get("long_text", "truncate"),
    )  # fmt: skip
    processor = Processor(settings, (base.folder / "tokenizer.json").read_text("utf-8"))
    rows = task.encode(texts(40), processor)
    graph = folder.with_name(f"{folder.name}-graph")
    with files.new_folder(graph) as aside:
        facts = runtimes.write(runtime, model, aside, rows, origin=origin)
        runner = runtimes.open(runtime, aside, facts)
        parity.check(model, runner, rows, pad_id=processor.pad_id, per_token=task.per_token, max_difference=1e-3)
        files.seal(aside, {"kind": "graph", "runtime": facts})
    told = {"kind": task.kind, "options": options, "labels": list(task.labels), "facts": task.facts(model.head)}
    engine = Engine(
        name="made", task=task, processor=processor, runner=runner, calibration=Calibration(), facts=told["facts"]
    )
    bundle = seal.seal(
        folder, name="made", task=told, base=base.facts, runtime=facts, graph=graph, processor=processor,
        calibration=Calibration(temperature=1.5), report=report(), reference=engine.reference(texts(40)),
        project=PROJECT, languages=("en", "zh"),
    )  # fmt: skip
    return Made(bundle, model, task, processor, rows)


_MADE: dict[tuple[Path, str, str, str], Made] = {}


def made(factory: pytest.TempPathFactory, kind: str, runtime: str, **options: Any) -> Made:
    """Return a bundle, made when it is first asked for in this session."""
    key = (factory.getbasetemp(), kind, runtime, json.dumps(options, sort_keys=True))
    if key not in _MADE:
        folder = factory.mktemp("bundles")
        _MADE[key] = make_bundle(folder / "bundle", tiny.make(folder / "tiny"), kind, runtime, **options)
    return _MADE[key]
