"""What every kind of package promises: answers as the engine's, told how, and nothing left where they differ."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.bundle.made import Made, made, texts

from luban import files
from luban.bundle import packages
from luban.bundle.engine import Engine
from luban.bundle.packages import Source
from luban.bundle.runtimes import onnx
from luban.compress import make as make_method
from luban.errors import Conflict, LubanError, ParityFailed, UnknownPlugin
from luban.files import read_json
from luban.project.schema import Plugin

GRAPHS = ("onnx", "openvino", "tensorflow")
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "one label": ("classify", {}),
    "several labels": ("classify", {"multi_label": True, "long_text": "chunk", "stride": 5}),
    "head and tail": ("classify", {"long_text": "head_tail"}),
    "entities": ("tag", {}),
    "learned steps": ("tag", {"crf": True, "units": "characters"}),
}
LONG = " ".join(texts(8, seed=5))


def there(kind: str) -> None:
    """Skip a test where the tool that a package is for is not installed."""
    if kind in ("openvino", "tensorflow") and importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed: pip install 'luban[{kind}]'")


def source(it: Made) -> Source:
    return Source(folder=it.folder, engine=Engine.open(it.folder))


@pytest.fixture(params=packages.catalogue.names())
def kind(request: pytest.FixtureRequest) -> str:
    """Return every kind of package."""
    there(request.param)
    return str(request.param)


@pytest.fixture
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return a bundle that classifies."""
    return source(made(tmp_path_factory, "classify", "onnx"))


@pytest.mark.parametrize("task", ["one label", "entities"])
def test_a_package_answers_as_the_engine(
    kind: str, task: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    name, options = TASKS[task]
    it = source(made(tmp_path_factory, name, "onnx", **options))
    proof = packages.make(kind, it, tmp_path / "it", [*texts(20), LONG, ""], "made-up rows", 1e-3)
    assert proof["max_difference"] < 1e-4
    assert proof["labels_agree"] == 1.0
    assert proof["n"] >= 20
    told = (tmp_path / "it" / "README.md").read_text("utf-8")
    assert it.engine.digest[:12] in told
    assert "made-up rows" in told
    assert not [label for label in it.engine.labels if label not in told]
    assert "{{" not in told and "{%" not in told
    endings = {path.suffix for path in (tmp_path / "it").rglob("*") if path.is_file()}
    assert not endings & {".pkl", ".pickle", ".bin.pkl", ".pt", ".pth", ".npy"}


@pytest.mark.parametrize("task", TASKS)
def test_the_script_of_a_package_does_what_the_engine_does(
    task: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    name, options = TASKS[task]
    it = source(made(tmp_path_factory, name, "onnx", **options))
    proof = packages.make("onnx", it, tmp_path / "it", [*texts(30, seed=3), LONG, "[SEP] x", ""], "rows", 1e-3)
    assert proof["script"] == {**proof["script"], "labels_agree": 1.0, "n": 33}
    assert proof["script"]["max_difference"] < 1e-5
    given = ["my new card 北京", LONG]
    command = [sys.executable, str(tmp_path / "it" / "answer.py"), *given]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == given
    for answer, wanted in zip(answers, it.engine.predict(given), strict=True):
        if it.engine.task.per_token:
            spans = [(span.start, span.end, span.label, span.text) for span in wanted.spans]
            assert [(one["start"], one["end"], one["label"], one["text"]) for one in answer["spans"]] == spans
        else:
            assert answer.get("labels", [answer.get("label")]) == list(wanted.labels)


class Shifted:
    """A runner that answers otherwise than its graph."""

    threads = 1

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._runner.run(input_ids, attention_mask)
        logits[..., 0] += 3.0
        return logits


def test_a_package_that_answers_otherwise_leaves_nothing(kind: str, classifier: Source, tmp_path: Path) -> None:
    otherwise = dataclasses.replace(classifier.engine, runner=Shifted(classifier.engine.runner))
    with pytest.raises(ParityFailed, match="the engine's") as caught:
        packages.make(kind, Source(folder=classifier.folder, engine=otherwise), tmp_path / "it", texts(20), "rows", 0.1)
    assert caught.value.measured != caught.value.allowed
    assert not list(tmp_path.iterdir())


def test_a_script_that_answers_otherwise_leaves_nothing(classifier: Source, tmp_path: Path) -> None:
    """The model is the same, and the probabilities made of its logits are not."""
    warmer = dataclasses.replace(classifier.engine.calibration, temperature=9.0)
    it = Source(folder=classifier.folder, engine=classifier.engine)
    package = packages.catalogue.load("onnx")
    package.write(it, tmp_path)
    with pytest.raises(ParityFailed, match=r"answer\.py of the package"):
        package.prove(Source(folder=it.folder, engine=it.engine.calibrated(warmer)), tmp_path, texts(20), 1e-3)


def test_what_is_there_stays(kind: str, classifier: Source, tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(Conflict, match="is there already"):
        packages.make(kind, classifier, tmp_path / "it", texts(3), "rows", 1e-3)
    assert not list((tmp_path / "it").iterdir())


def test_an_unknown_kind_offers_the_nearest(classifier: Source, tmp_path: Path) -> None:
    with pytest.raises(UnknownPlugin, match="did you mean 'tensorflow'"):
        packages.make("tensorflo", classifier, tmp_path / "it", texts(3), "rows", 1e-3)


@pytest.mark.parametrize("how", [{}, {"how": "dynamic"}], ids=str)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_quantised_bundle_is_packaged_too(
    graph: str, how: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    there(graph)
    it = made(tmp_path_factory, "classify", "onnx")
    folder = tmp_path / "bundle"
    shutil.copytree(it.folder, folder)
    whole = (folder / onnx.GRAPH).read_bytes()
    small, _ = make_method(Plugin(kind="quantise", options=how)).apply(whole, it.rows, onnx.runner)
    (folder / onnx.GRAPH).write_bytes(small)
    files.seal(folder, {"kind": "bundle"})
    quantised = Source(folder=folder, engine=Engine.open(folder))
    # Logits here go up to 20: tools that round a product otherwise by one step differ by parts of a hundred.
    proof = packages.make(graph, quantised, tmp_path / "it", texts(20), "rows", 0.3)
    assert proof["labels_agree"] >= 0.98


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_bundle_without_a_graph_says_what_can_be_done(
    graph: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    there(graph)
    it = source(made(tmp_path_factory, "classify", "torch"))
    with pytest.raises(LubanError, match=r"runs on torch and has no graph(.|\n)*--for sagemaker"):
        packages.make(graph, it, tmp_path / "it", texts(3), "rows", 1e-3)
    assert not list(tmp_path.iterdir())


def test_cleaning_is_told(kind: str, classifier: Source, tmp_path: Path) -> None:
    package = packages.catalogue.load(kind)
    proof = {
        "windows": 1,
        "n": 1,
        "max_difference": 0.0,
        "allowed": 1.0,
        "labels_agree": 1.0,
        "rows_from": "rows",
        "opened_by": "it",
        "memory_bytes": 1 << 27,
        "ready_s": 1.0,
    }
    told = package.readme(classifier, {**proof, "script": proof})
    assert ("`whitespace`: one space" in told) == (kind in GRAPHS)


def test_settings_of_a_package_hold_what_makes_windows(classifier: Source, tmp_path: Path) -> None:
    packages.make("onnx", classifier, tmp_path / "it", texts(3), "rows", 1e-3)
    facts = read_json(tmp_path / "it" / "package.json")
    assert facts["labels"] == list(classifier.engine.labels)
    assert facts["temperature"] == 1.5
    assert facts["room"] + len(facts["before"]) + len(facts["after"]) == classifier.engine.processor.settings.max_length
