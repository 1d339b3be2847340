"""Project files made at random: read, or refused with the place named; never anything else.

`LUBAN_FUZZ` says how many each test makes: 300 in the suite, 5,000 in the long run (see CONTRIBUTING.md).
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from luban.errors import ProjectError
from luban.project import lock
from luban.project.load import Loaded, load, parse
from luban.project.write import scalar

FUZZ = settings(
    max_examples=int(os.environ.get("LUBAN_FUZZ") or 300),
    deadline=None,
    derandomize="LUBAN_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

FULL: dict[str, Any] = lock.resolved(
    parse(
        """
name: bank
task: {kind: classify, multi_label: true, long_text: chunk, stride: 16}
base: minilm-l6
data:
  train: data/train.csv
  test: data/test.csv
  languages: [en, zh]
  clean: [unicode, replace]
  replace: {a: b}
  split: {by: group, column: customer}
train:
  adapter: {kind: full}
evaluate: {slices: [channel]}
gates: {macro_f1: 0.5}
""",
        root=Path(),
    ).project
)

WORDS = st.text(max_size=12) | st.text("abc:#&*!|>{}[]%@`,?- \n\t'\"\\.0123456789e_", max_size=16)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2)
    | st.floats()
    | WORDS
    | st.sampled_from(["", "no", "2e-5", "../x", "/etc/passwd", "hf:a/b", "9" * 400, "classify", "tag", "\0", "😀"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.sampled_from(["kind", "by"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return every place in nested values."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.extend(places(inner, (*path, key)))
    return found


KNOWN_PLACES = places(FULL)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Return the settings of a valid project with up to six of them changed, removed, moved or added."""
    value = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(0, 6))):
        path = draw(st.sampled_from(KNOWN_PLACES))
        holder: Any = value
        for step in path[:-1]:
            inside = isinstance(holder, dict) and step in holder
            inside |= isinstance(holder, list) and isinstance(step, int) and step < len(holder)
            holder = holder[step] if inside else None
        if not isinstance(holder, dict):
            continue
        how = draw(st.sampled_from(["change", "remove", "move", "misspell", "add"]))
        if how == "change":
            holder[path[-1]] = draw(VALUES)
        elif how == "add":
            holder[draw(WORDS)] = draw(VALUES)
        elif path[-1] in holder:
            moved = holder.pop(path[-1])
            if how == "move":
                value[str(path[-1])] = moved
            elif how == "misspell":
                name = str(path[-1])
                at = draw(st.integers(0, len(name) - 1))
                holder[name[:at] + name[at + 1 :]] = moved
    return value


def as_yaml(value: Any, flow: bool) -> str:
    """Return YAML, with what no YAML can say made plain first."""
    return str(yaml.safe_dump(json.loads(json.dumps(value, default=str)), allow_unicode=True, default_flow_style=flow))


def read(text: str, *overrides: str) -> Loaded | None:
    """Read a project file; return None where it is refused as it should be."""
    n_lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + 1
    try:
        loaded = parse(text, root=Path(), overrides=overrides)
    except ProjectError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.where.strip(), "a problem without a place"
            assert problem.got.strip(), problem
            assert problem.wanted.strip(), problem
            assert problem.line is None or 1 <= problem.line <= n_lines + 1, problem
            assert problem.line is not None or "override" in problem.where or "luban.yaml" in problem.where, problem
            assert len(str(problem)) < 2000, "a message that nobody reads"
            assert not [c for c in str(problem) if not c.isprintable() and c != "\n"], (
                "a message that disturbs a terminal"
            )
        assert str(error).count("\n") >= len(error.problems)
        return None
    again = parse(scalar(lock.resolved(loaded.project)), root=Path())
    assert again.digest == loaded.digest, "the lock means the same as the file"
    return loaded


@FUZZ
@given(mutated(), st.booleans())
def test_changed_projects(value: dict[str, Any], flow: bool) -> None:
    read(as_yaml(value, flow))


@FUZZ
@given(VALUES)
@example({"[key]": None})
@example({" ": None})
@example({"name": {"\x1f": None}})
@example({"data": {"replace": {"[key]": 3}}})
def test_any_values(value: Any) -> None:
    read(as_yaml(value, True))


@FUZZ
@given(WORDS | st.text(max_size=300) | st.text("abnd:#&*!|>{}[],?- \n\t'\"", max_size=200))
@example("? ")
@example("- - - - -")
@example("%YAML 1.1\n---\na: b")
@example("a: |\n x\n\ty")
@example("&a [*a]")
@example("<<: {name: x}")
@example("\ufeffname: x")
@example("{" * 5000)
@example("- " * 2000)
@example("a: " + "9" * 5000)
def test_any_text(text: str) -> None:
    read(text)


@FUZZ
@given(st.data())
def test_damaged_text(data: st.DataObject) -> None:
    text = as_yaml(FULL, False)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 8)))
        text = text[:start] + data.draw(WORDS) + text[end:]
    read(text)


DOTTED = st.sampled_from([".".join(map(str, path)) for path in KNOWN_PLACES])


@FUZZ
@given(st.lists(st.tuples(DOTTED | WORDS, st.sampled_from(["=", "", "=="]), WORDS | LEAVES.map(str)), max_size=4))
def test_any_overrides(parts: list[tuple[str, str, str]]) -> None:
    read(as_yaml(FULL, False), *("".join(part) for part in parts))


@settings(FUZZ, max_examples=FUZZ.max_examples // 3)
@given(st.binary(max_size=200) | mutated().map(lambda value: as_yaml(value, False).encode("utf-16")))
def test_any_bytes_in_a_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_bytes(data)
    with pytest.raises(ProjectError) as caught:
        load(file)
    assert all(problem.where for problem in caught.value.problems)


def test_the_unchanged_project_is_read() -> None:
    """Without this the tests above would pass on a reader that refuses everything."""
    assert read(as_yaml(FULL, False)) is not None
    assert read(as_yaml(FULL, True)) is not None
