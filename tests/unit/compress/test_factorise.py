"""Low-rank factors: exact where the rank suffices, best where the data are, refused where they save nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from unit.compress.scene import Scene

from luban.compress import Candidate, surgery
from luban.compress.methods.factorise import Factorise, Options, factors_of_outputs, factors_of_rows, second_moments
from luban.errors import LubanError

PLAIN = {"recover_epochs": 0.0}


def low_rank(scene: Scene, rank: int) -> Candidate:
    """Return a candidate whose token vectors and feed-forward matrices have no higher rank."""
    model = copy.deepcopy(scene.candidate.model)
    body = model.body
    paths = [path for part in surgery.feed_forward(body) for path in (part.up, part.down)]
    with torch.no_grad():
        for module in [body.get_input_embeddings(), *map(body.get_submodule, paths)]:  # type: ignore[operator]
            u, s, v = torch.linalg.svd(module.weight, full_matrices=False)
            module.weight.copy_(u[:, :rank] * s[:rank] @ v[:rank])
    return replace(scene.candidate, model=model)


def test_nothing_is_lost_where_the_rank_suffices(tag: Scene) -> None:
    candidate = low_rank(tag, 6)
    found = Factorise(Options(embeddings=6, feed_forward=6, **PLAIN)).apply(candidate, tag.material)
    assert np.abs(tag.logits(found) - tag.logits(candidate)).max() < 1e-4
    facts = found.facts["factorise"]
    assert facts["embeddings"] == {"rank": 6, "kept": 1.0}
    assert facts["feed_forward"] == {"rank": 6, "kept": 1.0}
    assert facts["parameters"] == surgery.parameters(found.model) < 0.5 * facts["parameters_before"]


def test_less_rank_keeps_less(classify: Scene) -> None:
    found = [
        Factorise(Options(embeddings=rank, **PLAIN)).apply(classify.candidate, classify.material) for rank in (4, 16)
    ]
    kept = [one.facts["factorise"]["embeddings"]["kept"] for one in found]
    assert 0 < kept[0] < kept[1] < 1
    errors = [np.abs(classify.logits(one) - classify.logits(classify.candidate)).mean() for one in found]
    assert errors[0] > errors[1]


def test_rows_that_the_data_hold_are_kept_best() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 12, generator=generator)
    counts = np.zeros(40, np.int64)
    counts[:5] = 1000
    lookup, up, _ = factors_of_rows(matrix, counts, 6)
    plain, plain_up, _ = factors_of_rows(matrix, np.zeros(40, np.int64), 6)
    errors = (lookup @ up.T - matrix).square().sum(1)
    plain_errors = (plain @ plain_up.T - matrix).square().sum(1)
    assert errors[:5].max() < 0.05 * plain_errors[:5].max()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(plain @ plain_up.T, u[:, :6] * s[:6] @ v[:6], atol=1e-4)  # Eckart and Young


def test_outputs_on_real_inputs_are_kept_best() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 10, generator=generator)
    inputs = torch.randn(500, 10, generator=generator) * torch.logspace(0, -2, 10)
    down, up, share = factors_of_outputs(matrix, (inputs.T @ inputs / 500).double(), 4)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    plain = u[:, :4] * s[:4] @ v[:4]
    wanted = inputs @ matrix.T
    error, plain_error = ((wanted - inputs @ (one.T)).square().sum() for one in (up @ down, plain))
    best = torch.linalg.svdvals(wanted)[4:].square().sum()
    assert float(error) == pytest.approx(float(best), rel=1e-3)  # no matrix of this rank does better
    assert error < 0.5 * plain_error
    assert share == pytest.approx(1 - float(error / wanted.square().sum()), abs=1e-3)


def test_moments_are_those_of_tokens_not_of_padding(classify: Scene) -> None:
    model, task = classify.candidate.model, classify.material.task
    rows = task.encode(classify.material.train, classify.candidate.processor)
    path = surgery.feed_forward(model.body)[0].up
    found = [
        second_moments(model, [path], surgery.batches(rows, windows, 0))[path]
        for windows in (np.array([0, 1, 2]), np.array([0]), np.array([1]), np.array([2]))
    ]
    lengths = torch.from_numpy(rows.lengths[:3].astype(np.float64))
    alone = sum(moment * length for moment, length in zip(found[1:], lengths, strict=True)) / lengths.sum()
    assert len(set(rows.lengths[:3].tolist())) > 1
    assert torch.allclose(found[0], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"embeddings": 32}, r"rank 32 are no smaller.*\n.*embeddings to 31 or less"),
    ({"embeddings": 0, "feed_forward": 26}, r"rank 26 are no smaller than the matrix of 128 x 32.*\n.*to 25 or less"),
    ({"embeddings": 0}, "nothing would be factorised"),
])  # fmt: skip
def test_factors_that_save_nothing_are_refused(options: dict[str, int], message: str, classify: Scene) -> None:
    with pytest.raises(LubanError, match=message):
        Factorise(Options(**options, **PLAIN)).apply(classify.candidate, classify.material)


def test_token_vectors_are_factorised_once(classify: Scene) -> None:
    found = Factorise(Options(embeddings=8, **PLAIN)).apply(classify.candidate, classify.material)
    with pytest.raises(LubanError, match="factorised already"):
        Factorise(Options(embeddings=4, **PLAIN)).apply(found, classify.material)
    both = Factorise(Options(embeddings=0, feed_forward=8, **PLAIN)).apply(found, classify.material)
    assert surgery.parameters(both.model) < surgery.parameters(found.model)
