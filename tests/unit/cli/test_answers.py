"""Answers as JSON and as lines for a person."""

from __future__ import annotations

import numpy as np
import pytest

from luban.cli.show import answers
from luban.records import LabelScores, Prediction, Span
from luban.tasks import make

LABELS = ("投诉", "praise", "question")


def classified(*chosen: str, scores: tuple[float, ...] = (0.7, 0.2, 0.1)) -> Prediction:
    return Prediction(chosen, LabelScores(LABELS, np.array(scores)))


def test_one_label() -> None:
    task = make("classify", {}, LABELS)
    assert answers.facts("卡坏了", classified("投诉"), task, scores=False) == {
        "text": "卡坏了",
        "label": "投诉",
        "score": 0.7,
    }
    found = answers.facts("卡坏了", classified("投诉"), task, scores=True)
    assert found["scores"] == {"投诉": 0.7, "praise": 0.2, "question": 0.1}
    assert answers.facts("?", classified(), task, scores=False) == {"text": "?", "label": None, "score": 0.7}


def test_several_labels() -> None:
    task = make("classify", {"multi_label": True}, LABELS)
    found = answers.facts("x", classified("praise", "question", scores=(0.1, 0.9, 0.8)), task, scores=False)
    assert found == {"text": "x", "labels": ["praise", "question"], "score": 0.9}


def test_entities() -> None:
    task = make("tag", {}, ("city", "person"))
    spans = (Span(0, 2, "person", "李华", 0.98765432), Span(3, 5, "city", "上海", 0.5))
    found = answers.facts("李华在上海", Prediction(spans=spans), task, scores=True)
    assert found == {
        "text": "李华在上海",
        "spans": [
            {"start": 0, "end": 2, "label": "person", "text": "李华", "score": 0.987654},
            {"start": 3, "end": 5, "label": "city", "text": "上海", "score": 0.5},
        ],
    }


@pytest.mark.parametrize(
    ("prediction", "scores", "shown"),
    [
        (classified("投诉"), False, "投诉 0.70  a\\x1b[2Jb⏎c"),
        (classified(), False, "no label, the likeliest has 0.70  a\\x1b[2Jb⏎c"),
        (classified("投诉", "praise"), False, "投诉 0.70  praise 0.20  a\\x1b[2Jb⏎c"),
        (
            classified("投诉"),
            True,
            "投诉 0.70  a\\x1b[2Jb⏎c\n  0.700  投诉\n  0.200  praise\n  0.100  question",
        ),
    ],
)
def test_a_person_reads_label_probability_and_text(prediction: Prediction, scores: bool, shown: str) -> None:
    assert answers.draw("a\x1b[2Jb\nc", prediction, scores=scores).plain == shown


def test_a_person_sees_ten_labels_of_many() -> None:
    labels = [f"l{number}" for number in range(30)]
    prediction = Prediction(("l29",), LabelScores(labels, np.linspace(0, 1, 30)))
    lines = answers.draw("x", prediction, scores=True).plain.splitlines()
    assert len(lines) == 12
    assert lines[1] == "  1.000  l29"
    assert lines[-1] == "  and 20 more"


def test_entities_are_marked_in_the_text() -> None:
    spans = (Span(3, 5, "city", "上海", 0.5), Span(0, 2, "person", "李华", 0.98))
    assert (
        answers.draw("李华在上海。", Prediction(spans=spans), scores=False).plain
        == "李华[person 0.98]在上海[city 0.50]。"
    )
    assert answers.draw("没有", Prediction(), scores=False).plain == "没有  no entities"
