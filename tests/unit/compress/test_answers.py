"""Teachers' answers laid beside a candidate's windows and units, however each of them cuts the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.compress.scene import OTHER, Scene, made

from luban.compress import answers
from luban.compress.answers import by_unit, by_window, joined, lesson
from luban.models.processor import Processor, ProcessorSettings
from luban.records import Encoded


def windows(rows: list[int], lengths: list[int], units: list[int] | None = None) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    marks = None if units is None else np.array(units, np.int32)
    return Encoded(np.arange(offsets[-1], dtype=np.int32), offsets, np.array(rows), rows[-1] + 1, units=marks)


def test_windows_cut_alike_keep_their_own_answers() -> None:
    logits = np.arange(6, dtype=np.float32).reshape(3, 2)
    found, place = by_window(logits, windows([0, 0, 1], [3, 2, 4]), windows([0, 0, 1], [4, 4, 5]))
    assert np.array_equal(found[place], logits)


def test_windows_cut_otherwise_get_their_rows_mean() -> None:
    logits = np.array([[1, 0], [3, 2], [7, 7]], np.float32)
    found, place = by_window(logits, windows([0, 0, 1], [3, 2, 4]), windows([0, 1, 1], [4, 4, 5]))
    assert np.array_equal(found[place], [[2, 1], [7, 7], [7, 7]])


def test_units_find_each_other_in_other_pieces_and_windows() -> None:
    theirs = windows([0, 0, 1], [4, 3, 3], [-1, 0, 1, -1, 1, 2, -1, -1, 0, -1])
    logits = np.arange(10, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    rows = windows([0, 1], [7, 3], [-1, 0, -1, 1, -1, 2, -1, -1, 0, -1])
    found, place = by_unit(logits, theirs, rows)
    assert np.array_equal(found[:, 0], [1, 3, 5, 8])  # unit 1 of row 0 stands in two windows, at tokens 2 and 4
    assert place.tolist() == [-1, 0, -1, 1, -1, 2, -1, -1, 3, -1]


def test_joined_rows_follow_each_other() -> None:
    both = joined(windows([0, 1], [2, 3], [0, 1, 0, 1, 2]), windows([0, 0], [1, 2], [0, 1, 2]))
    assert both.rows.tolist() == [0, 1, 2, 2] and both.n_rows == 3
    assert both.offsets.tolist() == [0, 2, 5, 6, 8]
    assert both.units is not None and both.units.tolist() == [0, 1, 0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("kind", ["classify", "chunk", "multi-label", "tag", "crf"])
def test_rows_without_labels_take_the_teachers_answer(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    scene = made(tmp_path_factory, kind)
    material = replace(scene.material, folder=tmp_path_factory.mktemp("states"))
    found = lesson(scene.candidate.processor, [scene.candidate], material, "key")
    targets = found.rows.targets
    assert targets is not None
    labelled = scene.material.task.encode(scene.material.train, scene.candidate.processor)
    unlabelled = scene.material.task.encode(OTHER, scene.candidate.processor)
    assert np.array_equal(
        targets[: -len(unlabelled if not scene.material.task.per_token else unlabelled.ids)], labelled.targets
    )
    if kind in ("tag", "crf"):
        asked = targets[-len(unlabelled.ids) :] >= 0
        assert unlabelled.units is not None and np.array_equal(asked, unlabelled.units >= 0)
    elif kind == "multi-label":
        tail = targets[-len(unlabelled) :]
        assert ((tail > 0) & (tail < 1)).all()
    else:
        assert np.array_equal(targets[-len(unlabelled) :], found.answers[-len(unlabelled) :].argmax(1))
    assert found.n_labelled == scene.material.train.num_rows


def test_answers_are_made_once(
    classify: Scene, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = replace(classify.material, folder=tmp_path_factory.mktemp("states"))
    first = lesson(classify.candidate.processor, [classify.candidate], material, "key")
    asked: list[int] = []
    real = answers._answers
    monkeypatch.setattr(answers, "_answers", lambda *given: asked.append(1) or real(*given))
    again = lesson(classify.candidate.processor, [classify.candidate], material, "key")
    assert not asked and np.array_equal(first.answers, again.answers)
    lesson(classify.candidate.processor, [classify.candidate], material, "another key")
    assert asked


def test_a_teacher_that_reads_shorter_windows(tmp_path_factory: pytest.TempPathFactory) -> None:
    scene = made(tmp_path_factory, "tag")
    short = Processor(ProcessorSettings(max_length=6), scene.candidate.processor.tokenizer_json)
    material = replace(scene.material, folder=tmp_path_factory.mktemp("states"))
    found = lesson(scene.candidate.processor, [replace(scene.candidate, processor=short)], material, "key")
    assert found.rows.units is not None
    assert np.array_equal(found.place >= 0, found.rows.units >= 0)
    assert np.isfinite(found.answers).all() and (found.answers != 0).any(1).all()
