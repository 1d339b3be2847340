"""JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from luban.cli.show import machine
from luban.records import Finding, LabelScores, Prediction, Score, Span


def test_records_become_json() -> None:
    facts = {"share": np.float32(0.5), "rows": np.array([1, 2])}
    finding = Finding("labels", "WARN", "2 rows", examples=("行 5",), facts=facts)
    assert json.loads(machine.line(finding)) == {
        "what": "labels",
        "verdict": "WARN",
        "message": "2 rows",
        "mend": "",
        "examples": ["行 5"],
        "facts": {"share": 0.5, "rows": [1, 2]},
    }
    prediction = Prediction(("a",), LabelScores(("a", "b"), np.array([0.75, 0.25])), (Span(0, 2, "LOC", "北京", 0.5),))
    assert machine.plain(prediction)["scores"] == {"a": 0.75, "b": 0.25}
    assert machine.plain({"where": Path("runs/x"), "all": {"b", "a"}}) == {"where": "runs/x", "all": ["a", "b"]}


def test_what_json_lacks_is_null() -> None:
    assert machine.line({"score": Score(float("nan"), float("-inf"), 1.0, 0)}) == (
        '{"score": {"value": null, "low": null, "high": 1.0, "n": 0}}'
    )


def test_chinese_stays_readable() -> None:
    assert machine.line({"text": "我的卡还没到"}) == '{"text": "我的卡还没到"}'


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        machine.line({"what": object()})
