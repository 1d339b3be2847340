"""Averages of weights: the mean as it is, greedy choice by validation rows, and checkpoints that don't belong."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.compress.scene import Scene, made

from luban.compress import Candidate, make
from luban.compress.methods.average import Average, Options
from luban.errors import LubanError, NotFound
from luban.models import checkpoint
from luban.project.schema import Plugin


def save(candidate: Candidate, scene: Scene, folder: Path, **told: Any) -> str:
    parts = checkpoint.Parts({**scene.task_json, **told}, scene.base.facts, candidate.processor)
    checkpoint.save(candidate.model, parts, folder)
    return str(folder)


def moved(scene: Scene, scale: float, seed: int = 0) -> Candidate:
    """Return the model with some noise on its weights."""
    model = copy.deepcopy(scene.candidate.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(scale * torch.randn(part.shape, generator=generator))
    return replace(scene.candidate, model=model)


def test_the_mean_of_all(classify: Scene, tmp_path: Path) -> None:
    others = [moved(classify, 0.01, seed) for seed in (1, 2)]
    folders = tuple(save(other, classify, tmp_path / str(at)) for at, other in enumerate(others))
    found = Average(Options(folders=folders, how="mean")).apply(classify.candidate, classify.material)
    states = [one.model.state_dict() for one in (classify.candidate, *others)]
    for name, part in found.model.state_dict().items():
        assert torch.allclose(part, torch.stack([state[name] for state in states]).mean(0), atol=1e-6)
    assert found.facts["average"]["taken"] == ["candidate", *folders]


def test_greedy_leaves_out_what_spoils_it(classify: Scene, tmp_path: Path) -> None:
    folders = (
        save(moved(classify, 3.0), classify, tmp_path / "spoiled"),
        save(moved(classify, 0.001), classify, tmp_path / "near"),
    )
    found = Average(Options(folders=folders)).apply(classify.candidate, classify.material)
    facts = found.facts["average"]
    assert facts["taken"] == ["candidate", folders[1]]
    assert facts["left_out"] == [folders[0]]
    assert facts["score"] >= max(facts["scores"].values())


def test_greedy_can_leave_out_the_candidate_itself(classify: Scene, tmp_path: Path) -> None:
    folder = save(classify.candidate, classify, tmp_path / "good")
    found = Average(Options(folders=(folder,))).apply(moved(classify, 3.0), classify.material)
    assert found.facts["average"]["taken"] == [folder]
    wanted = classify.candidate.model.state_dict()
    assert all(torch.equal(part, wanted[name]) for name, part in found.model.state_dict().items())


def test_checkpoints_that_do_not_belong(
    classify: Scene, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    deep = made(tmp_path_factory, "classify", layers=6)
    trimmed = make(Plugin(kind="vocabulary", options={"extra": 0})).apply(classify.candidate, classify.material)
    wrong = {
        "layers or sizes": save(deep.candidate, deep, tmp_path / "deep"),
        "labels": save(classify.candidate, classify, tmp_path / "named", labels=["bad", "fine"]),
        "a vocabulary": save(trimmed, classify, tmp_path / "trimmed"),
    }
    for what, folder in wrong.items():
        with pytest.raises(LubanError, match=f"has {what} other than"):
            Average(Options(folders=(folder,))).apply(classify.candidate, classify.material)
    with pytest.raises(NotFound):
        Average(Options(folders=(str(tmp_path / "nowhere"),))).apply(classify.candidate, classify.material)
    with pytest.raises(LubanError, match=r"no checkpoints are named\n.*set folders"):
        Average(Options()).apply(classify.candidate, classify.material)
