"""The task tag over a real tokeniser: encoding, windows, decoding, calibration, scores, and a head that learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.units import join, split
from luban.errors import DataError
from luban.models import tiny
from luban.models.processor import Processor, ProcessorSettings
from luban.records import Calibration, Encoded, Prediction, Span
from luban.tasks import chain, tag

LABELS = ("LOC", "PER")
EN = (["Ada", "Lovelace", "met", "Charles", "in", "London", "."], ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "O"])
ZH = (list("王小明在北京工作。"), ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "O", "O"])
PLAIN = Calibration()


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tiny.make(tmp_path_factory.mktemp("tag") / "base", ["Ada met Charles in London ."] * 2).folder
    return (folder / "tokenizer.json").read_text("utf-8")


@pytest.fixture(scope="module")
def processor(tokenizer_json: str) -> Processor:
    return Processor(ProcessorSettings(max_length=64), tokenizer_json)


def table(*rows: tuple[list[str], list[str]], texts: list[str] | None = None) -> pa.Table:
    tokens, tags = [row[0] for row in rows], [row[1] for row in rows]
    columns = {"row": range(1, len(rows) + 1), "text": texts or [join(row) for row in tokens]}
    return pa.table({**columns, "tokens": tokens, "tags": tags}, schema=pa.schema([
        ("row", pa.int64()), ("text", pa.string()), ("tokens", pa.list_(pa.string())), ("tags", pa.list_(pa.string())),
    ]))  # fmt: skip


def make(labels: tuple[str, ...] = LABELS, **options: Any) -> tag.Tag:
    return tag.make(tag.Options(**options), labels)


def logits_for(encoded: Encoded, task: tag.Tag, sure: float = 8.0) -> np.ndarray:
    """Return (T, K) logits that are sure of the encoded targets."""
    assert encoded.targets is not None
    logits = np.zeros((len(encoded.ids), task.n_outputs), np.float32)
    asked = np.flatnonzero(encoded.targets >= 0)
    logits[asked, encoded.targets[asked]] = sure
    return logits


def facts(task: tag.Tag) -> dict[str, Any]:
    return {"transitions": np.zeros((task.n_outputs, task.n_outputs)).tolist()} if task.options.crf else {}


@pytest.mark.parametrize("crf", [False, True])
def test_gold_goes_through_encode_and_decode_unchanged(processor: Processor, crf: bool) -> None:
    task = make(crf=crf)
    rows = table(EN, ZH, ([], []))
    encoded = task.encode(rows, processor)
    found = task.decode(logits_for(encoded, task), encoded, task.inputs(rows), PLAIN, facts(task))
    assert [[(s.label, s.text) for s in prediction.spans] for prediction in found] == [
        [("PER", "Ada Lovelace"), ("PER", "Charles"), ("LOC", "London")], [("PER", "王小明"), ("LOC", "北京")], [],
    ]  # fmt: skip
    strip = [tuple(replace(span, score=1.0) for span in prediction.spans) for prediction in found]
    assert strip == task.gold(rows)
    assert task.score(task.gold(rows), found)["f1"].value == 1.0
    for prediction, text in zip(found, rows["text"].to_pylist(), strict=True):
        assert all(text[span.start : span.end] == span.text for span in prediction.spans)


def test_targets_stand_at_the_first_token_of_each_unit(processor: Processor) -> None:
    encoded = make().encode(table(EN), processor)
    assert encoded.targets is not None and encoded.units is not None
    np.testing.assert_array_equal(encoded.targets >= 0, encoded.units >= 0)
    # Lovelace is unknown to the vocabulary, so it is spelled: one target, then tokens that are not asked.
    assert encoded.targets[encoded.targets >= 0].tolist() == [3, 4, 0, 3, 0, 1, 0]
    assert len(encoded.ids) > len(EN[0]) + 2


def test_offsets_are_those_of_the_text_as_it_was_given(tokenizer_json: str) -> None:
    dirty = "  Ada\u200b  Lovelace\tmet Ｃharles\n in 北京!"
    processor = Processor(ProcessorSettings(max_length=64, clean=("unicode", "control", "whitespace")), tokenizer_json)
    task = make()
    encoded = task.encode([dirty], processor)
    assert encoded.targets is None
    places = split(dirty)
    logits = np.zeros((len(encoded.ids), task.n_outputs), np.float32)
    assert encoded.units is not None
    for token in np.flatnonzero(encoded.units >= 0):
        start, end = places[encoded.units[token]]
        logits[token, {"Lovelace": 3, "北": 1, "京": 2}.get(dirty[start:end], 0)] = 9.0
    (prediction,) = task.decode(logits, encoded, [dirty], PLAIN, {})
    assert [(s.start, s.end, s.text) for s in prediction.spans] == [
        (dirty.index("Lovelace"), dirty.index("Lovelace") + 8, "Lovelace"),
        (dirty.index("北"), dirty.index("京") + 1, "北京"),
    ]


def test_texts_and_their_tokens_are_encoded_alike(processor: Processor) -> None:
    rows = table(EN, ZH)
    task = make()
    wanted = task.encode(rows, processor)
    for given_rows in (task.inputs(rows), rows["tokens"].to_pylist()):
        encoded = task.encode(given_rows, processor)
        np.testing.assert_array_equal(encoded.ids, wanted.ids)
        np.testing.assert_array_equal(encoded.units, wanted.units)


def test_tokens_that_the_text_would_not_be_cut_into_are_kept(processor: Processor) -> None:
    rows = table((["China", "-based", "firm"], ["B-LOC", "O", "O"]), texts=["China-based firm"])
    task = make()
    assert task.inputs(rows) == [["China", "-based", "firm"]]
    encoded = task.encode(rows, processor)
    found = task.decode(logits_for(encoded, task), encoded, task.inputs(rows), PLAIN, {})
    assert [span.text for span in found[0].spans] == ["China"]
    assert task.score(task.gold(rows), found)["f1"].value == 1.0


def test_characters_as_units(processor: Processor) -> None:
    text = "1998年在IBM"
    assert make().inputs(table(([*text], ["O"] * 9))) == [[*text]]
    task = make(units="characters")
    rows = table(([*text], ["O"] * 6 + ["B-LOC", "I-LOC", "I-LOC"]))
    assert task.inputs(rows) == [text]
    encoded = task.encode([text], processor)
    assert encoded.units is not None and encoded.units.max() == 8
    assert [span.text for span in task.gold(rows)[0]] == ["IBM"]


def test_windows_of_a_long_row_are_merged_where_a_unit_sees_most(tokenizer_json: str) -> None:
    processor = Processor(ProcessorSettings(max_length=16, stride=6), tokenizer_json)
    task = make()
    words = [f"{chr(97 + number % 26)}" for number in range(60)]
    tags = ["B-PER" if number % 7 == 0 else "I-PER" if number % 7 in (1, 2) else "O" for number in range(60)]
    rows = table((words, tags), EN)
    encoded = task.encode(rows, processor)
    assert len(encoded) > 4
    logits = logits_for(encoded, task)
    # Spoil the two units next to every cut: another window must speak for them.
    owners = np.repeat(np.arange(len(encoded)), encoded.lengths)
    for token in np.flatnonzero(encoded.units >= 0):  # type: ignore[operator]
        window = owners[token]
        from_left, from_right = token - encoded.offsets[window], encoded.offsets[window + 1] - 1 - token
        inside_left = window > 0 and encoded.rows[window - 1] == encoded.rows[window]
        inside_right = window + 1 < len(encoded) and encoded.rows[window + 1] == encoded.rows[window]
        if (inside_left and from_left <= 2) or (inside_right and from_right <= 2):
            logits[token] = 0.0
            logits[token, 1] = 20.0
    found = task.decode(logits, encoded, task.inputs(rows), PLAIN, {})
    assert task.score(task.gold(rows), found)["f1"].value == 1.0


def test_an_entity_may_run_across_a_cut(tokenizer_json: str) -> None:
    processor = Processor(ProcessorSettings(max_length=12), tokenizer_json)
    task = make(crf=True)
    rows = table((["a"] * 40, ["O"] * 5 + ["B-LOC"] + ["I-LOC"] * 30 + ["O"] * 4))
    encoded = task.encode(rows, processor)
    found = task.decode(logits_for(encoded, task), encoded, task.inputs(rows), PLAIN, facts(task))
    assert [(span.start, span.end) for span in found[0].spans] == [(10, 71)]


@given(st.lists(st.one_of(st.text(max_size=30), st.lists(st.text(max_size=6), max_size=8)), min_size=1, max_size=5),
       st.integers(0, 10**6), st.booleans())  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_logits_over_any_rows_give_whole_ordered_spans(
    processor: Processor, rows: list[str | list[str]], seed: int, crf: bool
) -> None:
    task = make(crf=crf)
    encoded = task.encode(rows, processor)
    logits = np.random.default_rng(seed).normal(0, 3, (len(encoded.ids), task.n_outputs)).astype(np.float32)
    found = task.decode(logits, encoded, rows, PLAIN, facts(task))
    assert len(found) == len(rows)
    for row, prediction in zip(rows, found, strict=True):
        text = row if isinstance(row, str) else join(row)
        ends = [place for span in prediction.spans for place in (span.start, span.end)]
        assert ends == sorted(ends)
        assert all(text[s.start : s.end] == s.text and s.label in LABELS and 0 < s.score <= 1 for s in prediction.spans)


def test_a_stray_inside_tag_in_the_data_begins_an_entity(processor: Processor) -> None:
    rows = table((["in", "London", "Paris"], ["O", "I-LOC", "I-PER"]))
    assert [(s.label, s.text) for s in make().gold(rows)[0]] == [("LOC", "London"), ("PER", "Paris")]
    targets = make().encode(rows, processor).targets
    assert targets is not None and targets[targets >= 0].tolist() == [0, 1, 3]


def test_tags_that_the_task_lacks_are_all_named(processor: Processor) -> None:
    rows = table((["a", "b"], ["O", "B-PRE"]), (["c"], ["B-ORG"]))
    with pytest.raises(DataError) as caught:
        make().encode(rows, processor)
    assert [problem.where for problem in caught.value.problems] == ["row 1, token 2", "row 2, token 1"]
    assert "did you mean 'B-PER'" in str(caught.value)


def test_rows_of_another_kind_are_named(processor: Processor) -> None:
    with pytest.raises(DataError) as caught:
        make().encode(["fine", 7, ["a", None]], processor)
    assert [problem.where for problem in caught.value.problems] == ["row 2", "row 3"]


def test_the_score_of_a_span_is_its_least_sure_unit_and_abstaining_drops_it(processor: Processor) -> None:
    task = make()
    rows = table(EN)
    encoded = task.encode(rows, processor)
    logits = logits_for(encoded, task)
    assert encoded.units is not None
    logits[np.flatnonzero(encoded.units == 1)] *= 0.25
    (prediction,) = task.decode(logits, encoded, task.inputs(rows), PLAIN, {})
    assert prediction.spans[0].score == pytest.approx(np.exp(2) / (np.exp(2) + 4))
    (strict,) = task.decode(logits, encoded, task.inputs(rows), Calibration(abstain_below=0.9), {})
    assert [span.text for span in strict.spans] == ["Charles", "London"]
    (hot,) = task.decode(logits, encoded, task.inputs(rows), Calibration(temperature=2.0), {})
    assert hot.spans[0].score == pytest.approx(np.exp(1) / (np.exp(1) + 4))


@pytest.mark.parametrize("crf", [False, True])
def test_calibration_finds_the_temperature_that_was_put_in(processor: Processor, crf: bool) -> None:
    task = make(crf=crf)
    random = np.random.default_rng(7)
    words = ["a", "b", "c", "d", "e", "f"]
    rows = table(*[(words, ["O"] * 6)] * 400)
    encoded = task.encode(rows, processor)
    scores = random.normal(0, 1.5, (400 * 6, task.n_outputs))
    offsets = np.arange(0, 2401, 6)
    transitions = np.zeros((5, 5))
    shares = chain.marginals(scores, offsets, transitions) if crf else np.exp(scores) / np.exp(scores).sum(1)[:, None]
    drawn = np.array([random.choice(5, p=share) for share in shares])
    assert encoded.units is not None and encoded.targets is not None
    asked = encoded.units >= 0
    logits = np.zeros((len(encoded.ids), 5))
    logits[asked] = scores * 3.0
    targets = encoded.targets.copy()
    targets[asked] = drawn
    found = task.calibrate(logits, replace(encoded, targets=targets), [], temperature=True, thresholds="f1",
                           wanted_precision=0.0, facts=facts(task))  # fmt: skip
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.abstain_below == 0.0


@pytest.mark.parametrize("crf", [False, True])
def test_wanted_precision_holds_back_spans_that_are_often_wrong(processor: Processor, crf: bool) -> None:
    task = make(crf=crf)
    random = np.random.default_rng(1)
    rows = table(*[(["a", "b", "c"], ["O", "B-PER", "O"])] * 400)
    encoded = task.encode(rows, processor)
    logits = logits_for(encoded, task)
    assert encoded.units is not None
    for token in np.flatnonzero(encoded.units == 0):
        if random.random() < 0.5:
            logits[token] = [0.0, 2.5, 0.0, 0.0, 0.0]  # an entity that is not there, and half-hearted
    options: dict[str, Any] = {"temperature": False, "thresholds": "f1", "facts": facts(task)}
    found = task.calibrate(logits, encoded, task.gold(rows), wanted_precision=0.95, **options)
    assert 0.7 < found.abstain_below < 1.0
    kept = task.decode(logits, encoded, task.inputs(rows), found, facts(task))
    assert task.score(task.gold(rows), kept)["precision"].value == 1.0
    assert task.score(task.gold(rows), kept)["recall"].value == 1.0


def test_calibrating_says_what_it_lacks(processor: Processor) -> None:
    options: dict[str, Any] = {"temperature": True, "thresholds": "f1", "wanted_precision": 0.0}
    encoded = make().encode(["a"], processor)
    with pytest.raises(ValueError, match="tags"):
        make().calibrate(np.zeros((3, 5)), encoded, [], **options)
    encoded = make().encode(table(EN), processor)
    with pytest.raises(ValueError, match="facts"):
        make(crf=True).calibrate(np.zeros((len(encoded.ids), 5)), encoded, [], **options)


def test_a_probes_logits_have_no_transitions_and_are_decoded_one_by_one(processor: Processor) -> None:
    rows = table(EN, ZH)
    with_crf, without = make(crf=True), make()
    encoded = with_crf.encode(rows, processor)
    logits = np.random.default_rng(2).normal(0, 2, (len(encoded.ids), with_crf.n_outputs)).astype(np.float32)
    inputs = with_crf.inputs(rows)
    assert with_crf.decode(logits, encoded, inputs, PLAIN, {}) == without.decode(logits, encoded, inputs, PLAIN, {})


def test_intervals_only_where_they_are_asked_for() -> None:
    gold = [(Span(0, 2, "PER"),)] * 20 + [(Span(3, 5, "LOC"),)] * 20
    found = [Prediction(spans=(Span(0, 2, "PER"),))] * 40
    scores = make().score(gold, found)
    assert scores["precision"].low < 0.5 < scores["precision"].high
    quick = make().score(gold, found, intervals=False)["f1"]
    assert (quick.low, quick.value, quick.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("crf", [False, True])
def test_a_model_learns_in_torch_and_answers_in_numpy(tmp_path: Path, crf: bool) -> None:
    import torch

    from luban.models.body import load_body
    from luban.models.heads import TaskModel

    random = np.random.default_rng(0)
    people, places, verbs = [*"赵钱孙李周吴"], [*"京沪津渝"], [*"在去离看"]

    def sentence() -> tuple[list[str], list[str]]:
        # A person is two characters of one list, a place two of another: what a tag is depends on the neighbour.
        parts = [(random.choice(people, 2), "PER"), (random.choice(verbs, 1), ""), (random.choice(places, 2), "LOC")]
        tokens = [str(token) for part, _ in parts for token in part]
        sides = [("B" if not at else "I", label) for part, label in parts for at in range(len(part))]
        tags = [f"{side}-{label}" if label else "O" for side, label in sides]
        return tokens, tags

    base = tiny.make(tmp_path / "base")
    processor = Processor(ProcessorSettings(max_length=32), (base.folder / "tokenizer.json").read_text("utf-8"))
    task = make(crf=crf)
    torch.manual_seed(0)
    model = TaskModel(load_body(base, dropout=0.0), task.head(32, dropout=0.0, pooling="mean"))
    train, test = table(*(sentence() for _ in range(100))), table(*(sentence() for _ in range(50)))

    def batch(rows: pa.Table) -> tuple[Encoded, torch.Tensor, torch.Tensor]:
        encoded = task.encode(rows, processor)
        assert encoded.targets is not None
        shape = (len(encoded), int(encoded.lengths[0]))  # all sentences have as many tokens
        return (
            encoded,
            torch.from_numpy(encoded.ids.astype(np.int64)).view(shape),
            torch.from_numpy(encoded.targets).view(shape),
        )

    _, ids, targets = batch(train)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    mask = torch.ones_like(ids)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = task.loss(model(ids, mask), targets, mask, model.head, smoothing=0.02)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    encoded, ids, _ = batch(test)
    with torch.no_grad():
        logits = model(ids, torch.ones_like(ids)).view(-1, task.n_outputs).numpy()
    held = json.loads(json.dumps(task.facts(model.head)))
    found = task.decode(logits, encoded, task.inputs(test), PLAIN, held)
    assert task.score(task.gold(test), found)["f1"].value > 0.95
