"""Documentation that can fail: every command, option, setting, plug-in, name and link in it is there."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

import click
import pytest
import yaml
from house.source import ROOT

import luban
from luban import plugins
from luban.cli.main import COMMANDS, group
from luban.project import schema
from luban.project.plugged import rooms

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
    if "data" not in path.relative_to(ROOT).parts
)
WRITTEN = [path for path in PAGES if "reference" not in path.parts and path.name != "CHANGELOG.md"]
"""Pages that a person wrote and that tell how to use Luban."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each_page(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("page", paths, ids=named)


class Shown(NamedTuple):
    """A command line that a page shows."""

    words: list[str]
    line: str


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def fences(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text_of(page)) if language in languages]


def inline(page: Path) -> list[str]:
    return INLINE.findall(FENCE.sub("", text_of(page)))


def shown(page: Path, program: str) -> Iterator[Shown]:
    """Yield the command lines of a program, in fences of shell and in the running text."""
    lines = [line for body in fences(page, "", "sh", "bash", "console") for line in body.splitlines()]
    for line in [*lines, *inline(page)]:
        for part in re.split(r"&&|\|+", line.split("#")[0]):
            part = part.strip().removeprefix("$ ")
            if part.split(" ")[0].endswith(program) and not re.search(r"[{}<>]", part):
                yield Shown(shlex.split(part)[1:], part)


def settings(section: type = schema.Project, above: str = "") -> Iterator[str]:
    """Yield the path of every setting, and of every option of every plug-in."""
    plugged = {".".join(map(str, path)): room for path, (room, _) in rooms().items()}
    hints = get_type_hints(section)
    for item in dataclasses.fields(section):
        path = f"{above}.{item.name}" if above else item.name
        yield path
        if path in plugged:
            catalogue = plugins.room(plugged[path].package)
            yield f"{path}.kind"
            for name in catalogue:
                made = getattr(catalogue.load(name), "Options", None)
                yield from (f"{path}.{field.name}" for field in (dataclasses.fields(made) if made else ()))
        elif dataclasses.is_dataclass(hints[item.name]):
            yield from settings(hints[item.name], path)


SETTINGS = frozenset(settings())
SECTIONS = frozenset(path.split(".")[0] for path in SETTINGS if "." in path)


def command(name: str) -> tuple[click.Command, click.Context]:
    above = click.Context(group, info_name="luban")
    found = group.get_command(above, name)
    assert found is not None
    return found, click.Context(found, parent=above, info_name=name)


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = reference()
    stale = "".join(difference(made.FOLDER / name, text) for name, text in made.pages().items())
    assert not stale, f"run `make docs`\n{stale}"
    assert {path.name for path in made.FOLDER.iterdir()} == set(made.pages())


def difference(path: Path, text: str) -> str:
    before = text_of(path) if path.is_file() else ""
    return "".join(difflib.unified_diff(before.splitlines(True), text.splitlines(True), path.name, "made now", n=0))


def test_the_reference_has_every_setting_command_and_error() -> None:
    pages = reference().pages()
    assert not [path for path in SETTINGS if f"`{path}`" not in pages["settings.md"] and not is_option_or_section(path)]
    assert not [name for name in COMMANDS if f"## `luban {name}`" not in pages["commands.md"]]
    assert "| `CorruptBundle` |" in pages["errors.md"]
    assert not [name for name in luban.__all__ if name != "__version__" and f"`luban.{name}`" not in pages["python.md"]]
    for package in {room.package for room, _ in rooms().values()}:
        assert not [name for name in plugins.room(package) if f"### `{name}`" not in pages["plugins.md"]]


def is_option_or_section(path: str) -> bool:
    plugged = {".".join(map(str, at)) for at in rooms()}
    return path.rpartition(".")[0] in plugged or any(other.startswith(f"{path}.") for other in SETTINGS - plugged)


@each_page(WRITTEN)
def test_every_command_and_option_is_there(page: Path) -> None:
    for words, line in shown(page, "luban"):
        if not words or words[0] in ("--help", "--version", "COMMAND"):
            continue
        assert words[0] in COMMANDS, f"{named(page)}: {line}"
        found, context = command(words[0])
        options = {name for one in found.get_params(context) for name in (*one.opts, *one.secondary_opts)}
        unknown = [word for word in words[1:] if word.startswith("-") and word.split("=")[0] not in options]
        assert not unknown, f"{named(page)}: {line}"
        takes = {name for one in found.get_params(context) if not getattr(one, "is_flag", True) for name in one.opts}
        values = {place + 1 for place, word in enumerate(words) if word in takes}
        rest = [word for place, word in enumerate(words) if place and place not in values]
        overridden = [word.split("=")[0] for word in rest if re.fullmatch(r"[a-z_.]+=\S*", word)]
        takes_settings = any(one.name == "overrides" for one in found.get_params(context))
        assert not takes_settings or set(overridden) <= SETTINGS, f"{named(page)}: {line}"


@each_page(WRITTEN)
def test_every_command_line_parses(page: Path) -> None:
    for words, line in shown(page, "luban"):
        if len(words) < 2 or words[0] not in COMMANDS or "..." in line or "[" in line:
            continue
        found, context = command(words[0])
        try:
            found.parse_args(context, words[1:])
        except click.exceptions.Exit:
            continue
        except click.UsageError as error:
            pytest.fail(f"{named(page)}: `{line}`: {error.format_message()}")


@each_page(WRITTEN)
def test_every_setting_that_is_named_is_there(page: Path) -> None:
    for code in inline(page):
        code = code.split("=")[0].split(":")[0].strip()
        if SETTING.fullmatch(code) and "." in code and code.split(".")[0] in SECTIONS and not is_file_name(code):
            assert code in SETTINGS, f"{named(page)}: `{code}`"


def is_file_name(code: str) -> bool:
    return code.rpartition(".")[2] in ("py", "md", "yaml", "json", "jsonl", "csv", "html", "txt", "arrow")


@each_page(WRITTEN)
def test_every_project_file_that_is_shown_has_known_settings(page: Path) -> None:
    for body in fences(page, "yaml"):
        values = yaml.safe_load(body)
        if isinstance(values, dict) and set(values) & {field.name for field in dataclasses.fields(schema.Project)}:
            unknown = [path for path in paths(values) if path not in SETTINGS]
            assert not unknown, f"{named(page)}: {unknown}"


def paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{above}.{key}" if above else str(key)
        yield path
        if isinstance(value, dict) and path not in ("gates", "data.replace"):
            yield from paths(value, path)


@each_page(PAGES)
def test_every_link_leads_somewhere(page: Path) -> None:
    anchors = reference().anchor
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if target.startswith(("https://", "http://")):
            continue
        name, _, fragment = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{named(page)}: {target}"
        assert other.is_relative_to(ROOT), f"{named(page)}: {target} leads out of the project"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(other)), re.MULTILINE)
            assert fragment in {anchors(heading) for heading in headings}, f"{named(page)}: {target}"


@each_page(WRITTEN)
def test_every_target_of_make_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for words, line in shown(page, "make"):
        assert {word for word in words if "=" not in word and re.fullmatch(r"[a-z-]+", word)} <= targets, line


@each_page(WRITTEN)
def test_every_python_name_is_there(page: Path) -> None:
    for body in fences(page, "python"):
        for node in ast.walk(ast.parse(body, named(page))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "luban":
                assert node.attr in luban.__all__, f"{named(page)}: luban.{node.attr}"
            if isinstance(node, ast.ImportFrom) and (module := str(node.module)).split(".")[0] == "luban":
                home = importlib.import_module(module)
                assert all(hasattr(home, one.name) for one in node.names), f"{named(page)}: {ast.unparse(node)}"
    for name in (match for code in inline(page) for match in re.findall(r"\bluban\.(\w+)\(", code)):
        assert name in luban.__all__, f"{named(page)}: luban.{name}"


@each_page(WRITTEN)
def test_every_plugin_and_file_that_is_named_is_there(page: Path) -> None:
    kinds = {name for room, _ in rooms().values() for name in plugins.room(room.package)}
    for code in (*inline(page), *fences(page, "yaml")):
        for kind in re.findall(r"\bkind: ([a-z-]+)", code):
            assert kind in kinds, f"{named(page)}: {kind}"
    for code in inline(page):
        if re.fullmatch(r"(examples|docs|bench|tests|src)/[\w./-]+", code):
            assert (ROOT / code).exists(), f"{named(page)}: {code}"


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = (set(words for words in map(first_words, shown(ROOT / name, "luban"))) for name in READMES)
    assert english == chinese


READMES = ("README.md", "README.zh-CN.md")


def first_words(one: Shown) -> str:
    return one.words[0] if one.words else ""


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (target.partition("#")[0] for target in LINK.findall(text_of(page)) if "://" not in target)
        ahead += [(page.parent / target).resolve() for target in targets if target]
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= reached


def test_the_script_tells_when_the_reference_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = reference()
    monkeypatch.setitem(sys.modules, "reference", module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "reference")
    assert module.main(["--check"]) == 1
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0
    (tmp_path / "reference" / "errors.md").write_text("old", "utf-8")
    assert module.main(["--check"]) == 1
    assert "errors.md is out of date" in capsys.readouterr().out
