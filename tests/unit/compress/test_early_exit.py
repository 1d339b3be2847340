"""Leaving early: windows that are sure take the early answer, the others that of all layers, in float and in int8."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.compress.scene import Scene, made

from luban.bundle import early
from luban.bundle.graph import Graph
from luban.bundle.runtimes import onnx
from luban.compress import Candidate, make
from luban.compress.methods.early_exit import bound
from luban.errors import LubanError
from luban.models.heads import EARLY, EarlyHead, TaskModel
from luban.models.windows import pad
from luban.project.schema import Plugin
from luban.records import Encoded

BRIEF = {"recover_epochs": 2.0, "learning_rate": 1e-3}


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a trained model of four layers."""
    return made(tmp_path_factory, "classify", layers=4)


@pytest.fixture(scope="session")
def left(deep: Scene, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """Return it with an early head after two."""
    folder = tmp_path_factory.mktemp("left")
    return step("early-exit", after=2, max_disagreement=0.05, **BRIEF).apply(deep.candidate, of(deep, folder))  # type: ignore[no-any-return]


def step(kind: str, **options: Any) -> Any:
    return make(Plugin(kind=kind, options=options))


def of(scene: Scene, folder: Path) -> Any:
    return replace(scene.material, folder=folder / "states")


def windows(scene: Scene, candidate: Candidate) -> Encoded:
    return scene.material.task.encode(scene.material.train, candidate.processor)


def graph(scene: Scene, candidate: Candidate, folder: Path, kind: str) -> bytes:
    """Return the graph with three outputs, in float or in integers."""
    rows = windows(scene, candidate)
    onnx.write(candidate.model, folder, rows)
    data = (folder / onnx.GRAPH).read_bytes()
    if kind == "float":
        return data
    small, facts = step("quantise", max_disagreement=1.0).apply(data, rows, onnx.runner)
    assert facts["operators"] > 0
    return bytes(small)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_each_window_gets_its_own_answer(deep: Scene, left: Candidate, tmp_path: Path, kind: str) -> None:
    data, rows = graph(deep, left, tmp_path, kind), windows(deep, left)
    batch = pad(rows, np.arange(len(rows)), left.processor.pad_id)
    given = batch["input_ids"], batch["attention_mask"]
    whole = onnx.runner(data)
    late, soon = whole.run(*given), whole.giving(early.EARLY_LOGITS).run(*given)
    head = left.model.early
    assert head is not None
    top = np.exp(soon / head.temperature)
    top = top.max(1) / top.sum(1)
    middle = float(np.median(top))
    for sure in (0.0, middle, 1.1):
        folded = onnx.runner(early.fold(data, sure=sure, temperature=head.temperature))
        wanted = np.where((top < sure)[:, None], late, soon)
        assert np.abs(folded.run(*given) - wanted).max() < 1e-4
        for window in range(6):
            one = pad(rows, np.array([window]), left.processor.pad_id)
            alone = folded.run(one["input_ids"], one["attention_mask"])
            assert np.abs(alone[0] - wanted[window]).max() < 1e-3
    assert (top < middle).any() and (top >= middle).any()
    assert np.abs(late - soon).max() > 1e-2, "the two heads answer alike, so that nothing was compared"


def test_the_layers_above_are_stored_once_and_not_run_for_the_sure(
    deep: Scene, left: Candidate, tmp_path: Path
) -> None:
    data = graph(deep, left, tmp_path, "float")
    folded = early.fold(data, sure=0.5, temperature=1.0)
    assert folded == early.fold(data, sure=0.5, temperature=1.0), "equal graphs give equal bytes"
    assert len(folded) < 1.05 * len(data)
    found = Graph(folded)
    assert found.outputs == [early.LOGITS]
    branches = {
        attribute.name: attribute.g
        for node in found.nodes if node.op_type == "If" for attribute in node.attribute
    }  # fmt: skip
    above, spared = branches["then_branch"], branches["else_branch"]
    products = [node for node in above.node if node.op_type == "MatMul"]
    below = [node for node in found.nodes if node.op_type == "MatMul"]
    assert len(products) >= 4 and abs(len(products) - len(below)) <= 2
    assert [node.op_type for node in spared.node] == ["Identity"]
    assert above.initializer


def test_a_graph_without_an_early_head_is_refused(deep: Scene, tmp_path: Path) -> None:
    data = graph(deep, deep.candidate, tmp_path, "float")
    with pytest.raises(LubanError, match="no output early_"):
        early.fold(data, sure=0.5, temperature=1.0)


def test_layers_that_share_weights_can_not_be_told_apart(
    deep: Scene, random_body: Callable[[str], Any], tmp_path: Path
) -> None:
    body = random_body("albert")
    head = deep.material.task.head(body.config.hidden_size, dropout=0.0, pooling="mean")
    model = TaskModel(body, head).eval()
    head.add_module(EARLY, EarlyHead(copy.deepcopy(head), after=1))
    rows = windows(deep, deep.candidate)
    onnx.write(model, tmp_path, replace(rows, ids=rows.ids % body.config.vocab_size))
    with pytest.raises(LubanError, match="of the layers below") as refused:
        early.fold((tmp_path / onnx.GRAPH).read_bytes(), sure=0.5, temperature=1.0)
    assert refused.value.hint == "leave early-exit out of the plan"


def test_layers_go_first(left: Candidate, deep: Scene, tmp_path: Path) -> None:
    with pytest.raises(LubanError, match="early head"):
        step("layers", keep=2).apply(left, of(deep, tmp_path))
    with pytest.raises(LubanError, match="early head"):
        step("early-exit", after=1).apply(left, of(deep, tmp_path))


def test_what_it_can_not_be_put_on(deep: Scene, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(LubanError, match="after 4 of 4"):
        step("early-exit", after=4).apply(deep.candidate, of(deep, tmp_path))
    for kind in ("tag", "multi-label"):
        scene = made(tmp_path_factory, kind)
        with pytest.raises(LubanError, match="several answers"):
            step("early-exit", after=1).apply(scene.candidate, of(scene, tmp_path))


def test_a_head_that_is_never_sure_is_refused(deep: Scene, tmp_path: Path) -> None:
    """The layers above make of the texts what no linear layer can read below, and the heads are given no time."""
    model = copy.deepcopy(deep.candidate.model)
    with torch.no_grad():
        chance = torch.Generator().manual_seed(3)
        for layer in model.body.encoder.layer[1:]:  # type: ignore[union-attr, index]
            for weight in (layer.intermediate.dense.weight, layer.output.dense.weight):
                weight.copy_(torch.randn(weight.shape, generator=chance))
    plain = step("early-exit", after=1, max_disagreement=0.0, at_least=1.0, recover_epochs=0.0)
    with pytest.raises(LubanError, match="would leave after layer 1"):
        plain.apply(Candidate(model, deep.candidate.processor), of(deep, tmp_path))


def test_the_bound_lets_go_as_many_as_may_differ() -> None:
    early_logits = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.5]])
    last = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # the third and the fifth differ
    shares = 1 / (1 + np.exp(-np.array([4.0, 3.0, 2.0, 1.0, 0.5])))
    sure, leaving = bound(early_logits, last, 0.0)
    assert leaving == 0.4 and shares[2] < sure < shares[1]
    sure, leaving = bound(early_logits, last, 0.2)
    assert leaving == 0.8 and shares[4] < sure < shares[3]
    sure, leaving = bound(early_logits, last, 1.0)
    assert leaving == 1.0 and 0.0 < sure < shares[4]
    assert bound(early_logits[2:3], last[2:3], 0.0) == (1.0, 0.0)
    assert bound(np.zeros((0, 2)), np.zeros((0, 2)), 0.5) == (1.0, 0.0)
