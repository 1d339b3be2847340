"""The task `classify`: rows to judge by may have labels that the model does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from luban.models import tiny
from luban.models.processor import Processor, ProcessorSettings
from luban.models.windows import IGNORED
from luban.records import Encoded
from luban.tasks import make


@pytest.fixture
def processor(tmp_path: Path) -> Processor:
    base = tiny.make(tmp_path / "base", ["warm and kind", "cold and late"])
    return Processor(ProcessorSettings(max_length=16), (base.folder / "tokenizer.json").read_text("utf-8"))


def encoded(processor: Processor, labels: list[list[str]], *, several: bool) -> Encoded:
    task = make("classify", {"multi_label": several}, ["bad", "good"])
    return task.encode(pa.table({"text": ["warm"] * len(labels), "labels": labels}), processor)


def test_a_label_that_the_model_does_not_know_is_no_target(processor: Processor) -> None:
    one = encoded(processor, [["good"], ["odd"], ["bad"]], several=False)
    assert one.targets is not None and one.targets.tolist() == [1, IGNORED, 0]
    many = encoded(processor, [["good", "odd"], ["odd"], []], several=True)
    assert many.targets is not None and many.targets.tolist() == [[0, 1], [0, 0], [0, 0]]


def test_it_changes_no_temperature_and_counts_as_an_error(processor: Processor) -> None:
    task = make("classify", {}, ["bad", "good"])
    rows = encoded(processor, [["good"], ["bad"], ["good"], ["odd"]], several=False)
    logits = np.array([[0.0, 2.0], [1.0, 0.0], [0.5, 0.0], [9.0, -9.0]], np.float32)
    gold = [("good",), ("bad",), ("good",), ("odd",)]
    known = Encoded(rows.ids[: rows.offsets[3]], rows.offsets[:4], rows.rows[:3], 3)
    given = {"temperature": True, "thresholds": "half", "wanted_precision": 0.9}
    assert task.calibrate(logits, rows, gold, **given).temperature == pytest.approx(
        task.calibrate(logits[:3], known, gold[:3], **given).temperature
    )
    answers = task.decode(logits, rows, ["warm"] * 4, task.calibrate(logits, rows, gold, **given), {})
    assert task.score(gold, answers, intervals=False)["accuracy"].value <= 0.75
