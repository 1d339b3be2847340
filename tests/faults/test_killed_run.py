"""`kill -9` at any moment of a run: running again goes on, to the same bundle.

`LUBAN_KILLS=100` kills a hundred times; the suite a few.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from children import CHILDREN

from luban.files import read_json
from luban.models.facts import BaseFolder
from luban.project.load import load
from luban.stages import run

KILLS = int(os.environ.get("LUBAN_KILLS", "6"))
_HUNG_S = 300
PROJECT = """
name: killed
task: {kind: classify}
base: base
max_length: 32
data: {train: rows.jsonl, split: {validation: 0.2, test: 0.2}}
train: {epochs: 3, learning_rate: 2.0e-3, batch_size: 8, save_every_s: 0.05, threads: 1, evaluate_every: 0.5}
evaluate: {baselines: [majority, probe]}
"""


@pytest.fixture(scope="module")
def fresh(tiny: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of project folders in which nothing was run yet."""
    folder = tmp_path_factory.mktemp("killed")

    def make(name: str) -> Path:
        place = folder / name
        place.mkdir()
        shutil.copytree(tiny.folder, place / "base")
        words = {"good": ["lovely", "warm", "kind", "好吃", "喜欢"], "bad": ["cold", "rude", "late", "难吃", "讨厌"]}
        rng = random.Random(3)
        rows = [
            f'{{"text": "{" ".join(rng.choices(words[label], k=4))} {number}", "label": "{label}"}}'
            for number in range(150)
            for label in words
        ]
        (place / "rows.jsonl").write_text("\n".join(rows), "utf-8")
        (place / "luban.yaml").write_text(PROJECT, "utf-8")
        return place

    return make


def _run(place: Path) -> None:
    run(load(place))


def start(place: Path) -> BaseProcess:
    """Run the project in a child process and return that."""
    child = CHILDREN.Process(target=_run, args=(place,), daemon=True)
    child.start()
    return child


def finish(child: BaseProcess) -> None:
    """Wait for a child that must end well."""
    child.join(_HUNG_S)
    assert child.exitcode == 0


def digests(place: Path) -> dict[str, str]:
    """Return the digest of each sealed folder of the run, in the order of the stages."""
    sealed = ("data", "probe", "checkpoint", "graph", "bundle")  # `check` tells time and memory: these vary
    return {name: read_json(place / "runs/killed" / name / "manifest.json")["digest"] for name in sealed}


def test_a_killed_run_goes_on_to_the_same_bundle(fresh: Callable[[str], Path]) -> None:
    whole = fresh("whole")
    started = time.monotonic()
    finish(start(whole))
    length_s = time.monotonic() - started
    rng = random.Random(7)
    landed = 0
    for number in range(KILLS):
        place = fresh(f"killed-{number}")
        child = start(place)
        child.join(rng.uniform(0.0, length_s))
        child.kill()
        child.join()
        landed += child.exitcode == -signal.SIGKILL
        finish(start(place))
        assert digests(place) == digests(whole)
        assert not list((place / "runs/killed").glob(".aside-*")), "something half-written stayed behind"
        shutil.rmtree(place)
    assert landed >= KILLS * 0.5, "most kills came after the end: the test shows nothing"
