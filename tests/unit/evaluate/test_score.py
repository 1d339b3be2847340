"""The report knows what went wrong and says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from luban.evaluate.remarks import remarks
from luban.evaluate.score import report
from luban.project.schema import EvaluateSection
from luban.records import LabelScores, Prediction, Report, Span

from .conftest import LABELS, classify_table


def made(rows: dict[str, Any], **more: Any) -> Report:
    """Return the report of some rows."""
    return report(name="test", digests={"data": "0" * 64}, settings=EvaluateSection(), **{**rows, **more})


def test_a_report_is_json_and_the_same_every_time(rows: dict[str, Any]) -> None:
    first, second = made(rows), made(rows)
    assert json.dumps(first.details, allow_nan=False) == json.dumps(second.details, allow_nan=False)
    assert first.scores == second.scores
    assert next(iter(first.scores)) == "accuracy"
    assert set(first.baselines) == {"majority"}
    assert first.baselines["majority"]["accuracy"].n == 300
    assert first.details["gains"]["majority"]["differences"]["accuracy"]["low"] > 0


def test_hardest_errors_are_wrong_and_the_surest_first(rows: dict[str, Any]) -> None:
    errors = made(rows).details["errors"]
    assert errors
    assert all(error["gold"] != error["given"] for error in errors)
    assert [error["score"] for error in errors] == sorted((error["score"] for error in errors), reverse=True)
    place = errors[0]["row"] - 2
    assert rows["table"].column("text")[place].as_py() == errors[0]["text"]
    assert rows["predictions"][place].label == errors[0]["given"][0]


def test_confusion_counts_every_row_once(rows: dict[str, Any]) -> None:
    confusion = made(rows).details["confusion"]
    assert confusion["labels"] == [*LABELS, ""]
    assert np.sum(confusion["matrix"]) == 300
    pair = confusion["pairs"][0]
    right, given = confusion["labels"].index(pair["gold"]), confusion["labels"].index(pair["given"])
    assert confusion["matrix"][right][given] == pair["n"]
    assert pair["n"] <= pair["of"]
    assert len(pair["examples"]) == min(3, pair["n"])


def test_many_labels_have_pairs_and_no_matrix() -> None:
    labels = tuple(f"label {number}" for number in range(40))
    gold = [(label,) for label in labels]
    predictions = [Prediction((labels[(number + 1) % 40],)) for number in range(40)]
    confusion = made(
        {
            "task": "classify",
            "labels": labels,
            "gold": gold,
            "predictions": predictions,
            "table": classify_table(gold, labels),
            "baselines": {},
        }
    ).details["confusion"]
    assert "matrix" not in confusion
    assert confusion["pairs"][0]["n"] == 1


def test_held_back_rows_lower_coverage_and_stand_in_the_matrix(rows: dict[str, Any]) -> None:
    predictions = [
        Prediction((), answer.scores) if number < 30 else answer for number, answer in enumerate(rows["predictions"])
    ]
    found = made(rows, predictions=predictions)
    assert found.scores["coverage"].value == pytest.approx(0.9)
    assert sum(row[-1] for row in found.details["confusion"]["matrix"]) == 30


def test_a_model_that_holds_back_is_compared_as_if_it_did_not(rows: dict[str, Any]) -> None:
    predictions = [
        Prediction((), answer.scores) if number < 30 else answer for number, answer in enumerate(rows["predictions"])
    ]
    whole, held = made(rows), made(rows, predictions=predictions)
    assert held.scores["accuracy"].value < whole.scores["accuracy"].value
    assert held.details["gains"] == whole.details["gains"] and whole.details["unheld"] is None
    assert held.details["unheld"] == whole.scores["accuracy"].to_json()
    found = dict(remarks(held))
    assert found["held_back"]["unheld"] == whole.scores["accuracy"].value and "held_back" not in dict(remarks(whole))


def test_risk_falls_as_fewer_answers_are_given(rows: dict[str, Any]) -> None:
    risk = made(rows).details["risk"]
    assert risk["curve"][-1]["coverage"] == 1.0
    assert risk["curve"][-1]["accuracy"]["value"] == made(rows).scores["accuracy"].value
    sure = rows["predictions"]
    for point in risk["reached"]:
        if point["threshold"] is not None:
            kept = [
                answer.label == right[0]
                for right, answer in zip(rows["gold"], sure, strict=True)
                if answer.score >= point["threshold"]
            ]
            assert len(kept) / 300 == pytest.approx(point["coverage"])
            assert np.mean(kept) >= point["precision"]


def test_a_wrong_test_label_is_suspected_where_models_agree(rows: dict[str, Any]) -> None:
    gold = list(rows["gold"])
    sure = [
        Prediction(right, LabelScores(LABELS, np.array([0.97 if label == right[0] else 0.015 for label in LABELS])))
        for right in gold
    ]
    gold[7] = ("card",) if gold[7] != ("card",) else ("loan",)
    found = made(rows, gold=gold, predictions=sure, baselines={"tfidf": sure, "majority": [sure[0]] * 300})
    suspects = found.details["suspects"]
    assert suspects["n"] == 1
    assert suspects["agreeing"] == ["tfidf"]
    assert suspects["rows"][0]["row"] == 9
    assert made(rows).details["suspects"] == {}, "a baseline that always says the same is no witness"


def test_several_labels(rows: dict[str, Any]) -> None:
    gold = [
        (*labels, "loan") if labels != ("loan",) and number % 4 == 0 else labels
        for number, labels in enumerate(rows["gold"])
    ]
    found = made(rows, gold=gold, multi_label=True, calibration={"thresholds": dict.fromkeys(LABELS, 0.4)})
    assert next(iter(found.scores)) == "micro_f1"
    assert "matrix" not in found.details["confusion"]
    assert all(pair["gold"] != pair["given"] for pair in found.details["confusion"]["pairs"])
    assert sum(part["n"] for part in found.details["reliability"]) == 900
    assert found.details["risk"] == {}


def test_entities(entity_rows: dict[str, Any]) -> None:
    found = made(entity_rows)
    assert found.scores["f1"].n == 120
    assert found.details["entities"] == {
        "exact": 88,
        "wrong_label": 12,
        "wrong_edges": 20,
        "wrong_both": 0,
        "missed": 0,
        "made_up": 0,
    }
    error = found.details["errors"][0]
    assert error["score"] == 0.9
    assert error["given"][0] == {"start": 0, "end": 2, "label": "人"}
    cells = found.details["confusion"]
    assert cells["matrix"][cells["labels"].index("地")][cells["labels"].index("人")] == 12


def test_an_entity_beyond_the_shown_text_is_left_out_of_the_example(entity_rows: dict[str, Any]) -> None:
    long = "很" * 400 + "北京"
    table = entity_rows["table"].slice(0, 1).set_column(1, "text", [[long]])
    found = made(entity_rows, gold=[(Span(400, 402, "地"),)], predictions=[Prediction()], table=table, baselines={})
    error = found.details["errors"][0]
    assert len(error["text"]) == 300
    assert error["gold"] == []


def test_no_rows_make_a_report(rows: dict[str, Any]) -> None:
    found = made(rows, gold=[], predictions=[], table=rows["table"].slice(0, 0), baselines={"majority": []})
    assert found.scores["accuracy"].n == 0
    assert json.dumps(found.details, allow_nan=False)


def test_predictions_without_probabilities_make_a_report(rows: dict[str, Any]) -> None:
    bare = [Prediction(answer.labels) for answer in rows["predictions"]]
    found = made(rows, predictions=bare)
    assert "ece" not in found.scores
    assert found.details["reliability"] == []
    assert len(found.details["errors"]) == 20


def test_every_set_of_predictions_must_fit_the_rows(rows: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="299 predictions for 300 gold rows"):
        made(rows, predictions=rows["predictions"][1:])
    with pytest.raises(ValueError, match="1 majority for 300 gold rows"):
        made(rows, baselines={"majority": [Prediction()]})
