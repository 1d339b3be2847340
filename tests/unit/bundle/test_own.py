"""Luban itself, as packages hold it: a wheel that pip takes, and pins that hold for all that is needed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import luban
from luban.bundle import own
from luban.errors import LubanError

ROOT = Path(__file__).resolve().parents[3]


def names(lines: list[str]) -> set[str]:
    return {line.partition("==")[0].lower().replace("_", "-") for line in lines}


def test_runtimes_bring_their_packages() -> None:
    assert {"torch", "transformers", "numpy"} <= names(own.requirements("torch"))
    assert not [line for line in own.requirements("torch") if "+" in line]
    assert set(own.requirements("onnx")) < set(own.requirements("torch"))


def test_all_that_is_needed_is_pinned_as_in_the_project() -> None:
    found = own.closure("onnx")
    assert names(own.requirements("onnx")) < names(found)
    assert found == sorted(found)
    assert {"mako", "flatbuffers"} <= names(found)  # what alembic and onnxruntime need
    assert not {"torch", "transformers", "scikit-learn", "pytest", "luban"} & names(found)
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.lower().replace("_", "-") for line in lines if "==" in line and line[0] != "#"}
    assert {line.lower().replace("_", "-") for line in found} <= pinned


def test_the_wheel_is_what_runs_here(tmp_path: Path) -> None:
    made = own.wheel(tmp_path)
    assert made.name == f"luban-{luban.__version__}-py3-none-any.whl"
    (tmp_path / "again").mkdir()
    assert own.wheel(tmp_path / "again").read_bytes() == made.read_bytes()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(made)], check=True, capture_output=True)
    here = Path(luban.__file__).parent
    installed = tmp_path / "site" / "luban"
    mine = {path.relative_to(here): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    theirs = {path.relative_to(installed): path.read_bytes() for path in installed.rglob("*") if path.is_file()}
    assert theirs == {name: data for name, data in mine.items() if "__pycache__" not in name.parts} | {
        name: data for name, data in theirs.items() if "__pycache__" in name.parts
    }
    (about,) = metadata.distributions(path=[str(tmp_path / "site")])
    assert (about.version, about.entry_points["luban"].value) == (luban.__version__, "luban.cli.main:main")
    with zipfile.ZipFile(made) as packed:
        assert not [name for name in packed.namelist() if "__pycache__" in name]


def test_what_pip_did_not_install_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metadata.MetadataPathFinder, "find_distributions", lambda *_: iter(()))
    with pytest.raises(LubanError, match="not written down here"):
        own.requirements("onnx")
    with pytest.raises(LubanError, match="not written down here"):
        own.wheel(tmp_path)
