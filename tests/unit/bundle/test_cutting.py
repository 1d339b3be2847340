"""Texts cut into parts, and what is left of a text without some of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luban.bundle.cutting import cut, grouped, left_out
from luban.data.units import split
from luban.models import base as bases
from luban.models.vocabulary import Vocabulary

TEXTS = st.text(st.sampled_from("ab é'-.,!?()“”。，《》 \n\t我的卡丢了e\u0301กำ😡5$"), max_size=40) | st.text(
    max_size=20
)


@pytest.fixture(scope="session")
def vocabulary(tiny: bases.BaseFolder) -> Vocabulary:
    """Return a vocabulary of characters."""
    return Vocabulary((Path(tiny.folder) / "tokenizer.json").read_text("utf-8"))


def words(text: str, vocabulary: Vocabulary) -> list[str]:
    return [text[start:end] for start, end in cut(text, vocabulary)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Where's my card?", ["Where's", "my", "card?"]),
        ("I said (twice): no!", ["I", "said", "(twice):", "no!"]),
        ("“hello” – well-known", ["“hello”", "–", "well-known"]),
        ("so bad 😡!", ["so", "bad", "😡!"]),
        ("我的卡，丢了。", ["我", "的", "卡，", "丢", "了。"]),
        ("《卡》在哪", ["《卡》", "在", "哪"]),
        (" \n", []),
    ],
)
def test_marks_belong_to_the_word_that_they_touch(vocabulary: Vocabulary, text: str, wanted: list[str]) -> None:
    assert words(text, vocabulary) == wanted


def test_chinese_is_cut_into_the_tokenisers_pieces(e5: bases.BaseFolder) -> None:
    vocabulary = Vocabulary.shared((Path(e5.folder) / "tokenizer.json").read_text("utf-8"))
    found = words("我的银行卡丢了", vocabulary)
    assert "".join(found) == "我的银行卡丢了" and "银行" in found


@given(text=TEXTS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_hold_all_but_the_space_between_them(vocabulary: Vocabulary, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    places = cut(text, vocabulary)
    at = 0
    for start, end in places:
        inside = split(text[start:end])
        assert at <= start and not split(text[at:start])
        assert inside[0][0] == 0 and inside[-1][1] == end - start
        at = end
    assert not split(text[at:])


@given(text=TEXTS, data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_left_has_the_same_words_as_before(vocabulary: Vocabulary, text: str, data: st.DataObject) -> None:
    text = text.encode("utf-8", "replace").decode()
    places = cut(text, vocabulary)
    kept = data.draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    found = left_out(text, places, kept)
    wanted = [text[start:end] for (first, last), keep in zip(places, kept, strict=True) if keep
              for start, end in split(text) if first <= start and end <= last]  # fmt: skip
    assert [found[start:end] for start, end in split(found)] == wanted
    if all(kept):
        assert found == text


@pytest.mark.parametrize(
    ("text", "kept", "wanted"),
    [
        ("Where is my card", [1, 0, 1, 1], "Where my card"),
        ("Where is my card", [0, 0, 1, 1], "my card"),
        ("Where is my card", [1, 1, 1, 0], "Where is my"),
        ("a—b", [1, 0, 1], "a b"),
        ("我的卡", [1, 0, 1], "我卡"),
        ("a\nb c", [1, 0, 1], "a\nc"),
    ],
)
def test_no_gap_tells_of_what_was_left_out(text: str, kept: list[int], wanted: str) -> None:
    assert left_out(text, split(text), list(map(bool, kept))) == wanted


@given(n=st.integers(1, 200), most=st.integers(1, 50))
def test_groups_are_all_parts_in_their_order_and_about_as_long(n: int, most: int) -> None:
    text = " ".join("word," if number % 7 == 0 else "word" for number in range(n))
    places = split(text.replace(",", "x"))
    groups = grouped(text, places, most)
    assert [place for group in groups for place in group] == places
    assert len(groups) == min(n, most)
    assert max(map(len, groups)) <= 2 * (n // min(n, most)) + 2


def test_a_group_ends_where_a_clause_does() -> None:
    text = "one two three four five, six seven eight nine ten eleven twelve"
    places = [(start, end + (text[end : end + 1] == ",")) for start, end in split(text.replace(",", "."))
              if text[start] != ","]  # fmt: skip
    first, second = grouped(text, places, 2)
    assert text[first[0][0] : first[-1][1]].endswith("five,") and len(first) + len(second) == 12
