"""Any text, answered by a bundle that labels texts and by one that finds entities: as it must be, the same alone
and in company, or an error of Luban's that says which row; and masked, with nothing else changed.

`LUBAN_FUZZ` says how many texts: 5 for each of it, so that `LUBAN_FUZZ=4000`, as `make fuzz` has it, makes 20,000.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from faults.test_data_fuzz import any_texts
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from unit.bundle.made import WORDS, made

from luban.bundle.engine import Engine
from luban.data.personal import find_personal, mask
from luban.errors import LubanError
from luban.records import Prediction

FUZZ = os.environ.get("LUBAN_FUZZ")
ROWS = 5
texts = (
    any_texts
    | st.lists(
        st.sampled_from([*WORDS, "13800138000", "a@b.cn", "\u202e", "\u0301" * 40, "👨‍👩‍👧", "ﷺ", "\ud83d"])
    ).map(" ".join)
    | st.tuples(any_texts, st.integers(1, 400)).map(lambda drawn: drawn[0] * drawn[1])
)
rows = st.lists(texts, min_size=ROWS, max_size=ROWS)
MANY = settings(
    max_examples=int(FUZZ or 60) // 2, deadline=None, derandomize=FUZZ is None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
"""Both tasks together have each text once."""
ODD = ["", " ", "\0", "\ud83d", "a" * 20_000]
Wrong = Callable[[Engine, str, Prediction], list[str]]


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.open(made(tmp_path_factory, "classify", "onnx").folder, threads=1)


@pytest.fixture(scope="module")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.open(made(tmp_path_factory, "tag", "onnx").folder, threads=1)


def labelled(engine: Engine, text: str, found: Prediction) -> list[str]:
    """Return what is wrong with a label and its probabilities."""
    wrong = []
    if set(found.labels) - set(engine.labels):
        wrong.append(f"no label of the bundle's: {found.labels}")
    if not (math.isfinite(found.score) and 0 <= found.score <= 1):
        wrong.append(f"no probability: {found.score}")
    if abs(sum(found.scores.values()) - 1) > 1e-4:
        wrong.append(f"the probabilities add up to {sum(found.scores.values())}")
    return wrong


def spanned(engine: Engine, text: str, found: Prediction) -> list[str]:
    """Return what is wrong with entities. Half an emoji, which no UTF-8 can say, is told as U+FFFD."""
    wrong, end = [], 0
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    for span in found.spans:
        if not (end <= span.start < span.end <= len(text)):
            wrong.append(f"{span} is not where it can be")
        if text[span.start : span.end] != span.text:
            wrong.append(f"{span} is not {text[span.start : span.end]!r}")
        if span.label not in engine.labels or not 0 <= span.score <= 1:
            wrong.append(f"{span} has no label, or no probability")
        end = span.end
    return wrong


def wrongs(engine: Engine, given: list[str], check: Wrong) -> list[str]:
    """Return what is wrong with the answers to texts."""
    try:
        together = engine.predict(given)
    except LubanError as error:
        return [] if "row" in str(error) else [f"it does not say which row: {error}"]
    wrong = [] if len(together) == len(given) else [f"{len(together)} answers to {len(given)} texts"]
    for text, found in zip(given, together, strict=False):
        wrong += [f"{text!r}: {one}" for one in check(engine, text, found)]
    (alone,) = engine.predict(given[:1])
    if alone.labels != together[0].labels or [span[:3] for span in _spans(alone)] != [
        span[:3] for span in _spans(together[0])
    ]:
        wrong.append(f"{given[0]!r} is answered otherwise alone: {alone}, {together[0]}")
    return wrong


def _spans(found: Prediction) -> list[tuple[Any, ...]]:
    return [(span.start, span.end, span.label) for span in found.spans]


@MANY
@example(ODD)
@given(rows)
def test_any_text_gets_a_label(classify: Engine, given: list[str]) -> None:
    assert wrongs(classify, given, labelled) == []


@MANY
@example(ODD)
@given(rows)
def test_any_text_gets_its_entities(tag: Engine, given: list[str]) -> None:
    assert wrongs(tag, given, spanned) == []


@MANY
@example(ODD)
@given(rows)
def test_any_text_is_masked_and_is_otherwise_as_it_was(given: list[str]) -> None:
    for text in given:
        end, found = 0, find_personal(text)
        masked = mask(text, found)
        assert len(masked) == len(text)
        for one in found:
            assert end <= one.start < one.end <= len(text), found
            assert masked[end : one.start] == text[end : one.start]
            assert "*" in masked[one.start : one.end] or one.end - one.start < 2
            end = one.end
        assert masked[end:] == text[end:]


def test_the_harness_finds_mistakes_made_on_purpose(
    classify: Engine, tag: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["where is my new card", "我的卡丢了", "a", "pay a bill 北京", "refund"] * 2
    predict = Engine.predict

    def shifted(self: Engine, rows: Any, **more: Any) -> Any:
        found = predict(self, rows, **more)
        return [found[-1], *found[:-1]]

    assert wrongs(classify, given, labelled) == wrongs(tag, given, spanned) == []
    monkeypatch.setattr(Engine, "predict", shifted)
    assert wrongs(classify, given, labelled) or wrongs(tag, given, spanned)
    monkeypatch.setattr(Engine, "predict", lambda self, rows, **more: predict(self, rows, **more)[:1])
    assert wrongs(classify, given, labelled)

    def fails(self: Engine, rows: Any, **more: Any) -> Any:
        raise LubanError("something is wrong")

    monkeypatch.setattr(Engine, "predict", fails)
    assert wrongs(classify, given, labelled)
