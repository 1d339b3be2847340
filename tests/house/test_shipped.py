"""Every project file that Luban ships is read without a problem."""

from __future__ import annotations

from pathlib import Path

import pytest
from house.source import ROOT

from luban.project.load import load

SHIPPED = sorted((ROOT / "examples").glob("**/luban.yaml"))


def test_there_are_examples_in_both_languages() -> None:
    languages = {language for path in SHIPPED for language in load(path).project.data.languages}
    assert {"en", "zh"} <= languages


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_project_loads(path: Path) -> None:
    loaded = load(path)
    assert loaded.lines["name"] > 0
    assert (path.parent / "README.md").is_file()
