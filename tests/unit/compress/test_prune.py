"""Structured pruning: what does nothing goes first, and what is left answers as if the rest were silent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from unit.compress.scene import Scene

from luban.compress import Candidate, surgery
from luban.compress.methods.prune import Options, Prune, importance
from luban.errors import LubanError
from luban.models.heads import PooledHead, TaskModel

PLAIN = {"recover_epochs": 0.0, "rows": 40}


def idle(candidate: Candidate, inputs: dict[str, np.ndarray]) -> Candidate:
    """Return a candidate in which nothing reads these inputs of these layers."""
    model = copy.deepcopy(candidate.model)
    with torch.no_grad():
        for path, units in inputs.items():
            model.body.get_submodule(path).weight[:, units] = 0.0  # type: ignore[union-attr, operator, index]
    return replace(candidate, model=model)


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_units_and_heads_that_do_nothing_go_first(kind: str, request: pytest.FixtureRequest) -> None:
    scene: Scene = request.getfixturevalue(kind)
    body = scene.candidate.model.body
    rng = np.random.default_rng(0)
    units = {part.down: rng.choice(128, 64, replace=False) for part in surgery.feed_forward(body)}
    heads = {part.outward: np.concatenate([np.arange(8), np.arange(16, 24)]) for part in surgery.attention(body)}
    candidate = idle(scene.candidate, {**units, **heads})
    found = Prune(Options(heads=0.5, width=0.5, **PLAIN)).apply(candidate, scene.material)
    assert np.abs(scene.logits(found) - scene.logits(candidate)).max() < 1e-5
    facts = found.facts["prune"]
    assert [facts[name] for name in ("heads", "heads_before", "units", "units_before")] == [2, 4, 64, 128]
    assert facts["parameters"] < facts["parameters_before"]
    config: Any = found.model.body.config
    assert config.intermediate_size == 64 and config.num_attention_heads == 4


def test_importance_is_what_the_loss_loses(classify: Scene) -> None:
    """Against the definition: the gradient of the loss, row by row, by a gate on each unit."""
    task, model = classify.material.task, classify.candidate.model
    rows = task.encode(classify.material.train, classify.candidate.processor)
    batches = surgery.batches(rows, np.arange(6), classify.candidate.processor.pad_id)
    path = surgery.feed_forward(model.body)[0].down
    found = importance(model, task, {path: 1}, batches)[path]
    wanted = np.zeros(128)
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            one = {name: part[row : row + 1] for name, part in batch.items()}
            gate = torch.ones(128, requires_grad=True)
            hook = model.body.get_submodule(path).register_forward_pre_hook(lambda m, given, g=gate: (given[0] * g,))
            logits = model(one["input_ids"], one["attention_mask"])
            task.loss(logits, one["targets"], one["attention_mask"], model.head).backward()
            hook.remove()
            assert gate.grad is not None
            wanted += gate.grad.abs().numpy() / 6
    model.zero_grad()
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-7)
    assert wanted.max() > 0


def test_it_can_be_done_twice(classify: Scene) -> None:
    once = Prune(Options(heads=0.5, width=0.5, **PLAIN)).apply(classify.candidate, classify.material)
    twice = Prune(Options(heads=0.5, width=0.5, **PLAIN)).apply(once, classify.material)
    assert (twice.facts["prune"]["heads"], twice.facts["prune"]["units"]) == (1, 32)


def test_units_come_in_eights(classify: Scene) -> None:
    found = Prune(Options(width=0.4, **PLAIN)).apply(classify.candidate, classify.material)
    assert found.facts["prune"]["units"] == 48
    assert "heads" not in found.facts["prune"]


def test_nothing_to_prune_is_an_error(classify: Scene) -> None:
    with pytest.raises(LubanError, match="nothing would go"):
        Prune(Options(width=1.0)).apply(classify.candidate, classify.material)


CAN_HAVE_FEWER_HEADS = {
    "bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "electra", "camembert", "ernie", "albert",
}  # fmt: skip


def test_every_family_gets_narrower_or_says_why_not(
    family: str, random_body: Callable[[str], Any], classify: Scene
) -> None:
    task, processor = classify.material.task, classify.candidate.processor
    model = TaskModel(random_body(family), PooledHead(32, 2, dropout=0.0, pooling="mean")).eval()
    encoded = task.encode(classify.material.train, processor)

    class Small:
        """The task with the few tokens that the random body has."""

        loss, per_token = task.loss, False

        def encode(self, rows: Any, processor: Any) -> Any:
            return replace(encoded, ids=encoded.ids % 50 + 5)

    material: Any = replace(classify.material, task=Small())
    found = Prune(Options(width=0.5, **PLAIN)).apply(Candidate(model, processor), material)
    assert found.facts["prune"]["units"] == 32
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in model.parameters())
    fewer = Prune(Options(heads=0.5, width=1.0, **PLAIN))
    if family in CAN_HAVE_FEWER_HEADS:
        assert fewer.apply(Candidate(model, processor), material).facts["prune"]["heads"] == 2
    else:
        with pytest.raises(LubanError, match=r"leave (this step|prune) out of the plan"):
            fewer.apply(Candidate(model, processor), material)
