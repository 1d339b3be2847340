"""Small real-looking test rows for the report: invented texts, predictions with known faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luban.records import LabelScores, Prediction, Span

LABELS = ("card", "loan", "转账")


def classify_table(gold: Sequence[Sequence[str]], texts: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    """Return rows as a Dataset holds them."""
    return pa.table(
        {
            "row": list(range(2, len(texts) + 2)),
            "text": list(texts),
            "labels": [list(labels) for labels in gold],
            **{f"meta.{name}": list(values) for name, values in columns.items()},
        }
    )


@pytest.fixture
def rows() -> dict[str, Any]:
    """Return 300 single-label rows; the model is wrong on a third from the channel `phone`, seldom elsewhere."""
    rng = np.random.default_rng(0)
    gold, texts, channels, shares = [], [], [], []
    for number in range(300):
        label = int(rng.integers(3))
        channel = ("phone", "mail", "chat")[number % 3]
        given = int((label + 1) % 3) if rng.random() < (0.35 if channel == "phone" else 0.04) else label
        row = rng.dirichlet([1.0, 1.0, 1.0]) * 0.4
        row[given] += 0.6
        shares.append(row)
        gold.append((LABELS[label],))
        channels.append(channel)
        texts.append(f"问题 {number}：我的卡在哪里" if number % 2 else f"question {number} about my {LABELS[label]}")
    predictions = [Prediction((LABELS[int(row.argmax())],), LabelScores(LABELS, row)) for row in shares]
    flat = np.array([0.4, 0.3, 0.3])
    baseline = [Prediction(("card",), LabelScores(LABELS, flat))] * 300
    return {
        "task": "classify",
        "labels": LABELS,
        "gold": gold,
        "predictions": predictions,
        "table": classify_table(gold, texts, channel=channels),
        "baselines": {"majority": baseline},
    }


@pytest.fixture
def entity_rows() -> dict[str, Any]:
    """Return 60 tag rows: every third person's last character is missed, every fifth place is called a person."""
    gold, predictions, texts = [], [], []
    for number in range(60):
        texts.append("张三丰住在北京市")
        gold.append((Span(0, 3, "人"), Span(5, 8, "地")))
        predictions.append(
            Prediction(
                spans=(
                    Span(0, 2 if number % 3 == 0 else 3, "人", score=0.9),
                    Span(5, 8, "人" if number % 5 == 0 else "地", score=0.6),
                )
            )
        )
    tokens = [list(text) for text in texts]
    tags = [["B-人", "I-人", "I-人", "O", "O", "B-地", "I-地", "I-地"]] * 60
    table = pa.table({"row": list(range(1, 61)), "text": texts, "tokens": tokens, "tags": tags})
    return {
        "task": "tag",
        "labels": ("人", "地"),
        "gold": gold,
        "predictions": predictions,
        "table": table,
        "baselines": {"majority": [Prediction()] * 60},
    }
