"""Catalogues: names without imports, one import a plug-in, broken siblings, packages from outside."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from luban import plugins
from luban.errors import MissingExtra, PluginError, UnknownPlugin
from luban.plugins import Catalogue, field_docs, room

SOUND = '''"""Paint things red.

Slowly."""
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    depth: int = 1
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the name of a room with sound and broken plug-ins."""
    name = f"room_{abs(hash(request.node.name))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "deep_red.py").write_text(SOUND)
    (folder / "typo.py").write_text("def broken(:\n")
    (folder / "raises.py").write_text("raise RuntimeError('boom')\n")
    (folder / "needs.py").write_text('"""Needs a package."""\nimport a_package_that_is_not_there.inner\n')
    (folder / "renamed.py").write_text("import luban.gone\n")
    (folder / "_private.py").write_text("raise RuntimeError\n")
    (folder / "shared_part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_names_are_file_stems_and_nothing_is_imported(package: str) -> None:
    catalogue = Catalogue(package, "colour", ignore=frozenset({"shared_part"}))
    assert catalogue.names() == ("deep-red", "needs", "raises", "renamed", "typo")
    assert list(catalogue) == list(catalogue.names())
    assert "deep-red" in catalogue and "_private" not in catalogue and "shared-part" not in catalogue
    assert not [name for name in sys.modules if name.startswith(f"{package}.")]


def test_a_broken_sibling_does_no_harm(package: str) -> None:
    module = Catalogue(package, "colour").load("deep-red")
    assert module.Options().depth == 1
    assert [name for name in sys.modules if name.startswith(f"{package}.")] == [f"{package}.deep_red"]


@pytest.mark.parametrize(
    ("name", "said"), [("typo", "SyntaxError"), ("raises", "RuntimeError: boom"), ("renamed", "luban.gone")]
)
def test_a_broken_one_says_what_is_broken(package: str, name: str, said: str) -> None:
    with pytest.raises(PluginError, match=said) as caught:
        Catalogue(package, "colour").load(name)
    assert f"colour {name!r}" in caught.value.message
    assert not isinstance(caught.value, MissingExtra)


def test_a_missing_package_is_named_with_the_command(package: str) -> None:
    with pytest.raises(MissingExtra, match="a_package_that_is_not_there") as caught:
        Catalogue(package, "colour").load("needs")
    assert caught.value.hint.startswith("pip install")


def test_a_typo_gets_the_nearest_name(package: str) -> None:
    with pytest.raises(UnknownPlugin) as caught:
        Catalogue(package, "colour").load("deep-rad")
    assert caught.value.message == "no colour is called 'deep-rad'"
    assert "did you mean 'deep-red'?" in caught.value.hint


@pytest.mark.parametrize("name", ["", "..", "os", "deep_red", "_private", "__init__", "deep-red.py", "../deep-red"])
def test_only_names_of_the_catalogue_are_imported(package: str, name: str) -> None:
    with pytest.raises(UnknownPlugin):
        Catalogue(package, "colour").load(name)


def test_about_reads_the_docstring_without_importing(package: str) -> None:
    catalogue = Catalogue(package, "colour")
    assert catalogue.about("deep-red") == "Paint things red."
    assert catalogue.about("needs") == "Needs a package."
    assert catalogue.about("typo") == ""
    assert catalogue.about("raises") == ""
    assert catalogue.about("gone") == ""
    assert not [name for name in sys.modules if name.startswith(f"{package}.")]


def test_packages_from_outside_come_in_by_entry_points(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        asked.append(group)
        return [metadata.EntryPoint(name="outside", value=f"{package}.deep_red", group=group)]

    monkeypatch.setattr(plugins.metadata, "entry_points", entry_points)
    catalogue = Catalogue(package, "colour")
    assert "outside" in catalogue
    assert catalogue.load("outside").Options().depth == 1
    assert asked == [package]


def test_a_room_without_a_catalogue_is_told() -> None:
    with pytest.raises(PluginError, match="has no catalogue"):
        room("luban.project")
    assert room("luban.tasks").what == "task"


def test_a_room_that_is_not_there_is_told() -> None:
    with pytest.raises(PluginError, match="no_such_room"):
        Catalogue("no_such_room", "thing").names()


@dataclass(frozen=True)
class Sample:
    """A section."""

    first: int = 1
    """Counts
    things."""
    second: str = ""
    third: float = 0.0
    """Seconds."""

    def method(self) -> None:
        """Belongs to no field."""


def test_field_docs() -> None:
    assert field_docs(Sample) == {"first": "Counts\nthings.", "third": "Seconds."}
