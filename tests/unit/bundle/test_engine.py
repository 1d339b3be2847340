"""The engine: order, batching, odd input, threads, and that it answers without torch."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.bundle.made import LABELS, Made, made, texts

import luban
from luban.bundle import engine as engines
from luban.bundle.engine import Engine
from luban.errors import BadRequest, CorruptBundle, NotFound
from luban.records import Calibration, Prediction

CLOSE = 1e-5


def same(one: Prediction, other: Prediction) -> bool:
    """Return whether two answers agree in all but the last bits of their probabilities."""
    if one.labels != other.labels or [s.label for s in one.spans] != [s.label for s in other.spans]:
        return False
    places = [(s.start, s.end, s.text) for s in one.spans] == [(s.start, s.end, s.text) for s in other.spans]
    return places and all(abs(one.scores[label] - other.scores[label]) < CLOSE for label in one.scores)


def test_answers_follow_their_rows_in_any_order(engine: Engine) -> None:
    rows = texts(300)
    answers = engine.predict(rows)
    assert len({answer.label for answer in answers}) > 1, "the model answers alike, so that order can't be seen"
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    shuffled = engine.predict([rows[place] for place in order])
    assert all(same(answers[place], answer) for place, answer in zip(order, shuffled, strict=True))


def test_answers_are_the_same_alone_and_in_company(engine: Engine) -> None:
    rows = texts(60, seed=3)
    together = engine.predict(rows)
    assert all(same(engine.predict([row])[0], answer) for row, answer in zip(rows, together, strict=True))


def test_answers_do_not_depend_on_the_size_of_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts(120, seed=4)
    wanted = engine.logits(engine.encode(rows))
    for tokens in (1, 64, 100_000):
        monkeypatch.setattr(engines, "MAX_BATCH_TOKENS", tokens)
        assert np.abs(engine.logits(engine.encode(rows)) - wanted).max() < 1e-4


def test_the_same_call_gives_the_same_bits(classifier: Made) -> None:
    rows = texts(200, seed=5)
    first, second = Engine.open(classifier.folder), Engine.open(classifier.folder)
    wanted = first.logits(first.encode(rows))
    assert np.array_equal(first.logits(first.encode(rows)), wanted)
    assert np.array_equal(second.logits(second.encode(rows)), wanted)


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_rows_with_the_same_tokens_are_run_once(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    opened = Engine.open(made(tmp_path_factory, kind, "onnx").folder, threads=1)
    ran: list[int] = []

    class Counting:
        threads = 1

        def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
            ran.append(len(input_ids))
            found: np.ndarray = opened.runner.run(input_ids, attention_mask)
            return found

    once = texts(30, seed=21)
    assert len({tuple(opened.encode([row]).ids) for row in once}) == len(once)
    counted = dataclasses.replace(opened, runner=Counting())
    order = [*range(30), *range(29, -1, -1), 3, 3]
    wanted = counted.predict(once)
    n_windows = len(counted.encode(once))
    assert sum(ran) == n_windows >= 30
    ran.clear()
    answers = counted.predict([once[place] for place in order])
    assert sum(ran) == n_windows
    for place, answer in zip(order, answers, strict=True):
        assert answer.labels == wanted[place].labels and answer.spans == wanted[place].spans
        assert dict(answer.scores) == dict(wanted[place].scores)


@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_are_answered_as_one_by_one(threads: int, classifier: Made) -> None:
    opened = Engine.open(classifier.folder, threads=threads)
    chunks = [texts(n, seed=n) for n in (40, 3, 0, 25, 1, 60)]
    found = list(opened.predict_chunks(iter(chunks)))
    assert [len(answers) for answers in found] == [len(chunk) for chunk in chunks]
    for chunk, answers in zip(chunks, found, strict=True):
        wanted = opened.predict(chunk)
        assert [dict(answer.scores) for answer in answers] == [dict(answer.scores) for answer in wanted]


def test_chunks_are_read_no_further_ahead_than_needed(engine: Engine) -> None:
    read: list[int] = []

    def chunks() -> Iterator[list[str]]:
        for number in range(50):
            read.append(number)
            yield texts(2, seed=number)

    answers = engine.predict_chunks(chunks())
    next(answers)
    assert len(read) <= 3
    answers.close()
    assert len(read) <= 3


def test_a_chunk_that_can_not_be_answered_fails_in_its_turn(engine: Engine) -> None:
    answers = engine.predict_chunks([["fine"], ["fine", None], ["fine"]])
    assert len(next(answers)) == 1
    with pytest.raises(BadRequest, match="row 1: got nothing"):
        next(answers)


def test_many_threads_share_one_engine(engine: Engine) -> None:
    groups = [texts(20, seed=seed) for seed in range(12)]
    wanted = [engine.predict(group) for group in groups]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(engine.predict, groups * 3))
    for number, answers in enumerate(found):
        assert all(same(a, b) for a, b in zip(answers, wanted[number % len(groups)], strict=True))


def test_logits_are_those_of_the_model(engine: Engine, classifier: Made) -> None:
    import torch

    row = texts(1, seed=6, longest=8)
    ids = torch.from_numpy(engine.encode(row).ids.astype(np.int64))[None]
    with torch.inference_mode():
        wanted = classifier.model(ids, torch.ones_like(ids)).numpy()
    assert np.abs(engine.logits(engine.encode(row)) - wanted).max() < 1e-4


def test_nothing_is_answered_with_nothing(engine: Engine) -> None:
    assert engine.predict([]) == []
    assert engine.logits(engine.encode([])).shape == (0, len(LABELS["classify"]))


ODD = [
    "", " \t\n", "\x00", "a" * 200_000, "词" * 5000, "\U0001f469\u200d\U0001f52c" * 50, "\ufeff", "\u202eabc",
    "e\u0301" * 9, "[SEP] [CLS]",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=lambda text: repr(text[:9]))
def test_odd_texts_are_answered(engine: Engine, text: str) -> None:
    (answer,) = engine.predict([text])
    assert answer.label in LABELS["classify"]
    assert sum(answer.scores.values()) == pytest.approx(1.0)


def test_half_characters_are_read_as_replacement_characters(engine: Engine, tagger: Made) -> None:
    assert same(*engine.predict(["card \ud83d lost", "card \ufffd lost"]))
    opened = Engine.open(tagger.folder)
    assert same(*opened.predict(["北京 \udc00 card", "北京 \ufffd card"]))
    assert same(*opened.predict([["北京", "\udc00", "card"], ["北京", "\ufffd", "card"]]))


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_are_answered(engine: Engine, rows: list[str]) -> None:
    answers = engine.predict(rows)
    assert len(answers) == len(rows)
    assert all(answer.label in LABELS["classify"] and np.isfinite(answer.score) for answer in answers)


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), max_size=8))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_of_any_text_stand_where_they_say(tagger: Made, rows: list[str]) -> None:
    opened = Engine.open(tagger.folder, check=False)
    for row, answer in zip(rows, opened.predict(rows), strict=True):
        whole = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in row)
        assert all(whole[span.start : span.end] == span.text != "" for span in answer.spans)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["fine", 3], "row 1: got a value of the type int, wanted a text"),
        ([None], r"row 0: got nothing \(None\), wanted a text"),
        (["fine", "fine", ["a", "b"]], "row 2: got a list of tokens, wanted a text"),
        ("where is my card", "rows: got one text, wanted a list"),
        ([b"bytes"], "row 0: got a value of the type bytes"),
    ],
)
def test_rows_of_another_type_are_named(engine: Engine, rows: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        engine.predict(rows)


def test_a_tagger_takes_texts_and_tokens(tagger: Made) -> None:
    opened = Engine.open(tagger.folder)
    text, tokens = opened.predict(["card 北京 refund", ["card", "北", "京", "refund"]])
    assert [(span.start, span.end) for span in text.spans], "no span at all: nothing is tested"
    assert {span.label for span in text.spans} <= set(LABELS["tag"])
    assert [span.label for span in text.spans] == [span.label for span in tokens.spans]
    with pytest.raises(BadRequest, match="row 0: got a list with int in it"):
        opened.predict([["card", 3]])


def test_long_texts_are_read_to_their_end_in_chunks(tmp_path_factory: pytest.TempPathFactory) -> None:
    chunked = Engine.open(made(tmp_path_factory, "classify", "torch", long_text="chunk").folder)
    begin = " ".join(texts(8, seed=8))
    one, other = (begin + " " + " ".join([word] * 40) for word in ("refund", "北京"))
    first, second = chunked.predict([one, other])
    assert abs(first.score - second.score) > CLOSE
    alone = chunked.predict([one])[0]
    assert same(first, alone)


def test_calibration_changes_probabilities_and_no_label(engine: Engine) -> None:
    rows = texts(20, seed=9)
    sharp, flat = engine.calibrated(Calibration(temperature=0.5)), engine.calibrated(Calibration(temperature=5.0))
    for a, b in zip(sharp.predict(rows), flat.predict(rows), strict=True):
        assert a.label == b.label
        assert a.score > b.score
    silent = engine.calibrated(Calibration(abstain_below=1.0))
    assert {answer.labels for answer in silent.predict(rows)} == {()}


def test_the_bundles_own_calibration_is_used(classifier: Made, engine: Engine) -> None:
    assert engine.calibration.temperature == 1.5
    assert engine.digest == classifier.bundle.digest
    assert (engine.name, engine.labels, engine.text_column) == ("made", tuple(LABELS["classify"]), "text")


def test_threads_change_no_label(classifier: Made) -> None:
    rows = texts(80, seed=10)
    answers = [Engine.open(classifier.folder, threads=threads).predict(rows) for threads in (1, 2, 3)]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(*answers, strict=True))


def test_what_is_no_bundle_is_said_to_be_none(classifier: Made, tmp_path: Any) -> None:
    with pytest.raises(NotFound, match="holds no manifest"):
        luban.load(tmp_path)
    with pytest.raises(NotFound, match="sealed graph, no bundle"):
        luban.load(classifier.folder.with_name("bundle-graph"))
    with pytest.raises(NotFound, match="nowhere: no such folder"):
        luban.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotFound, match="file is a file, not a folder"):
        luban.load(tmp_path / "file")
    with pytest.raises((NotFound, CorruptBundle)):
        Engine.open(tmp_path, check=False)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor.json", "bundle.json", "calibration.json", "model.onnx"])
def test_a_damaged_file_is_the_error_whatever_it_did_to_the_opening(
    classifier: Made, tmp_path: Path, name: str
) -> None:
    """The files are opened while they are verified: what can't be parsed must still be told as what was changed."""
    folder = tmp_path / "bundle"
    shutil.copytree(classifier.folder, folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(b"\xff" * 16 + data[16:])
    with pytest.raises(CorruptBundle, match=f"{name} was changed"):
        Engine.open(folder)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(classifier: Made, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(classifier.folder, folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(CorruptBundle, match=r"tokenizer\.json was changed"):
        Engine.open(folder)


def test_answers_without_torch(classifier: Made) -> None:
    script = (
        "import sys, luban\n"
        "answer = luban.load(sys.argv[1]).predict(['where is my card'])[0]\n"
        "print(answer.label, [name for name in sys.argv[2].split() if name in sys.modules])"
    )
    heavy = "torch transformers sklearn scipy pandas pyarrow onnx pydantic"
    command = [sys.executable, "-c", script, str(classifier.folder), heavy]
    ran = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith("[]")
    assert ran.stderr == ""


def test_reference_counts_every_row(engine: Engine) -> None:
    rows = texts(50, seed=11)
    found = engine.reference(rows)
    assert found["n_rows"] == sum(found["length"]["counts"]) == sum(found["labels"].values()) == 50
    assert sum(found["confidence"]["counts"]) == 50
    assert sum(found["tokens"]["counts"]) == len(engine.encode(rows).ids)
