"""Every catalogue: each name is one file, loads by itself, says what it does, and has options with defaults."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any, get_type_hints

import pydantic
import pytest

from luban import plugins
from luban.project.plugged import rooms

PACKAGES = sorted({where.package for where, _ in rooms().values()})
ENTRIES = [(package, name) for package in PACKAGES for name in plugins.room(package)]


def options(package: str, name: str) -> Any:
    return getattr(plugins.room(package).load(name), "Options", None)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_catalogue_is_no_heavier_than_its_names(package: str) -> None:
    heavy = ("torch", "transformers", "sklearn", "pyarrow", "pandas", "tensorboard")
    script = (
        f"import sys; from luban import plugins; names = plugins.room({package!r}).names(); assert names\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize(("package", "name"), ENTRIES)
def test_names_are_written_as_a_project_file_has_them(package: str, name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name)
    assert plugins.room(package).about(name).endswith(".")


def test_options_are_read_without_torch() -> None:
    """A project file is checked on machines that only serve, so checking it may not need what trains."""
    script = f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sklearn", "accelerate"):
            raise ImportError(f"{{name}} was imported")
sys.meta_path.insert(0, Forbid())
from luban import plugins
for package, name in {ENTRIES!r}:
    plugins.room(package).load(name)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize(("package", "name"), ENTRIES)
def test_options_are_a_frozen_dataclass_with_defaults_that_pass_their_own_checks(package: str, name: str) -> None:
    section = options(package, name)
    if section is None:
        return
    assert dataclasses.is_dataclass(section) and section.__dataclass_params__.frozen
    get_type_hints(section)
    values = dataclasses.asdict(section())
    again = pydantic.TypeAdapter(section).validate_json(json.dumps(values, allow_nan=False), strict=True)
    assert again == section()


@pytest.mark.parametrize(("package", "name"), ENTRIES)
def test_an_unknown_option_is_refused_with_its_place(package: str, name: str) -> None:
    from pathlib import Path

    from luban.errors import ProjectError
    from luban.project.load import parse

    places = {"luban.tasks": "task", "luban.adapters": "train.adapter"}
    written = f"{{kind: {name}, no_such_option: 1}}"
    text = "base: minilm-l6\nname: x\ndata: {train: a.csv}\n"
    if package in places:
        override, place = f"{places[package]}={written}", places[package]
    else:
        place = next(".".join(map(str, path)) for path, (where, _) in rooms().items() if where.package == package)
        override, place = f"{place}=[{written}]", f"{place}[0]"
    task = [] if package == "luban.tasks" else ["task=classify"]
    with pytest.raises(ProjectError) as caught:
        parse(text, root=Path(), overrides=[*task, override])
    assert [problem.where.split(" (")[0] for problem in caught.value.problems] == [f"{place}.no_such_option"]


@pytest.mark.parametrize("name", [name for package, name in ENTRIES if package == "luban.tasks"])
def test_a_task_names_its_scores_the_main_one_first(name: str) -> None:
    module = plugins.room("luban.tasks").load(name)
    task = module.make(module.Options(), ("a", "b"))
    scores = module.scores(module.Options())
    assert scores[0] == task.main_score
    assert len(set(scores)) == len(scores)
