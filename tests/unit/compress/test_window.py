"""Shorter windows: fewer tokens of long texts, the same answers to short ones, and a word why not where none are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from unit.compress.scene import Scene, made

from luban.compress.methods.window import Options, Window
from luban.errors import LubanError

LONG = pa.table({
    "text": ["so good , thank you " * 6, "so bad , never again " * 6, "a great day"],
    "labels": [["good"], ["bad"], ["good"]],
})  # fmt: skip


def test_short_texts_are_answered_as_before_and_long_ones_by_their_beginning(classify: Scene) -> None:
    material = replace(classify.material, train=LONG)
    found = Window(Options(tokens=8, recover_epochs=0)).apply(classify.candidate, material)
    assert found.processor.encode_texts(LONG["text"].to_pylist()).lengths.tolist() == [8, 8, 5]
    facts = found.facts["window"]
    assert (facts["tokens"], facts["tokens_before"], facts["long_text"]) == (8, 32, "truncate")
    before = classify.candidate.processor.encode_texts(LONG["text"].to_pylist())
    assert facts["spared"] == pytest.approx(1 - 21 / before.lengths.sum(), abs=1e-4)
    now, then = classify.logits(found, LONG), classify.logits(classify.candidate, LONG)
    assert np.allclose(now[2], then[2], atol=1e-5) and not np.allclose(now[0], then[0], atol=1e-5)


def test_half_of_the_longest_text_is_kept_by_itself_its_beginning_and_end_if_told_so(classify: Scene) -> None:
    material = replace(classify.material, train=LONG)
    found = Window(Options(long_text="head_tail", recover_epochs=0)).apply(classify.candidate, material)
    assert found.processor.settings.max_length == 16
    ids = found.processor.encode_texts(["lovely " + "a " * 40 + "kind"]).ids
    alone = [int(found.processor.encode_texts([word]).ids[1]) for word in ("lovely", "kind")]
    assert [int(ids[1]), int(ids[-2])] == alone


def test_texts_in_several_windows_become_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    scene = made(tmp_path_factory, "chunk")
    found = Window(Options(tokens=6, recover_epochs=0)).apply(scene.candidate, scene.material)
    rows = scene.material.task.encode(scene.material.train, found.processor)
    assert len(rows) == rows.n_rows == scene.material.train.num_rows
    assert found.facts["window"]["long_text"] == "head_tail"


def test_the_model_learns_to_answer_from_less(classify: Scene, tmp_path: Path) -> None:
    material = replace(classify.with_settings(tmp_path), unlabelled=())
    found = Window(Options(tokens=4, recover_epochs=4, learning_rate=5e-3)).apply(classify.candidate, material)
    untaught = Window(Options(tokens=4, recover_epochs=0)).apply(classify.candidate, material)
    wanted = classify.logits(classify.candidate)
    distance = [np.abs(classify.logits(one) - wanted).mean() for one in (found, untaught)]
    assert distance[0] < distance[1]
    assert found.facts["window"]["recovery"]["steps"] > 0


@pytest.mark.parametrize(("tokens", "message"), [(32, "would spare 0%.*wanted 5%"), (2, "no room for text")])
def test_what_spares_nothing_or_leaves_nothing_is_refused(classify: Scene, tokens: int, message: str) -> None:
    with pytest.raises(LubanError, match=message):
        Window(Options(tokens=tokens)).apply(classify.candidate, classify.material)


def test_a_task_that_answers_every_token_leaves_none_out(tag: Scene) -> None:
    with pytest.raises(LubanError, match="wants an answer for every token"):
        Window(Options(tokens=8)).apply(tag.candidate, tag.material)
