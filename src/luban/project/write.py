"""A project file as text: every setting explicit, each with its reason or its meaning as a comment beside it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, get_type_hints

from luban.plugins import field_docs, room
from luban.project import tree
from luban.project.advise import Advice
from luban.project.plugged import rooms
from luban.project.schema import Plugin, Project

_PLAIN = re.compile(r"[A-Za-z0-9_./\u4e00-\u9fff][A-Za-z0-9_./+@:\u4e00-\u9fff -]*")
_COMMENT_COLUMN = 44
_HEADING = """\
# The project {name}. Every setting is written out; beside each stands why, or what it means.
# `luban check` looks at the data before training, `luban run` does the rest. Settings can be given on
# the command line too: `luban run train.epochs=3`.
"""


def to_yaml(name: str, advice: Iterable[Advice]) -> str:
    """Return a project file that `load` reads.

    Args:
        name: the project's name; see `project_name` for making one of a file's name.
        advice: the settings that are not as the schema has them, and the reasons; of two for one setting the later
            holds.

    Raises:
        ValueError: advice for a setting that there is not.
    """
    given = {item.path: item for item in (Advice("name", name, "also the name of the run's folder"), *advice)}
    lines = [*_HEADING.format(name=tree.shown(name)[1:-1]).splitlines(), ""]
    lines.extend(_section(Project, "", given, 0))
    if given:
        raise ValueError(f"there is no setting {min(given)!r}")
    return "\n".join(lines) + "\n"


def project_name(text: str) -> str:
    """Return a name for a project made from any text, such as a file's stem."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64].rstrip("-._")
    return kept or "project"


def with_setting(text: str, section: str, name: str, value: Any, why: str = "") -> str:
    """Return a project file's text with another value of one setting; all its other lines stay as they are.

    Args:
        text: a project file that `load` reads.
        section: e.g. `compress`.
        name: the setting's name in it.
        value: as it stands in the file, in plain lists and mappings.
        why: comment beside it.
    """
    line = f"{name}: {scalar(value)}"
    told = f"{line}  # {why}" if why else line
    lines = text.splitlines()
    top = next((at for at, one in enumerate(lines) if re.match(rf"{section}\s*:", one)), None)
    if top is None:
        return "\n".join([*lines, "", f"{section}:", f"  {told}"]) + "\n"
    if not re.fullmatch(rf"{section}\s*:\s*(#.*)?", lines[top]):  # written on one line: {at_most: ...}
        settings = {**tree.parse(text, "").value[section], name: value}
        return "\n".join([*lines[:top], f"{section}: {scalar(settings)}", *lines[top + 1 :]]) + "\n"
    end = next((at for at in range(top + 1, len(lines)) if re.match(r"[^\s#]", lines[at])), len(lines))
    old = next((at for at in range(top + 1, end) if re.match(rf"\s+{name}\s*:", lines[at])), None)
    if old is None:
        return "\n".join([*lines[: top + 1], f"  {told}", *lines[top + 1 :]]) + "\n"
    indent = lines[old][: len(lines[old]) - len(lines[old].lstrip())]
    after = old + 1
    while after < end and re.match(rf"{indent}(\s|-)", lines[after]):  # the value's own lines, where it had several
        after += 1
    column = lines[old].find("#")
    if why and column > len(indent + line):  # comments of a section stand below each other
        told = f"{line:{column - len(indent)}}# {why}"
    return "\n".join([*lines[:old], indent + told, *lines[after:]]) + "\n"


def scalar(value: Any) -> str:
    """Return one value in YAML, on one line, so that it is read back as it was."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return _number(value)
        case str():
            return _text(value)
        case Mapping():
            return "{" + ", ".join(f"{_text(str(key))}: {scalar(item)}" for key, item in value.items()) + "}"
        case _:
            return "[" + ", ".join(scalar(item) for item in value) + "]"


def _number(value: float) -> str:
    text = repr(value)
    if "e" not in text and value != 0 and abs(value) < 1e-3:
        digits = text.replace("-", "").replace("0.", "", 1)
        significant = digits.lstrip("0")
        exponent = len(digits) - len(significant) + 1
        text = f"{'-' if value < 0 else ''}{significant[0]}.{significant[1:] or '0'}e-{exponent}"
    if "e" in text:
        mantissa, _, exponent_text = text.partition("e")
        text = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent_text)}"
    return text


def _text(value: str) -> str:
    """Return a text plain where no reader takes it for anything else, and otherwise in double quotes."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        try:
            if tree.parse(f"a: {value}", "").value == {"a": value} and tree.parse(f"[{value}]", "").value == [value]:
                return value
        except tree.Unreadable:
            pass
    return '"' + "".join(map(_escaped, value)) + '"'


_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _section(section: type, above: str, given: dict[str, Advice], depth: int) -> list[str]:
    """Return the lines of one section, taking what is used out of `given`."""
    docs, hints, lines = field_docs(section), get_type_hints(section), []
    for item in dataclasses.fields(section):
        path = f"{above}.{item.name}" if above else item.name
        kind = hints[item.name]
        if kind is Plugin:
            lines.extend(_plugin(path, item, given, depth, docs[item.name]))
        elif dataclasses.is_dataclass(kind):
            if depth == 0:
                lines.append("")
            lines.append(f"{'  ' * depth}{item.name}:")
            lines.extend(_section(kind, path, given, depth + 1))  # type: ignore[arg-type]
        else:
            advice = given.pop(path, None)
            value = advice.value if advice else _default(item)
            reason = advice.reason if advice else _clause(docs[item.name])
            if depth == 0 and lines and lines[-1].startswith(" "):
                lines.append("")
            lines.append(_line(depth, item.name, scalar(value), reason))
    return lines


def _plugin(path: str, item: Any, given: dict[str, Advice], depth: int, doc: str) -> list[str]:
    named = given.pop(f"{path}.kind", None)
    kind = named.value if named else _default(item).kind
    reason = named.reason if named else _clause(doc)
    options = _options(_packages()[path], kind)
    lines = []
    for name, (default, meaning) in options.items():
        advice = given.pop(f"{path}.{name}", None)
        value = scalar(advice.value if advice else default)
        lines.append(_line(depth + 1, name, value, advice.reason if advice else _clause(meaning)))
    if not lines:
        return [_line(depth, item.name, scalar({"kind": kind}), reason)]
    return [f"{'  ' * depth}{item.name}:", _line(depth + 1, "kind", scalar(kind), reason), *lines]


@lru_cache(maxsize=1)
def _packages() -> dict[str, str]:
    return {tree.dotted(path): where.package for path, (where, _) in rooms().items()}


def _options(package: str, kind: str) -> dict[str, tuple[Any, str]]:
    """Return the options of a plug-in -> their default and meaning; those that must be given are left out."""
    section = getattr(room(package).load(kind), "Options", None)
    if section is None:
        return {}
    docs = field_docs(section)
    return {
        item.name: (_default(item), docs.get(item.name, ""))
        for item in dataclasses.fields(section)
        if item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
    }


def _default(item: Any) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    raise ValueError(f"{item.name} must be given")


def _clause(text: str) -> str:
    """Return the first part of a docstring, which says what a setting is."""
    first = re.split(r"(?<!e\.g)[.;](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    head, _, rest = first.partition(": ")
    first = head if rest and len(head) > 20 and head.count("`") % 2 == 0 else first
    return first[:1].lower() + first[1:] if first[1:2].islower() else first


def _line(depth: int, name: str, value: str, reason: str) -> str:
    text = f"{'  ' * depth}{name}: {value}"
    said = " ".join("".join(character if character.isprintable() else " " for character in reason).split())
    return f"{text:<{_COMMENT_COLUMN - 2}}  # {said}" if said else text
