"""Fewer layers: those that were chosen, as they were, in every family of encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.compress.scene import Scene, made

from luban.compress import Candidate, make
from luban.compress.methods.layers import Layers, Options, _refit, without
from luban.errors import LubanError
from luban.models.heads import PooledHead, TaskModel
from luban.project.schema import Plugin

PLAIN = {"recover_epochs": 0.0}


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a trained model of six layers."""
    return made(tmp_path_factory, "classify", layers=6)


def test_even_ones_stay(deep: Scene) -> None:
    for keep, wanted in ((0, [0, 2, 5]), (1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (5, [0, 1, 2, 4, 5])):
        found = Layers(Options(keep=keep, **PLAIN)).apply(deep.candidate, deep.material)
        assert found.facts["layers"]["kept"] == wanted
        assert found.facts["layers"]["layers_before"] == 6
        assert found.model.body.config.num_hidden_layers == len(wanted)  # type: ignore[union-attr]


def test_looking_drops_layers_that_do_nothing(deep: Scene) -> None:
    model = without(deep.candidate.model, range(6))
    with torch.no_grad():
        for layer in (1, 4):
            part = model.body.encoder.layer[layer]  # type: ignore[union-attr, index]
            for linear in (part.attention.output.dense, part.output.dense):
                linear.weight.zero_()
                linear.bias.zero_()
    idle = Candidate(model, deep.candidate.processor)
    found = Layers(Options(keep=4, choose="look", look_rows=20, **PLAIN)).apply(idle, deep.material)
    assert found.facts["layers"]["kept"] == [0, 2, 3, 5]


def test_recovery_brings_the_answers_back(deep: Scene, tmp_path: Any) -> None:
    plain = Layers(Options(keep=1, **PLAIN)).apply(deep.candidate, deep.material)
    options = Options(keep=1, recover_epochs=6, learning_rate=5e-3)
    material = deep.with_settings(tmp_path)
    found = Layers(options).apply(deep.candidate, material)
    distances = [float(np.abs(deep.logits(one) - deep.logits(deep.candidate)).mean()) for one in (plain, found)]
    assert distances[1] < 0.5 * distances[0]
    recovery = found.facts["layers"]["recovery"]
    assert recovery["after"]["accuracy"] >= recovery["before"]["accuracy"]


def test_too_many_to_keep(deep: Scene) -> None:
    with pytest.raises(LubanError, match=r"6 shall stay of 6\n.*below 6"):
        Layers(Options(keep=6)).apply(deep.candidate, deep.material)


def test_every_family_keeps_its_lowest_layers(family: str, random_body: Callable[[str], Any], deep: Scene) -> None:
    body = random_body(family)
    model = TaskModel(body, PooledHead(32, 2, dropout=0.0, pooling="mean")).eval()
    if family == "albert":
        with pytest.raises(LubanError, match="share their weights"):
            Layers(Options(keep=1)).apply(Candidate(model, deep.candidate.processor), deep.material)
        return
    ids = torch.arange(4, 20).reshape(2, 8)
    cut = without(model, [0])
    with torch.inference_mode():
        states = body(input_ids=ids, output_hidden_states=True).hidden_states
        wanted = body.final_norm(states[1]) if family == "modernbert" else states[1]
        found = cut.body(input_ids=ids).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-6)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())


def test_layers_of_other_shapes_move_with_their_weights(deep: Scene) -> None:
    narrow = make(Plugin(kind="prune", options={"heads": 0.5, "width": 0.5, **PLAIN})).apply(
        deep.candidate, deep.material
    )
    thin = make(Plugin(kind="factorise", options={"embeddings": 0, "feed_forward": 8, **PLAIN})).apply(
        narrow, deep.material
    )
    found = Layers(Options(keep=2, **PLAIN)).apply(thin, deep.material)
    last = found.model.body.encoder.layer[1]  # type: ignore[union-attr, index]
    wanted = thin.model.body.encoder.layer[5]  # type: ignore[union-attr, index]
    assert last.attention.self.query.out_features == 16
    assert torch.equal(last.output.dense.up.weight, wanted.output.dense.up.weight)


def test_the_head_reads_what_stays_before_anything_is_learned(deep: Scene, tmp_path: Path) -> None:
    """With a head that was fitted again, the cut model is nearer to the whole one, and so is what it learns."""
    material = replace(deep.material, folder=tmp_path / "states")
    whole = deep.logits(deep.candidate)
    plain = without(deep.candidate.model, [0])
    fitted = without(deep.candidate.model, [0])
    _refit(fitted, deep.candidate, material)
    far, near = (
        np.square(deep.logits(Candidate(model, deep.candidate.processor)) - whole).mean() for model in (plain, fitted)
    )
    assert near < 0.5 * far
    assert all(
        torch.equal(one, other)
        for one, other in zip(plain.body.state_dict().values(), fitted.body.state_dict().values(), strict=True)
    )
