"""Pydantic's errors in Luban's words: path, line, got, wanted, hint."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

import pydantic

from luban.errors import Problem, did_you_mean
from luban.plugins import field_docs
from luban.project.schema import Plugin, Project
from luban.project.tree import Path, Tree, dotted, shown

MOST_TOLD = 100
"""Problems that one error tells at most: nobody reads more, and a file may be made to have a million."""

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list, as [one, two]",
    "list_type": "a list, as [one, two]",
    "dict_type": "names and values, as {{name: value}}",
    "mapping_type": "names and values, as {{name: value}}",
    "dataclass_type": "a section of settings",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "one of {expected}",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "multiple_of": "a multiple of {multiple_of}",
}
_TRUTHS = dict.fromkeys(("yes", "on", "y", "true"), "true") | dict.fromkeys(("no", "off", "n", "false"), "false")
_UNKNOWN = frozenset({"unexpected_keyword_argument", "extra_forbidden"})
_MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})


def problems(error: pydantic.ValidationError, settings: Tree, section: type, at: Path = ()) -> list[Problem]:
    """Return one problem for each of pydantic's errors, the first `MOST_TOLD` of them.

    Args:
        error: what validation raised.
        settings: the values that were validated, with their lines.
        section: the dataclass that they were validated as.
        at: where that dataclass stands in the settings.
    """
    return [_problem(item, settings, section, at) for item in error.errors(include_url=False)[:MOST_TOLD]]


def _problem(item: Any, settings: Tree, section: type, at: Path) -> Problem:
    kind, context = item["type"], item.get("ctx", {})
    inner: Path = tuple(item["loc"])
    if kind not in _UNKNOWN and len(inner) > 1 and inner[-1] == "[key]":
        inner = inner[:-1]
    path = (*at, *inner)
    got = item["input"]
    if kind in _UNKNOWN:
        holder = section_at(section, inner[:-1])
        known = [] if holder is None else [field.name for field in dataclasses.fields(holder)]
        name = str(inner[-1])
        hint = _elsewhere(name, path) or nearest(name, known) or "it has no settings: remove it"
        wanted = f"a setting of {dotted(path[:-1])}" if path[:-1] else "a section or setting of the project"
        return settings.problem(path, f"the unknown setting {shown(name)}", wanted, hint)
    if kind in _MISSING:
        return settings.problem(path, "nothing", "a value", "set it", _doc(section, inner))
    wanted = _wanted(kind, context, item["msg"])
    hint = _hint(kind, got, context)
    return settings.problem(path, shown(got), wanted, hint, "" if hint else _doc(section, inner))


def _wanted(kind: str, context: dict[str, Any], message: str) -> str:
    if kind not in _WANTED:
        return message.removeprefix("Value error, ").removeprefix("Input should be ")
    return _WANTED[kind].format(**context)


def _hint(kind: str, got: Any, context: dict[str, Any]) -> str:
    if kind == "literal_error" and isinstance(got, str):
        known = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return nearest(got, known) if nearest(got, known).startswith("did") else ""
    if kind == "string_type" and isinstance(got, int | float | bool):
        return f"put it in quotes: '{shown(got)}'"
    if (
        kind == "bool_type"
        and isinstance(got, str)
        and got.lower() in ("yes", "on", "y", "true", "no", "off", "n", "false")
    ):
        return f"write {'true' if got.lower() in ('yes', 'on', 'y', 'true') else 'false'}"
    if kind in ("int_type", "float_type") and isinstance(got, str):
        bare = got.replace("_", "").replace(",", "").strip()
        try:
            float(bare)
        except ValueError:
            return ""
        return f"write {bare}, with no quotes or marks in it"
    if kind in ("tuple_type", "list_type") and isinstance(got, str | int | float):
        return f"write [{shown(got).strip(chr(39))}]"
    if kind == "int_from_float":
        return "write it without a fraction"
    return ""


def _doc(section: type, path: Path) -> str:
    """Return what a field's docstring says it is."""
    holder = section_at(section, path[:-1])
    if holder is None or not path:
        return ""
    try:
        return field_docs(holder).get(str(path[-1]), "").rstrip(".")
    except (OSError, TypeError):
        return ""


def nearest(name: str, known: list[str]) -> str:
    """Return a question that offers the nearest known name, or else all of them."""
    return did_you_mean(name, known).split(" known: ")[0]


def section_at(section: type, path: Path) -> type | None:
    """Return the dataclass that holds the settings at a path below another dataclass; None where there is none."""
    current: Any = section
    for step in path:
        if isinstance(step, int):
            continue
        if not dataclasses.is_dataclass(current):
            return None
        current = get_type_hints(current).get(step)
        if get_origin(current) is tuple:
            current = get_args(current)[0]
    return current if isinstance(current, type) and dataclasses.is_dataclass(current) else None


def _elsewhere(name: str, path: Path) -> str:
    """Return where a setting belongs that was written into the wrong section."""

    def walk(section: type, above: Path) -> list[Path]:
        found: list[Path] = []
        for field, kind in get_type_hints(section).items():
            if field == name:
                found.append((*above, field))
            if dataclasses.is_dataclass(kind) and kind is not Plugin:
                found.extend(walk(kind, (*above, field)))  # type: ignore[arg-type]
        return found

    places = [place for place in walk(Project, ()) if place[:-1] != path[:-1]]
    return f"it belongs in {' or '.join(dotted(place) for place in places)}" if len(places) in (1, 2) else ""
