"""What every method of compression on models promises: a smaller model, or a word why not, that goes on like any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.compress.scene import Scene, made

from luban.bundle import parity, runtimes
from luban.compress import Candidate, catalogue, make, works_on
from luban.models import checkpoint
from luban.models.base import BaseFolder, load_body
from luban.models.heads import TaskModel
from luban.models.processor import Processor, ProcessorSettings
from luban.project.schema import Plugin
from luban.tasks import make_head

METHODS = [name for name in catalogue if works_on(name) == "model"]
BRIEF: dict[str, Any] = {"recover_epochs": 0.5, "learning_rate": 1e-3}
OPTIONS: dict[str, dict[str, Any]] = {
    "vocabulary": {"extra": 5},
    "layers": {"keep": 1, **BRIEF},
    "prune": {"heads": 0.5, "width": 0.5, **BRIEF},
    "magnitude": {"sparsity": 0.5, **BRIEF},
    "factorise": {"embeddings": 8, "feed_forward": 8, **BRIEF},
    "distil": {"epochs": 0.5, "hidden": 1.0, "attention": 1.0},
    "window": {"tokens": 5, **BRIEF},
    "early-exit": {"after": 1, "max_disagreement": 1.0, **BRIEF},
}
KINDS = ("classify", "chunk", "multi-label", "tag", "crf")
EVERY_KIND, ONE_LABEL, WHOLE_TEXTS = ("distil", "vocabulary"), ("early-exit",), ("window",)
"""Methods that are tried on tasks of every kind, those for which a text has one label, and those for which it has
answers as a whole."""


def kinds(name: str) -> tuple[str, ...]:
    if name in WHOLE_TEXTS:
        return ("classify", "chunk", "multi-label")
    return KINDS if name in EVERY_KIND else ("classify", "chunk") if name in ONE_LABEL else ("classify", "tag")


EACH = [(name, kind) for name in METHODS for kind in kinds(name)]
PLAN = ["average", "vocabulary", "layers", "prune", "factorise", "magnitude", "distil"]
"""Methods that one export tries out together: exporting takes longer than all of them."""
CLOSE = 1e-3


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a trained tiny model of the kind of task that a test asks for."""
    return made(tmp_path_factory, request.param)


def options(name: str, scene: Scene, folder: Path) -> dict[str, Any]:
    """Return options with which a method is brief; a method of other packages takes its own."""
    if name != "average":
        return OPTIONS.get(name, {})
    other = Candidate(scene.candidate.model, scene.candidate.processor)
    save(other, scene, folder / "other")
    return {"folders": (str(folder / "other"),)}


def save(candidate: Candidate, scene: Scene, folder: Path) -> None:
    checkpoint.save(candidate.model, checkpoint.Parts(scene.task_json, scene.base.facts, candidate.processor), folder)


def apply(name: str, scene: Scene, folder: Path) -> Candidate:
    step = Plugin(kind=name, options=options(name, scene, folder))
    found: Candidate = make(step).apply(scene.candidate, replace(scene.material, folder=folder / "work"))
    return found


def weights(candidate: Candidate) -> dict[str, torch.Tensor]:
    return {name: part.clone() for name, part in candidate.model.state_dict().items()}


def size(candidate: Candidate) -> int:
    return sum(part.numel() for part in candidate.model.parameters())


@pytest.mark.parametrize(("name", "scene"), EACH, indirect=["scene"])
def test_a_smaller_model_that_goes_on_like_any_other(name: str, scene: Scene, tmp_path: Path) -> None:
    before, wanted = weights(scene.candidate), scene.logits(scene.candidate)
    vocabulary = scene.candidate.processor.tokenizer_json
    found = apply(name, scene, tmp_path)

    after = weights(scene.candidate)
    assert all(torch.equal(after[part], before[part]) for part in before), "the candidate was changed"
    assert np.array_equal(scene.logits(scene.candidate), wanted), "the candidate answers otherwise than before"
    assert scene.candidate.processor.tokenizer_json == vocabulary
    assert not [module for module in scene.candidate.model.modules() if module._forward_hooks]
    assert not [module for module in scene.candidate.model.modules() if module._forward_pre_hooks]

    assert not found.model.training
    assert all(not part.is_cuda for part in found.model.parameters())
    facts = found.facts[name]
    assert json.loads(json.dumps(found.facts)) == found.facts
    assert facts["parameters"] == size(found)
    assert size(found) < size(scene.candidate) or facts["not_smaller"]

    logits = scene.logits(found)
    assert np.isfinite(logits).all()
    save(found, scene, tmp_path / "saved")
    model, parts = checkpoint.load(tmp_path / "saved", make_head)
    assert np.array_equal(scene.logits(Candidate(model, parts.processor)), logits), "it was saved as another model"


def check_export(found: Candidate, scene: Scene, tmp_path: Path) -> None:
    rows = scene.material.task.encode(scene.material.train, found.processor)
    (tmp_path / "graph").mkdir()
    told = runtimes.write("onnx", found.model, tmp_path / "graph", rows)
    runner = runtimes.open("onnx", tmp_path / "graph", told, threads=1)
    task, pad_id = scene.material.task, found.processor.pad_id
    parity.check(found.model, runner, rows, pad_id=pad_id, per_token=task.per_token, max_difference=CLOSE)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scene", ["classify"], indirect=True)
def test_equal_seeds_give_equal_models(name: str, scene: Scene, tmp_path: Path) -> None:
    one, other = apply(name, scene, tmp_path / "one"), apply(name, scene, tmp_path / "other")
    assert one.processor.tokenizer_json == other.processor.tokenizer_json
    found = weights(other)
    assert all(torch.equal(part, found[path]) for path, part in weights(one).items())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scene", ["classify"], indirect=True)
def test_what_others_did_is_still_told(name: str, scene: Scene, tmp_path: Path) -> None:
    told = replace(scene, candidate=replace(scene.candidate, facts={"earlier": {"parameters": 7}}))
    assert apply(name, told, tmp_path).facts["earlier"] == {"parameters": 7}


@pytest.mark.parametrize("scene", ["classify", "tag"], indirect=True)
def test_steps_follow_each_other_and_the_graph_answers_as_the_model(scene: Scene, tmp_path: Path) -> None:
    candidate = scene.candidate
    sizes = [size(candidate)]
    for name in PLAN:
        given = {**options(name, scene, tmp_path), **({"feed_forward": 0} if name == "factorise" else {})}
        folder = tmp_path / name
        candidate = make(Plugin(kind=name, options=given)).apply(candidate, replace(scene.material, folder=folder))
        sizes.append(size(candidate))
    assert list(candidate.facts) == PLAN
    assert sizes[1:6] == sorted(set(sizes[1:6]), reverse=True)
    zeros = [
        float((part == 0).float().mean()) for path, part in candidate.model.named_parameters() if "query.w" in path
    ]
    assert min(zeros) >= 0.49, "distilling brought pruned weights back"
    save(candidate, scene, tmp_path / "saved")
    model, parts = checkpoint.load(tmp_path / "saved", make_head)
    assert np.array_equal(scene.logits(Candidate(model, parts.processor)), scene.logits(candidate))
    check_export(candidate, scene, tmp_path)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in PLAN])
@pytest.mark.parametrize("scene", ["classify"], indirect=True)
def test_the_graph_of_any_other_method_answers_as_the_model(name: str, scene: Scene, tmp_path: Path) -> None:
    check_export(apply(name, scene, tmp_path), scene, tmp_path)


@pytest.mark.parametrize("scene", ["classify"], indirect=True)
def test_a_real_base_is_cut_down_and_answers_as_its_graph(scene: Scene, minilm: BaseFolder, tmp_path: Path) -> None:
    """Vocabulary and layers alone take most of it; rows of pieces that stay are read as before."""
    material = scene.with_settings(tmp_path / "work")
    processor = Processor(ProcessorSettings(max_length=32), (minilm.folder / "tokenizer.json").read_text("utf-8"))
    whole = Candidate(
        TaskModel(load_body(minilm), material.task.head(384, dropout=0.0, pooling="mean")).eval(), processor
    )
    words = make(Plugin(kind="vocabulary", options={"extra": 500})).apply(whole, material)
    assert np.abs(scene.logits(words) - scene.logits(whole)).max() < CLOSE
    short = make(Plugin(kind="layers", options={"keep": 1, "recover_epochs": 0.0})).apply(words, material)
    assert size(short) < 0.15 * size(whole)
    checkpoint.save(short.model, checkpoint.Parts(scene.task_json, minilm.facts, short.processor), tmp_path / "saved")
    model, parts = checkpoint.load(tmp_path / "saved", make_head)
    check_export(Candidate(model, parts.processor), scene, tmp_path)
