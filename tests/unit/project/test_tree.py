"""YAML to values with lines."""

from __future__ import annotations

import math

import pytest

from luban.project.tree import MAX_DEPTH, Unreadable, dotted, parse, shown


def value(text: str) -> object:
    tree = parse(f"a: {text}", "luban.yaml")
    assert not tree.problems
    return tree.value["a"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2e-5", 2e-5),
        ("2.0e-4", 2e-4),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("007", 7),
        ("0x1f", 31),
        ("0o17", 15),
        ("no", "no"),
        ("Yes", "Yes"),
        ("off", "off"),
        ("true", True),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        ("'3'", "3"),
        ('"\\u4f60"', "你"),
        ("好评", "好评"),
        ("~", None),
        ("", None),
        ("[1, no, {b: null}]", [1, "no", {"b": None}]),
        ("!!str 3", "3"),
    ],
)
def test_plain_words_are_read_as_yaml_1_2_has_them(text: str, wanted: object) -> None:
    found = value(text)
    assert found == wanted
    assert type(found) is type(wanted)


def test_keys_are_text() -> None:
    assert parse("{1: a, no: b, null: c, 2.50: d}", "").value == {"1": "a", "no": "b", "null": "c", "2.50": "d"}


def test_lines_of_settings_and_items() -> None:
    tree = parse("a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n", "")
    assert tree.line(("b", 1, "d")) == 5
    assert tree.line(("b", 0)) == 3
    assert tree.line(("b", 1, "gone")) == 4, "the line of what is around it"
    assert tree.line(("gone",)) == 1


@pytest.mark.parametrize(
    ("text", "where", "got", "line"),
    [
        ("a: &x 1\nb: 2", "a", "the anchor &x", 1),
        ("a: 1\nb: *x", "b", "the alias *x", 2),
        ("a: !!python/object:os.system x", "a", "the tag", 1),
        ("a: !custom {b: 1}", "a", "the tag '!custom'", 1),
        ("a: 1\nb: 2\na: 3", "a", "a second value; the first is on line 1", 3),
        ("a:\n  b: 1\n  b: 2", "a.b", "a second value", 3),
        ("a: .inf", "a", ".inf", 1),
        ("a: -.INF", "a", "-.INF", 1),
        ("a: .nan", "a", ".nan", 1),
        ("a: 1e999", "a", "1e999", 1),
        ("? [a, b]\n: 1", "the file", "a list or a section as the name of a setting", 1),
        ("a: {*x : 1}", "a", "an alias as the name of a setting", 1),
        ("&x a: 1", "a", "an anchor or a tag before its name", 1),
    ],
)
def test_what_is_told_and_read_on(text: str, where: str, got: str, line: int) -> None:
    tree = parse(text, "luban.yaml")
    assert len(tree.problems) == 1
    problem = tree.problems[0]
    assert problem.where == where
    assert got in problem.got
    assert problem.line == line
    assert problem.hint


def test_all_of_them_at_once() -> None:
    tree = parse("a: &x 1\nb: *x\nc: !!int 3\na: 2\nd: .nan", "")
    assert [problem.line for problem in tree.problems] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a: 1\n\tb: 2", 2, "tab"),
        ("a: b: c", 1, "quotes"),
        ("a: 'open", 1, "close the quotes"),
        ("a: [1, 2", 1, ""),
        ("a: 1\n b: 2", 2, ""),
        ("a: 1\n---\nb: 2", 2, ""),
        ("a: \x00", 1, "remove it"),
        ("a: 1\nb: \x07", 2, "remove it"),
        ("a: %", 1, ""),
        ("[" * 50 + "]" * 50, 1, ""),
        ("{a: " * 50 + "1" + "}" * 50, 1, ""),
    ],
)
def test_unreadable_texts_name_the_line(text: str, line: int, hint: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(text, "luban.yaml")
    assert caught.value.problem.where == "luban.yaml"
    assert caught.value.problem.line is not None
    assert abs(caught.value.problem.line - line) <= 1
    assert hint in caught.value.problem.hint


def test_lone_surrogates_are_no_text() -> None:
    with pytest.raises(Unreadable, match="no text"):
        parse("a: \ud800", "override")


def test_depth_is_limited_and_reached() -> None:
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse(f"a: {deep}", "").value
    with pytest.raises(Unreadable, match=f"more than {MAX_DEPTH} levels"):
        parse("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "")


def test_many_aliases_cost_nothing() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    tree = parse("\n".join(lines), "")
    assert len(tree.problems) == 60 + 2 * 59


def test_shown_is_short_and_printable() -> None:
    assert shown("a\nb\x00") == "'a\\nb\\x00'"
    assert shown(None) == "nothing"
    assert shown({"kind": "lora", "rank": 8}) == "{kind: 'lora', rank: 8}"
    assert len(shown("x" * 1000)) < 100
    assert len(shown(["x" * 50] * 50)) < 100
    assert shown(True) == "true"
    assert shown(math.pi).startswith("3.14")


def test_dotted() -> None:
    assert dotted(("train", "objectives", 0, "kind")) == "train.objectives[0].kind"
    assert dotted(()) == "the file"
