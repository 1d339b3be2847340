"""The dataclasses that cross rooms."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pyarrow as pa
import pytest

from luban import records
from luban.records import Dataset, Encoded, LabelScores, Prediction, Score


def test_every_record_is_frozen() -> None:
    kinds = [kind for _, kind in inspect.getmembers(records, dataclasses.is_dataclass)]
    assert len(kinds) > 10
    assert all(kind.__dataclass_params__.frozen for kind in kinds)


def test_label_scores_are_a_mapping_over_one_row() -> None:
    scores = LabelScores(("好评", "差评"), np.array([0.25, 0.75], np.float32))
    assert dict(scores) == {"好评": 0.25, "差评": 0.75}
    assert scores["差评"] == 0.75
    assert type(scores["差评"]) is float
    assert len(scores) == 2 and "中评" not in scores
    with pytest.raises(KeyError, match="中评"):
        scores["中评"]
    assert repr(scores).startswith("{'差评': 0.750")
    assert repr(LabelScores(("a", "b", "c", "d"), np.ones(4))).endswith("...}")


def test_prediction() -> None:
    chosen = Prediction(labels=("a",), scores={"a": 0.8, "b": 0.2})
    assert (chosen.label, chosen.score) == ("a", 0.8)
    abstained = Prediction(scores={"a": 0.4, "b": 0.3})
    assert (abstained.label, abstained.score) == (None, 0.4)
    assert Prediction().score == 0.0


def test_score() -> None:
    score = Score(0.94, 0.93, 0.95, 3080)
    assert str(score) == "0.9400 [0.9300, 0.9500]"
    assert score.to_json() == {"value": 0.94, "low": 0.93, "high": 0.95, "n": 3080}


def test_encoded_lengths() -> None:
    encoded = Encoded(np.arange(5, dtype=np.int32), np.array([0, 2, 5]), np.array([0, 0]), 1)
    assert encoded.lengths.tolist() == [2, 3]
    assert len(encoded) == 2


def test_dataset_length() -> None:
    assert len(Dataset(pa.table({"row": [1, 2], "text": ["a", "b"]}), "a.csv", "0" * 64)) == 2
