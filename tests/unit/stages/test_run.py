"""A run as a whole, on a tiny base: its log through resumptions, and what a missed gate leaves behind."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luban.bundle.engine import Engine
from luban.errors import BelowGate, ProjectError
from luban.files import verify
from luban.models import checkpoint
from luban.models.facts import BaseFolder
from luban.project.load import Loaded, load
from luban.records import Progress, Report, Score
from luban.stages import check, run, train
from luban.stages.compressing import compress
from luban.stages.evaluating import _gates
from luban.stages.record import Run
from luban.tasks import make_head

PROJECT = """
name: shop
task: {kind: classify}
base: base
max_length: 32
data: {train: rows.jsonl, split: {validation: 0.2, test: 0.2}}
train: {epochs: 1, learning_rate: 2.0e-3, batch_size: 16, threads: 1, evaluate_every: 0.5}
evaluate: {baselines: [majority]}
"""
Place = Callable[[Mapping[str, Any]], Loaded]


@pytest.fixture
def project(tiny: BaseFolder, tmp_path: Path) -> Place:
    """Return a loader of a small project, with settings to change."""
    shutil.copytree(tiny.folder, tmp_path / "base")
    words = {"good": ["lovely", "warm", "kind", "好吃", "喜欢"], "bad": ["cold", "rude", "late", "难吃", "讨厌"]}
    chance = random.Random(3)
    rows = [
        {"text": f"{' '.join(chance.choices(words[label], k=4))} {number}", "label": label}
        for number in range(60)
        for label in words
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    (tmp_path / "luban.yaml").write_text(PROJECT, "utf-8")
    return lambda changes: load(tmp_path, overrides=[f"{key}={json.dumps(value)}" for key, value in changes.items()])


def lines(loaded: Loaded) -> list[dict[str, Any]]:
    path = loaded.root / "runs" / "shop" / "log.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def events(told: list[dict[str, Any]], *wanted: str) -> list[tuple[str, str]]:
    return [(line["event"], line["stage"]) for line in told if line["event"] in wanted]


def test_the_folder_has_the_machine_that_it_was_made_on(project: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def environment(loaded: Loaded) -> dict[str, Any]:
        check(loaded, quick=True)
        found: dict[str, Any] = json.loads((loaded.root / "runs/shop/environment.json").read_text("utf-8"))
        return found

    made = environment(project({"train.threads": 1}))
    assert made["threads"] == 1
    assert made["cpu"].startswith(made["machine"])
    assert len(made["cpu"]) > len(made["machine"]), "the model is there too"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment(project({"train.threads": 0}))["threads"] == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= environment(project({"train.threads": 0}))["threads"] <= made["cores"]


def test_the_log_tells_of_every_stage_and_goes_on_after_a_stop(project: Place) -> None:
    loaded = project({})

    def stop_in_training(progress: Progress) -> None:
        if progress.step is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(loaded, on_progress=stop_in_training)
    first = lines(loaded)
    assert events(first, "begun", "finished") == [
        ("begun", "run"),
        *((event, stage) for stage in ("prepare", "probe", "check") for event in ("begun", "finished")),
        ("begun", "train"),
    ]
    assert events(first[-1:], "stopped") == [("stopped", "train")]
    with (loaded.root / "runs" / "shop" / "log.jsonl").open("a") as file:
        file.write('{"time": "2026-')  # as a killed process leaves it

    run(loaded)
    told = lines(loaded)
    assert told[: len(first)] == first
    again = told[len(first) :]
    assert events(again, "skipped") == [("skipped", stage) for stage in ("prepare", "probe", "check")]
    assert events(again, "finished") == [("finished", stage) for stage in ("train", "export", "evaluate", "run")]
    trained = next(line for line in again if (line["event"], line["stage"]) == ("finished", "train"))
    assert trained["seconds"] > 0
    assert trained["peak_memory_mb"] > 0
    times = [datetime.fromisoformat(line["time"]) for line in told]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)


def test_the_log_has_what_was_measured_and_no_ticks(project: Place) -> None:
    loaded = project({})
    heard: list[Progress] = []
    run(loaded, on_progress=heard.append)
    told = lines(loaded)
    measured = [line for line in told if "scores" in line]
    steps = [progress.step for progress in heard if progress.step is not None]
    assert [line["done"] for line in measured] == [step.step for step in steps if step.scores]
    assert 0 < len(measured) < len(steps)
    assert measured[0]["scores"].keys() >= {"accuracy"}
    counted = [line for line in told if line["message"] == "features of the frozen base"]
    ticks = [progress for progress in heard if progress.message == "features of the frozen base"]
    assert counted[-1]["done"] == counted[-1]["total"] == ticks[-1].total
    assert len(counted) <= 2


def test_a_failure_is_in_the_log(project: Place) -> None:
    loaded = project({})
    (loaded.root / "rows.jsonl").write_text('{"text": "fine", "label": "good"}\n{"text": "no label"}\n', "utf-8")
    with pytest.raises(Exception, match="label") as caught:
        run(loaded)
    last = lines(loaded)[-1]
    assert (last["event"], last["stage"], last["error"]) == ("failed", "prepare", type(caught.value).__name__)
    assert str(caught.value) == last["message"]


def test_a_warning_is_in_the_log(project: Place) -> None:
    loaded = project({})
    rows = [json.loads(line) for line in (loaded.root / "rows.jsonl").read_text("utf-8").splitlines()]
    texts = [(row["text"].encode("ascii", "ignore").decode(), row["label"]) for row in rows]
    table = "text,label\n" + "".join(f"café {text} à la crème,{label}\n" for text, label in texts)
    (loaded.root / "rows.csv").write_bytes(table.encode("latin-1"))
    train(project({"data.train": "rows.csv"}))
    warned = [line for line in lines(loaded) if line["event"] == "warning"]
    assert any("read as" in line["message"] and line["stage"] == "prepare" for line in warned)


def test_a_missed_gate_leaves_the_report_and_the_bundle_from_before(project: Place) -> None:
    loaded = project({"gates": {"accuracy": 1.0}, "train.epochs": 0.1, "train.start": "random"})
    folder = loaded.root / "runs" / "shop"
    with pytest.raises(BelowGate, match=r"accuracy .* is below 1") as caught:
        run(loaded)
    assert caught.value.measured < caught.value.allowed == 1.0
    assert not (folder / "bundle").exists()
    for name in ("report.json", "report.html", "report.md"):
        assert (folder / name).is_file()
    assert json.loads((folder / "report.json").read_text("utf-8"))["scores"]["accuracy"]["value"] < 1.0
    assert (lines(loaded)[-1]["event"], lines(loaded)[-1]["error"]) == ("failed", "BelowGate")

    passed = run(project({"train.epochs": 0.1, "train.start": "random"}))
    assert passed.bundle is not None
    before = verify(folder / "bundle")
    times = {file.name: file.stat().st_mtime_ns for file in (folder / "bundle").iterdir()}
    (folder / "report.json").unlink()
    with pytest.raises(BelowGate):
        run(loaded)
    assert verify(folder / "bundle") == before
    assert {file.name: file.stat().st_mtime_ns for file in (folder / "bundle").iterdir()} == times
    assert (folder / "report.json").is_file()


def test_a_gate_of_a_score_that_falls_with_quality_is_the_most_it_may_be(project: Place) -> None:
    scores = {"accuracy": Score(0.9, 0.8, 0.95, 100), "ece": Score(0.08, 0.05, 0.1, 100)}
    report = Report("shop", "classify", scores, {}, {}, {})
    _gates(Run(project({"gates": {"accuracy": 0.9, "ece": 0.08}})), report)
    with pytest.raises(BelowGate, match=r"ece .* is above 0\.05") as caught:
        _gates(Run(project({"gates": {"accuracy": 0.9, "ece": 0.05}})), report)
    assert (caught.value.measured, caught.value.allowed) == (0.08, 0.05)


def test_a_run_that_shares_its_base_ends_in_a_bundle_that_answers_and_is_not_compressed(project: Place) -> None:
    loaded = project({"train.adapter": {"kind": "lora", "rank": 2}, "export.runtime": "onnx-shared"})
    result = run(loaded)
    assert result.bundle is not None
    names = {path.name for path in result.bundle.folder.iterdir()}
    assert {"base.onnx", "head.onnx", "adapter.safetensors"} <= names
    engine = Engine.open(result.bundle.folder)
    encoded = engine.encode(["lovely warm kind"])
    trained, _ = checkpoint.load(result.folder / "checkpoint", make_head)
    with torch.inference_mode():
        ids = torch.from_numpy(encoded.ids).long()[None]
        wanted = trained(ids, torch.ones_like(ids)).numpy()
    assert np.allclose(engine.logits(encoded), wanted, atol=1e-4)
    with pytest.raises(ProjectError, match=r"export\.runtime.*onnx-shared"):
        compress(loaded)


@pytest.mark.parametrize("adapter", ["full", "dora", "bitfit"])
def test_an_adapter_that_changes_the_base_is_refused_before_training(project: Place, adapter: str) -> None:
    with pytest.raises(ProjectError, match=r"train\.adapter.*changes the base"):
        project({"train.adapter": adapter, "export.runtime": "onnx-shared"})
    assert project({"train.adapter": adapter, "export.runtime": "onnx-shared", "train.freeze": "base"})


def test_a_plan_of_compression_does_not_go_with_a_shared_base(project: Place) -> None:
    with pytest.raises(ProjectError, match=r"compress\.plan.*a base of its own"):
        project({"train.adapter": "lora", "export.runtime": "onnx-shared", "compress.plan": ["quantise"]})
