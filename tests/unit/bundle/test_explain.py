"""Why a bundle answers as it does: the weights are what its own answers say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.bundle.made import made, texts

from luban.bundle.engine import Engine
from luban.bundle.explain import Scorer
from luban.errors import BadRequest
from luban.records import Explanation
from luban.tasks.classify import Classify, Options

LONG = " ".join(texts(12, seed=5, longest=20))


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.open(made(tmp_path_factory, "classify", "onnx").folder, threads=1)


@pytest.fixture(scope="module")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.open(made(tmp_path_factory, "tag", "onnx").folder, threads=1)


@pytest.fixture(scope="module")
def several(classify: Engine) -> Engine:
    """Return an engine whose texts may have several labels."""
    return replace(classify, task=Classify(Options(multi_label=True), classify.labels), memory=None)


def odds(engine: Engine, text: str, label: str) -> float:
    scores = engine.predict([text])[0].scores
    return math.log(scores[label]) - math.log(sum(score for name, score in scores.items() if name != label))


def check(found: Explanation, text: str) -> None:
    for reason in found.reasons:
        assert [part.text for part in reason.parts] == [text[part.start : part.end] for part in reason.parts]
        ends = [place for part in reason.parts for place in (part.start, part.end)]
        assert ends == sorted(ends)
        if found.method == "shapley":
            assert reason.rest is not None
            total = reason.rest + sum(part.weight for part in reason.parts)
            assert total == pytest.approx(reason.log_odds, abs=1e-4)


@given(text=st.sampled_from(texts(40, seed=9)) | st.text(max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_offsets_cut_the_text_and_weights_add_up(classify: Engine, text: str) -> None:
    found = classify.explain(text, rows=40)
    prediction = classify.predict([text])[0]
    assert found.n_rows <= 40
    check(found, found.text)
    (reason,) = found.reasons
    assert reason.label == prediction.label and reason.score == pytest.approx(prediction.score, abs=1e-5)


def test_weights_are_shapley_values_of_the_engines_own_answers(classify: Engine) -> None:
    text, label = "where is card", classify.labels[1]
    (reason,) = classify.explain(text, label).reasons
    v = {one: odds(classify, one, label) for one in
         ("", "where", "is", "card", "where is", "where card", "is card", text)}  # fmt: skip
    wanted = (
        (v["card"] - v[""]) / 3 + (v["where card"] - v["where"]) / 6 + (v["is card"] - v["is"]) / 6
        + (v[text] - v["where is"]) / 3
    )  # fmt: skip
    assert reason.label == label
    assert reason.parts[2].weight == pytest.approx(wanted, abs=1e-3)
    assert reason.rest == pytest.approx(v[""], abs=1e-3) and reason.log_odds == pytest.approx(v[text], abs=1e-3)


def test_the_same_call_gives_the_same(classify: Engine) -> None:
    assert classify.explain(LONG, rows=64) == classify.explain(LONG, rows=64)


@pytest.mark.parametrize("rows", [16, 64, 256])
def test_a_long_text_costs_no_more_rows_than_it_may(classify: Engine, rows: int) -> None:
    found = classify.explain(LONG, rows=rows)
    check(found, LONG)
    (reason,) = found.reasons
    assert found.n_rows <= rows and len(reason.parts) <= 40
    assert "".join(LONG.split()) == "".join("".join(part.text.split()) for part in reason.parts)


def test_in_a_long_text_the_words_that_matter_are_told_apart(classify: Engine) -> None:
    parts = sorted(classify.explain(LONG, rows=256).reasons[0].parts, key=lambda part: part.end - part.start)
    assert len(parts[0].text.split()) == 1 and len(parts[-1].text.split()) > 1


def test_each_of_several_labels_has_a_reason(several: Engine) -> None:
    text = next(text for text in texts(60, seed=2, longest=6) if len(several.predict([text])[0].labels) > 1)
    found = several.explain(text)
    check(found, text)
    assert [reason.label for reason in found.reasons] == list(several.predict([text])[0].labels)


def test_where_no_label_is_given_the_likeliest_is_explained(several: Engine) -> None:
    unsure = several.calibrated(replace(several.calibration, thresholds=(1.0,) * len(several.labels)))
    (reason,) = unsure.explain("my card").reasons
    assert reason.score == pytest.approx(unsure.predict(["my card"])[0].score, abs=1e-5)


def test_an_entity_is_explained_by_the_words_beside_it(tag: Engine) -> None:
    text = next(text for text in texts(60, seed=4, longest=12) if 0 < len(tag.predict([text])[0].spans) < 4)
    found = tag.explain(text)
    check(found, text)
    spans = tag.predict([text])[0].spans
    assert found.method == "left-out"
    assert [reason.span and (reason.span.start, reason.span.end) for reason in found.reasons] == [
        (span.start, span.end) for span in spans
    ]
    for reason, span in zip(found.reasons, spans, strict=True):
        assert reason.rest is None and reason.score == pytest.approx(span.score, abs=1e-5)
        assert all(part.end <= span.start or part.start >= span.end for part in reason.parts)
        assert any(part.weight for part in reason.parts)


def test_what_a_word_beside_an_entity_adds_is_what_is_lost_without_it(tag: Engine) -> None:
    scorer = Scorer(tag)
    text = next(
        text for text in texts(200, seed=6, longest=9)
        if text.isascii() and any(span.start and " " not in span.text for span in tag.predict([text])[0].spans)
    )  # fmt: skip
    found = tag.explain(text)
    reason = next(one for one in found.reasons if one.span and one.span.start and " " not in one.span.text)
    assert reason.span is not None
    names = text.split()
    at = len(text[: reason.span.start].split())
    mine = tag.task.tags.index(f"B-{reason.label}")  # type: ignore[attr-defined]

    def entity(words: list[str], place: int) -> float:
        share = scorer.answer([" ".join(words)])[0][0].values[place, mine]
        return math.log(share) - math.log(1 - share)

    assert reason.log_odds == pytest.approx(entity(names, at), abs=1e-3)
    assert reason.parts[0].weight == pytest.approx(entity(names, at) - entity(names[1:], at - 1), abs=1e-3)


def test_a_text_without_entities_has_no_reasons(tag: Engine) -> None:
    assert tag.explain("").reasons == ()


@pytest.mark.parametrize(
    ("text", "given", "told"),
    [
        (["a"], {}, "wanted a text"),
        (None, {}, "wanted a text"),
        ("a", {"label": "card lots"}, "card lost"),
        ("a", {"rows": 3}, "from 16"),
        ("a", {"rows": True}, "whole number"),
        ("a", {"rows": 10**6}, "to 4096"),
    ],
)
def test_what_can_t_be_explained_is_refused(classify: Engine, text: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        classify.explain(text, **given)
    assert told in str(caught.value)


def test_one_label_alone_explains_nothing(classify: Engine) -> None:
    with pytest.raises(BadRequest, match="one label"):
        replace(classify, task=Classify(Options(), ("only",))).explain("a")
