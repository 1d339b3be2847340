"""Answers that are remembered: the ones that would be given, as many as fit, and shared by threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from unit.bundle.made import Made, texts

import luban
from luban.bundle.engine import Engine
from luban.bundle.memory import Memory
from luban.errors import BadRequest
from luban.records import Calibration, LabelScores, Prediction


class Asked:
    """Answers a row with its length, and notes what it was asked."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def __call__(self, rows: Sequence[Any]) -> list[Prediction]:
        self.rows += rows
        return [Prediction(labels=(str(len(row)),)) for row in rows]


def test_a_row_is_asked_once_and_keeps_its_place() -> None:
    memory, asked = Memory(10), Asked()
    assert [one.label for one in memory.answer(["a", "bb"], asked)] == ["1", "2"]
    assert [one.label for one in memory.answer(["ccc", "bb", "a", ["x", "y"]], asked)] == ["3", "2", "1", "2"]
    memory.answer([["x", "y"], "bb"], asked)
    assert asked.rows == ["a", "bb", "ccc", ["x", "y"]]
    assert (memory.n_asked, memory.n_known) == (8, 4)


def test_what_was_asked_for_longest_ago_is_forgotten() -> None:
    memory, asked = Memory(2), Asked()
    for row in ("a", "b", "a", "c", "a", "b"):
        memory.answer([row], asked)
    assert asked.rows == ["a", "b", "c", "b"]


def test_long_rows_are_not_kept() -> None:
    memory, asked = Memory(2), Asked()
    for _ in range(2):
        assert memory.answer(["x" * 5_000], asked)[0].label == "5000"
    assert len(asked.rows) == 2


def test_probabilities_do_not_hold_those_of_the_whole_call(classifier: Made) -> None:
    with_memory = luban.load(classifier.folder, remember=100)
    with_memory.predict(texts(50))
    (kept,) = with_memory.predict(texts(50)[:1])
    assert isinstance(kept.scores, LabelScores)
    assert kept.scores.row.base is None


@pytest.mark.parametrize("kind", ["classifier", "tagger"])
def test_an_engine_that_remembers_answers_as_one_that_does_not(kind: str, request: pytest.FixtureRequest) -> None:
    made: Made = request.getfixturevalue(kind)
    plain, remembering = Engine.open(made.folder), Engine.open(made.folder, remember=20)
    rows = texts(40, seed=5)
    wanted = plain.predict(rows)
    for _ in range(2):
        for place in range(0, 40, 8):  # more rows than are kept
            found = remembering.predict(rows[place : place + 8])
            for one, other in zip(found, wanted[place : place + 8], strict=True):
                assert one.labels == other.labels
                assert [(s.start, s.end, s.label) for s in one.spans] == [
                    (s.start, s.end, s.label) for s in other.spans
                ]
    assert remembering.predict([]) == []


@pytest.mark.parametrize("wrong", [-1, 1.5, "many", True])
def test_what_is_no_number_of_answers_is_refused(wrong: Any, classifier: Made) -> None:
    with pytest.raises(BadRequest, match=r"remember: got .*, wanted a whole number from 0 on"):
        luban.load(classifier.folder, remember=wrong)


def test_another_calibration_remembers_nothing(classifier: Made) -> None:
    engine = luban.load(classifier.folder, remember=100)
    engine.predict(["where is my card"])
    sure = engine.calibrated(dataclasses.replace(engine.calibration, abstain_below=1.0))
    assert isinstance(sure.calibration, Calibration)
    assert sure.predict(["where is my card"])[0].label is None


def test_threads_share_it(classifier: Made) -> None:
    plain, remembering = luban.load(classifier.folder), luban.load(classifier.folder, remember=8)
    rows = texts(24, seed=6)
    wanted = [one.labels for one in plain.predict(rows)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: [one.labels for one in remembering.predict(rows)], range(12)))
    assert all(answer == wanted for answer in answers)
