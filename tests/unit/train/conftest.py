"""A small training run over the tiny base, whose pieces tests exchange."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from luban.models import body as bodies
from luban.models.facts import BaseFolder
from luban.models.heads import TaskModel
from luban.models.processor import Processor, ProcessorSettings
from luban.project.schema import TrainSection
from luban.records import Calibration
from luban.tasks import make as make_task
from luban.train.loop import Training, logits_of

GOOD = ["lovely warm and kind", "so good , thank you", "a great day", "很好 很喜欢", "味道好极了", "fast and friendly"]
BAD = ["cold rude and slow", "so bad , never again", "an awful day", "很差 不喜欢", "味道糟透了", "late and broken"]


def table(copies: int = 8) -> pa.Table:
    texts = [f"{text} {copy}" for copy in range(copies) for text in GOOD + BAD]
    labels = [["good"]] * len(GOOD) + [["bad"]] * len(BAD)
    return pa.table({"text": texts, "labels": labels * copies})


@pytest.fixture()
def training(tiny: BaseFolder, tmp_path: Path) -> Callable[..., Training]:
    """Return a maker of training runs; settings are those of the `train` section, `folder` where states are kept."""

    def make(folder: Path = tmp_path, rows: pa.Table | None = None, task: Any = None, **settings: Any) -> Training:
        chosen = TrainSection(
            **{"learning_rate": 5e-3, "batch_size": 8, "dropout": 0.1, "freeze": "nothing", **settings}
        )
        rows = table() if rows is None else rows
        task = task or make_task("classify", {}, ["bad", "good"])
        processor = Processor(ProcessorSettings(max_length=32), (tiny.folder / "tokenizer.json").read_text("utf-8"))
        torch.manual_seed(chosen.seed)
        body = bodies.load_body(tiny, chosen.dropout)
        head = task.head(body.config.hidden_size, dropout=chosen.dropout or 0.0, pooling="mean")
        encoded = task.encode(rows, processor)
        gold, inputs = task.gold(rows), task.inputs(rows)

        def measure(model: TaskModel) -> dict[str, float]:
            logits = logits_of(model, encoded, task, chosen, processor.pad_id)
            predictions = task.decode(logits, encoded, inputs, Calibration(), task.facts(model.head))
            return {name: score.value for name, score in task.score(gold, predictions, intervals=False).items()}

        return Training(
            TaskModel(body, head), task, encoded, chosen,
            layers=bodies.layers(body), embeddings=bodies.embeddings(body), pad_id=processor.pad_id,
            folder=folder / "states", plan="plan", measure=measure, keep=lambda model: None,
        )  # fmt: skip

    return make
