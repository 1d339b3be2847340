"""Writes the reference pages out of docstrings: settings, plug-ins, commands, errors, and the Python front door.

    python docs/reference.py            writes docs/reference/*.md
    python docs/reference.py --check    writes nothing; says which pages are out of date, and exits with 1 if any is

Nothing on those pages is written by hand: what a setting means is said where it is defined, once.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click

import luban
from luban import errors, plugins
from luban.cli.main import COMMANDS, group
from luban.data.clean import STEPS
from luban.project import schema
from luban.project.plugged import rooms
from luban.project.write import scalar

FOLDER = Path(__file__).resolve().parent / "reference"
_MADE = "<!-- Made by docs/reference.py out of docstrings: change those, then run `make docs`. -->\n"
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}


def pages() -> dict[str, str]:
    """Return file name -> contents of every reference page."""
    made = {
        "settings.md": settings(),
        "plugins.md": plugin_pages(),
        "commands.md": commands(),
        "errors.md": error_table(),
        "python.md": front_door(),
    }
    return {name: f"{_MADE}\n{text.rstrip()}\n" for name, text in made.items()}


def settings() -> str:
    """Return the page of the project file's settings."""
    parts = [
        "# Settings of the project file",
        "Every setting of `luban.yaml`, section by section. A setting without a default must be given. "
        "`luban init` writes all of them, with reasons; on the command line a setting is given as `train.epochs=3`.",
        *_section(schema.Project, "", "The file itself"),
        "## Cleaning steps",
        _clean_steps(),
    ]
    return "\n\n".join(parts)


def _section(section: type, path: str, title: str) -> Iterator[str]:
    """Yield heading, meaning and table of a section, then those of the sections inside it."""
    hints = get_type_hints(section, include_extras=True)
    docs = documented(section)
    rows, inner = [], []
    plugged = {".".join(map(str, at)): room for at, (room, _) in rooms().items()}
    for item in dataclasses.fields(section):
        name = f"{path}.{item.name}" if path else item.name
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and name not in plugged:
            inner.append((hint, name))
            continue
        kind = _plugged(plugged[name]) if name in plugged else type_text(hint)
        rows.append((f"`{name}`", kind, _default(item), docs.get(item.name, "")))
    yield f"## {title}"
    yield _clean(inspect.getdoc(section) or "")
    yield _table(("setting", "value", "default", "meaning"), rows)
    for kind, name in inner:
        yield from _section(kind, name, f"`{name}`")


def _plugged(room: schema.Room) -> str:
    what = plugins.room(room.package).what
    return f"[{what}](plugins.md#{anchor(what + 's')})"


def _clean_steps() -> str:
    return _table(("step", "does"), [(f"`{name}`", what) for name, what in STEPS.items()])


def type_text(hint: Any) -> str:
    """Return what a value may be, in words: `number > 0`, `one of a, b`, `list of text`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{type_text(args[0])}{_bounds(args[1:])}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in args)
    if origin in (tuple, list) or origin is Sequence:
        return f"list of {type_text(args[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"{type_text(args[0])} -> {type_text(args[1])}"
    return _PLAIN.get(hint) or getattr(hint, "__name__", str(hint))


def _bounds(marks: Sequence[Any]) -> str:
    """Return the bounds that pydantic's Field or annotated_types put on a value."""
    found = []
    for mark in marks:
        for part in [mark, *getattr(mark, "metadata", ())]:
            found += [f"{sign} {getattr(part, name):g}" for name, sign in _BOUNDS.items() if hasattr(part, name)]
            if getattr(part, "pattern", None):
                found.append(f"matching `{part.pattern}`")
    return f" {' and '.join(dict.fromkeys(found))}" if found else ""


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default is not dataclasses.MISSING:
        value = item.default
    elif item.default_factory is not dataclasses.MISSING:
        value = item.default_factory()
    else:
        return "must be given"
    if isinstance(value, schema.Plugin):
        return f"`{scalar({'kind': value.kind, **value.options})}`"
    return f"`{scalar(value)}`"


def plugin_pages() -> str:
    """Return the page of all plug-ins and their options."""
    places: dict[str, list[str]] = {}
    for path, (room, many) in rooms().items():
        places.setdefault(room.package, []).append(f"`{'.'.join(map(str, path))}`{', a list' if many else ''}")
    parts = [
        "# Plug-ins",
        "A plug-in stands in the project file as its name, `full`, or with options, `{kind: lora, rank: 8}`. "
        "Each is one file; how to add one is said in [CONTRIBUTING](../../CONTRIBUTING.md#a-new-plug-in).",
    ]
    for package in sorted(places):
        catalogue = plugins.room(package)
        parts += [f"## {catalogue.what.capitalize()}s", f"Set by {'; '.join(places[package])}."]
        for name in catalogue.names():
            parts += [f"### `{name}`", *_plugin(catalogue, name)]
    return "\n\n".join(parts)


def _plugin(catalogue: plugins.Catalogue, name: str) -> Iterator[str]:
    module = catalogue.load(name)
    about = _clean(inspect.getdoc(module) or "")
    yield re.split(r"\n\nLegend:", about)[0]
    section = getattr(module, "Options", None)
    if section is None:
        yield "No options."
        return
    hints, docs = get_type_hints(section, include_extras=True), documented(section)
    fields = dataclasses.fields(section)
    rows = [(f"`{item.name}`", type_text(hints[item.name]), _default(item), docs.get(item.name, "")) for item in fields]
    yield _table(("option", "value", "default", "meaning"), rows) if rows else "No options."


def commands() -> str:
    """Return the page of the command line."""
    parts = [
        "# Commands",
        "`luban COMMAND --help` says the same in a terminal. What a command exits with is "
        "[its error's code](errors.md); 0 is success.",
        _table(("command", "does"), [(f"[`luban {name}`](#luban-{name})", what) for name, what in COMMANDS.items()]),
    ]
    with click.Context(group, info_name="luban", **group.context_settings) as above:
        for name in COMMANDS:
            command = group.get_command(above, name)
            assert command is not None
            parts += _command(command, click.Context(command, parent=above, info_name=f"luban {name}"))
    return "\n\n".join(parts)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## `{context.info_name}`"
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.info_name} {pieces}\n```"
    yield _clean((command.help or "").replace("\b\n", ""))
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            rows.append((f"`{record[0]}`", " ".join(record[1].split())))
    yield _table(("option", "does"), rows)


def error_table() -> str:
    """Return the page of error kinds and codes."""
    rows = [
        (f"`{kind.__name__}`", _first_line(kind), f"{codes.exit}", f"{codes.http}", f"`{codes.grpc}`")
        for kind, codes in ((kind, errors.codes(kind)) for kind in _descendants(errors.LubanError))
    ]
    tree = (errors.__doc__ or "").partition("\n\n")[2].rstrip()
    return "\n\n".join([
        "# Errors",
        "Every error says what is wrong and where, what was found, what was wanted, and how to mend it; "
        "all problems of a file are told together. A command exits with the code of its error. "
        "From Python, catch `luban.LubanError` or a kind of it.",
        _table(("error", "means", "exit", "HTTP", "gRPC"), rows),
        f"```\n{tree}\n```",
    ])  # fmt: skip


def _descendants(kind: type[errors.LubanError]) -> Iterator[type[errors.LubanError]]:
    if not kind.__name__.startswith("_"):
        yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _descendants(child)


def front_door() -> str:
    """Return the page of the names that `import luban` gives."""
    parts = ["# Python", _clean(inspect.getdoc(luban) or "")]
    values = {name: getattr(luban, name) for name in luban.__all__ if name != "__version__"}
    functions = {name: value for name, value in values.items() if inspect.isfunction(value)}
    classes = {name: value for name, value in values.items() if inspect.isclass(value)}
    raised = {name: value for name, value in classes.items() if issubclass(value, BaseException)}
    parts.append("## Functions")
    for name, value in sorted(functions.items()):
        parts += [f"### `luban.{name}`", _signature(f"luban.{name}", value), docstring(value)]
    parts.append("## Classes")
    for name, value in sorted(classes.items()):
        if name not in raised:
            parts += [f"### `luban.{name}`", *_class(name, value)]
    parts.append("## Errors")
    parts.append(f"{', '.join(f'`luban.{name}`' for name in sorted(raised))}: see [errors](errors.md).")
    return "\n\n".join(parts)


def _class(name: str, kind: type) -> Iterator[str]:
    yield docstring(kind)
    if dataclasses.is_dataclass(kind):
        docs = documented(kind)
        rows = [(f"`{item.name}`", _code(item.type), docs.get(item.name, "")) for item in dataclasses.fields(kind)]
        yield _table(("field", "type", "meaning"), rows)
    for member, value in vars(kind).items():
        if member.startswith("_") or not getattr(inspect.unwrap(getattr(value, "__func__", value)), "__doc__", None):
            continue
        if isinstance(value, property):
            yield f"#### `{name}.{member}`\n\n{docstring(value)}"
        elif inspect.isfunction(function := getattr(value, "__func__", value)):
            yield f"#### `{name}.{member}`\n\n{_signature(f'{name}.{member}', function)}\n\n{docstring(function)}"


def _signature(name: str, function: Any) -> str:
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name not in ("self", "cls")]
    shown = str(inspect.Signature(parameters, return_annotation=inspect.signature(function).return_annotation))
    shown = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", shown).replace("'", "")
    return f"```python\n{name}{shown}\n```"


def docstring(value: Any) -> str:
    """Return a docstring in Google's form as Markdown: `Args:` and `Raises:` become lists."""
    lines: list[str] = []
    inside = False
    for line in (inspect.getdoc(value) or "").splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Yields):", line):
            inside = True
            lines += ["", f"**{line}**", ""]
        elif inside and (match := re.fullmatch(r" {4}(\w[\w.]*): (.*)", line)):
            lines.append(f"- `{match[1]}`: {match[2]}")
        elif inside and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and not line.strip()
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def documented(section: type) -> dict[str, str]:
    """Return field name -> meaning, those of the dataclasses that it extends among them."""
    parts = [part for part in reversed(section.__mro__) if dataclasses.is_dataclass(part)]
    return {name: text for part in parts for name, text in plugins.field_docs(part).items()}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Return a text as it may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _code(annotation: Any) -> str:
    return f"`{annotation if isinstance(annotation, str) else getattr(annotation, '__name__', annotation)}`"


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


def _clean(text: str) -> str:
    return inspect.cleandoc(text)


def anchor(heading: str) -> str:
    """Return the anchor under which Markdown viewers keep a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare them."""
    importlib.invalidate_caches()
    stale = [name for name, text in pages().items() if _text(FOLDER / name) != text]
    if "--check" in arguments:
        print("\n".join(f"{FOLDER / name} is out of date: run `make docs`" for name in stale) or "reference is current")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
    print(f"{FOLDER}: {', '.join(stale) or 'nothing'} changed")
    return 0


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
