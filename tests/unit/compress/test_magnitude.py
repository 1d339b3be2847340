"""Unstructured pruning: zeros where weights were small, that stay zero, and facts that promise no speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from unit.compress.scene import Scene

from luban.compress import Candidate, surgery
from luban.compress.methods import distil
from luban.compress.methods.magnitude import Magnitude, Options


def matrices(candidate: Candidate) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = {}
    for layer in surgery.linears(candidate.model.body):
        found |= {path: module.weight.detach() for path, module in layer.items()}
    return found


@pytest.mark.parametrize("across", ["matrix", "model"])
def test_the_smallest_weights_are_zero(across: Any, classify: Scene) -> None:
    found = Magnitude(Options(sparsity=0.6, across=across, recover_epochs=0.0)).apply(
        classify.candidate, classify.material
    )
    before, after = matrices(classify.candidate), matrices(found)
    shares = [float((matrix == 0).float().mean()) for matrix in after.values()]
    zeros = sum(int((matrix == 0).sum()) for matrix in after.values())
    assert zeros / sum(matrix.numel() for matrix in after.values()) == pytest.approx(0.6, abs=0.002)
    assert (max(shares) - min(shares) < 0.002) == (across == "matrix")
    largest_gone = {path: float(before[path][after[path] == 0].abs().max()) for path in after}
    smallest_left = {path: float(after[path][after[path] != 0].abs().min()) for path in after}
    if across == "matrix":
        assert all(largest_gone[path] < smallest_left[path] for path in after)
    else:
        assert max(largest_gone.values()) < min(smallest_left.values())
    assert all(torch.equal(before[path][after[path] != 0], after[path][after[path] != 0]) for path in after)


def test_it_is_told_that_nothing_is_smaller(classify: Scene) -> None:
    facts = Magnitude(Options(sparsity=0.9, recover_epochs=0.0)).apply(classify.candidate, classify.material).facts
    told = facts["magnitude"]
    assert told["parameters"] == surgery.parameters(classify.candidate.model)
    assert "no time is saved" in told["not_smaller"]
    assert told["share_of_matrices"] == pytest.approx(0.9, abs=0.002)
    assert told["matrices_packed_mb"] < 0.35 * told["matrices_mb"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_learning_leaves_zeros_where_they_are(optimizer: str, classify: Scene, tmp_path: Path) -> None:
    material = classify.with_settings(tmp_path, optimizer=optimizer, ema=0.9, weight_decay=0.1)
    plain = Magnitude(Options(sparsity=0.7, recover_epochs=0.0)).apply(classify.candidate, material)
    model, _ = distil.teach(plain, material, distil.Options(epochs=1, learning_rate=1e-3))
    after = matrices(Candidate(model, plain.processor))
    changed = False
    for path, matrix in matrices(plain).items():
        assert not after[path][matrix == 0].any(), path
        changed |= not torch.equal(after[path], matrix)
    assert changed
