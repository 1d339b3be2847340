"""YAML text to plain values that remember their lines. A narrow YAML: no tags, anchors, aliases or repeated keys.

Plain words are read by YAML 1.2's core schema, not by 1.1 as PyYAML does by itself: `no` is a word and not `false`,
`2e-5` is a number and not a word, `12:30` is a word and not 750, and a date is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from luban.errors import Problem

MAX_BYTES = 10**6
MAX_DEPTH = 20

Path = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_WORD = re.compile(r"[\w-]{1,80}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(slots=True)
class Tree:
    """Plain values, where each stands, and what was wrong in the YAML."""

    value: Any = None
    """Dicts with text for keys, lists, text, numbers, booleans and None."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Path of a value -> its line, counted from 1."""
    places: dict[Path, str] = field(default_factory=dict)
    """Path of a value that does not come from the file -> where it does come from."""
    noted: list[tuple[Path, Problem]] = field(default_factory=list)
    """What was wrong in the YAML, and the path that it concerns."""
    lost: set[Path] = field(default_factory=set)
    """Paths whose value could not be read, so that nothing more can be said of it."""

    @property
    def problems(self) -> list[Problem]:
        """What was wrong in the YAML, in its order."""
        return [problem for _, problem in self.noted]

    def line(self, path: Path) -> int | None:
        """Return the line of a value, or that of the nearest thing around it; None where it is not from the file."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return None
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def where(self, path: Path) -> str:
        """Return how messages name a value: `train.epochs`, with the override that set it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return f"{dotted(path)} ({self.places[path[:end]]})"
            if path[:end] in self.lines:
                break
        return dotted(path)

    def problem(self, path: Path, got: str, wanted: str, hint: str = "", means: str = "") -> Problem:
        """Return a problem at the place of a value."""
        return Problem(self.where(path), got, wanted, self.line(path), hint, means)

    def get(self, path: Path) -> Any:
        """Return the value at a path; None where there is none."""
        value = self.value
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
                value = value[step]
            else:
                return None
        return value

    def put(self, path: Path, value: Any, place: str) -> None:
        """Set a value that does not come from the file, making the sections on the way to it.

        Raises:
            LookupError: something on the way holds no settings; the message names it.
        """
        at, value_there = path[:-1], self.value
        for depth, step in enumerate(path):
            if isinstance(value_there, list):
                if not (isinstance(step, int) and step < len(value_there)):
                    raise LookupError(f"{dotted(path[:depth])} is a list of {len(value_there)}, counted from 0")
            elif not isinstance(value_there, dict):
                raise LookupError(f"{dotted(path[:depth])} is {shown(value_there)}")
            if depth == len(at):
                value_there[step] = value
                break
            if isinstance(value_there, dict) and value_there.get(step) is None:
                value_there[step] = {}
                self.places[path[: depth + 1]] = place
            value_there = value_there[step]
        for known in [known for known in (*self.lines, *self.places) if known[: len(path)] == path]:
            self.lines.pop(known, None)
            self.places.pop(known, None)
        self.places[path] = place
        self.lost = {lost for lost in self.lost if lost[: len(path)] != path}
        self.noted = [(where, problem) for where, problem in self.noted if where[: len(path)] != path]


class Unreadable(Exception):
    """The text is not YAML, so that no other problem can be looked for; carries the one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def parse(text: str, source: str) -> Tree:
    """Read one YAML document.

    Args:
        text: the document.
        source: what the document is called in messages about the YAML itself.

    Returns:
        The values, with their lines; `problems` holds anchors, aliases, tags and repeated keys.

    Raises:
        Unreadable: it is not YAML, holds more than one document, or is nested too deep.
    """
    tree = Tree()
    try:
        text.encode()
        _document(yaml.parse(text, Loader=_LOADER), tree, source)
    except UnicodeEncodeError as error:
        got = f"a character that is no text (position {error.start})"
        raise Unreadable(Problem(source, got, "UTF-8 text")) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        got = f"a character that YAML forbids ({error.reason})"
        hint = "remove it, or write it as an escape"
        raise Unreadable(Problem(source, got, "printable text", line=line, hint=hint)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "indent with spaces, not with tabs" if "'\\t'" in said or "tab" in said else _syntax_hint(said)
        line = mark.line + 1 if mark else None
        raise Unreadable(Problem(source, f"broken YAML: {said}", "YAML", line=line, hint=hint)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise Unreadable(Problem(source, f"broken YAML: {error}", "YAML")) from None
    return tree


def dotted(path: Path) -> str:
    """Return `train.objectives[0].kind` for a path, with odd names in quotes; `the file` for the empty one."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _WORD.fullmatch(step) else shown(step)
            text += f".{name}" if text else name
    return text or "the file"


def shown(value: Any) -> str:
    """Return a value as YAML would have it on one line, shortened for messages."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            text = f"'{''.join(map(_printable, value[:200]))}'"
            return text if len(text) <= 80 else f"{text[:60]}...' ({len(value)} characters)"
        case Mapping():
            text = (
                "{"
                + ", ".join(f"{shown(str(key))[1:-1]}: {shown(item)}" for key, item in list(value.items())[:5])
                + "}"
            )
        case list() | tuple():
            text = "[" + ", ".join(shown(item) for item in value[:10]) + "]"
        case _:
            text = str(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _document(events: Iterator[Any], tree: Tree, source: str) -> None:
    n_documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            n_documents += 1
            if n_documents > 1:
                line = event.start_mark.line + 1
                raise Unreadable(Problem(source, "a second document (`---`)", "one document", line=line))
        elif isinstance(event, yaml.NodeEvent):
            tree.value = _node(event, events, tree, (), source)


def _node(event: Any, events: Iterator[Any], tree: Tree, path: Path, source: str) -> Any:
    line = event.start_mark.line + 1
    tree.lines.setdefault(path, line)
    if len(path) > MAX_DEPTH:
        got = f"more than {MAX_DEPTH} levels"
        raise Unreadable(Problem(source, got, "sections with settings in them", line=line))
    if isinstance(event, yaml.AliasEvent):
        _refuse(tree, path, f"the alias *{event.anchor}", "a value", "write the value out: aliases are not read")
        tree.lost.add(path)
        return None
    if event.anchor is not None:
        _refuse(tree, path, f"the anchor &{event.anchor}", "a value alone", "remove it: anchors are not read")
    if event.tag is not None and event.tag != "tag:yaml.org,2002:str":
        _refuse(tree, path, f"the tag {shown(event.tag)}", "a value alone", "remove it: tags are not read")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, tree, path)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, tree, (*path, len(items)), source))
        return items
    values: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            got = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or a section"
            said = f"{got} as the name of a setting"
            problem = Problem(dotted(path), said, "a word", line=line, hint="put a text in quotes")
            tree.noted.append((path, problem))
            _node(event, events, Tree(), (*path, "?"), source)
            _node(next(events), events, Tree(), (*path, "?"), source)
            continue
        key, inner = event.value, (*path, event.value)
        if key in values:
            said = f"a second value; the first is on line {tree.lines[inner]}"
            problem = Problem(dotted(inner), said, "each setting once", line=line, hint="remove one of them")
            tree.noted.append((inner, problem))
            _node(next(events), events, Tree(), inner, source)
            continue
        tree.lines[inner] = line
        if event.anchor is not None or event.tag is not None:
            _refuse(tree, inner, "an anchor or a tag before its name", "a plain word", "remove it")
        values[key] = _node(next(events), events, tree, inner, source)
    return values


def _refuse(tree: Tree, path: Path, got: str, wanted: str, hint: str) -> None:
    tree.noted.append((path, tree.problem(path, got, wanted, hint)))


def _scalar(event: Any, tree: Tree, path: Path) -> Any:
    text: str = event.value
    if event.tag is not None or not event.implicit[0]:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if abs(number) != float("inf"):
            return number
    elif not _NOT_FINITE.fullmatch(text):
        return text
    _refuse(tree, path, shown(text)[1:-1], "a finite number", "put it in quotes if it is a text")
    tree.lost.add(path)
    return 0.0


def _syntax_hint(said: str) -> str:
    if "mapping values are not allowed" in said:
        return "put the text in quotes if it holds `: `, and give each setting its own line"
    if "could not find expected ':'" in said:
        return "write `setting: value`, with a space after the colon"
    if "end of stream" in said or "quoted scalar" in said:
        return "close the quotes or brackets that are open"
    if "block mapping" in said or "block collection" in said:
        return "settings of one section start in the same column"
    return ""
