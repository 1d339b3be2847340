"""Tag schemes brought to BIO, and spans brought to tokens with tags."""

from __future__ import annotations

from typing import Any

import pytest

from luban.data.problems import Misfit
from luban.data.tags import RawSpan, is_prefixed, place, spans_of, to_bio


@pytest.mark.parametrize(
    ("tags", "bio", "n_mended"),
    [
        ("O B-P I-P O", "O B-P I-P O", 0),  # BIO
        ("B-P M-P E-P S-L O", "B-P I-P I-P B-L O", 0),  # BMES
        ("B-P I-P E-P S-L", "B-P I-P I-P B-L", 0),  # BIOES
        ("B-P M-P E-P W-L", "B-P I-P I-P B-L", 0),  # BMEWO
        ("B-P I-P L-P U-L", "B-P I-P I-P B-L", 0),  # BILOU
        ("O I-P I-P I-L", "O B-P I-P B-L", 2),  # IOB1, or mistakes
        ("B-P E-P I-P", "B-P I-P B-P", 1),  # goes on after its end
        ("S-P I-P", "B-P B-P", 1),
        ("B I O", "B-ENTITY I-ENTITY O", 0),
        ("B_P I_P", "B-P I-P", 0),
    ],
)
def test_schemes(tags: str, bio: str, n_mended: int) -> None:
    assert to_bio(tags.split()) == (bio.split(), n_mended)


def test_plain_labels_are_entities_where_they_run_on() -> None:
    tags = ["O", "PER", "PER", "LOC", "O", "LOC"]
    assert not is_prefixed(tags)
    assert to_bio(tags, prefixed=False) == (["O", "B-PER", "I-PER", "B-LOC", "O", "B-LOC"], 0)


@pytest.mark.parametrize(
    "value",
    [
        {"PER": {"张三": [[0, 1]]}},
        [[0, 2, "PER"]],
        [{"start": 0, "end": 2, "label": "PER"}],
        [{"start_offset": 0, "end_offset": 2, "label": "PER", "id": 7}],
        [{"value": {"start": 0, "end": 2, "labels": ["PER"], "text": "张三"}, "type": "labels"}],
    ],
)
def test_every_form_of_a_span(value: Any) -> None:
    tokens, tags, n_dropped = place("张三在家", spans_of(value))
    assert (tokens, tags, n_dropped) == (list("张三在家"), ["B-PER", "I-PER", "O", "O"], 0)


def test_an_edge_inside_a_word_cuts_it() -> None:
    tokens, tags, _ = place("unhappy-days here", [RawSpan(2, 7, "F")])
    assert tokens == ["un", "happy", "-days", "here"]
    assert tags == ["O", "B-F", "O", "O"]


def test_neighbours_of_one_label_stay_two_entities() -> None:
    assert place("张三李四", [RawSpan(0, 2, "P"), RawSpan(2, 4, "P")])[1] == ["B-P", "I-P", "B-P", "I-P"]


def test_spaces_at_the_ends_are_left_out() -> None:
    assert place("a Bob b", [RawSpan(1, 6, "P")]) == (["a", "Bob", "b"], ["O", "B-P", "O"], 0)


def test_of_overlapping_spans_the_longest_stays() -> None:
    tokens, tags, n_dropped = place("北京大学", [RawSpan(0, 2, "LOC"), RawSpan(0, 4, "ORG"), RawSpan(0, 4, "ORG")])
    assert (tags, n_dropped) == (["B-ORG", "I-ORG", "I-ORG", "I-ORG"], 1)
    assert "".join(tokens) == "北京大学"


def test_offsets_of_browsers_are_understood() -> None:
    """Label Studio counts in UTF-16 units; the mention beside the offsets tells."""
    assert place("😀Bob", [RawSpan(2, 5, "P", "Bob")]) == (["😀", "Bob"], ["O", "B-P"], 0)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (RawSpan(0, 9, "P"), "from 0 to 9"),
        (RawSpan(2, 2, "P"), "from 2 to 2"),
        (RawSpan(-1, 2, "P"), "from -1 to 2"),
        (RawSpan(1, 2, "P"), "white space"),
        (RawSpan(0, 1, "P", "x"), "'a'"),
    ],
)
def test_spans_that_do_not_fit(span: RawSpan, message: str) -> None:
    with pytest.raises(Misfit) as caught:
        place("a b", [span])
    assert message in caught.value.got


@pytest.mark.parametrize("value", ["x", [[1, 2]], [[0, 1.5, "P"]], [{"start": 0}], {"P": [1]}, [[0, 1, ""]], [True]])
def test_what_is_no_span(value: Any) -> None:
    with pytest.raises(Misfit):
        spans_of(value)
