"""Make large matrices products of two thin ones: token vectors first of all, feed-forward matrices if wanted.

The error that is made least is that of what the data put through a matrix, not that of its numbers: token vectors count
as often as the rows hold them, and a feed-forward matrix is cut to the directions that its outputs on real rows have
most of (as Chen et al. 2021, "DRONE", weigh by inputs).

Legend: V tokens, D width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.methods.distil import recover
from luban.errors import LubanError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luban.models.heads import TaskModel

WORKS_ON = "model"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `factorise`."""

    embeddings: Annotated[int, Field(ge=0)] = 128
    """Rank of the token vectors' matrix: a token takes so many numbers; 0 leaves the matrix whole."""
    feed_forward: Annotated[int, Field(ge=0)] = 0
    """Rank of each feed-forward matrix; 0 leaves them whole."""
    rows: Annotated[int, Field(ge=1)] = 512
    """Windows of the training rows on which the feed-forward outputs are measured."""
    recover_epochs: Annotated[float, Field(ge=0.0)] = 3.0
    """Passes over the rows in which the model learns the uncompressed one's answers again; 0 leaves it as it is."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate of the recovery."""


def make(options: Options) -> Factorise:
    """Return the method."""
    return Factorise(options)


class Factorise:
    """Low-rank factors, weighted by what the data need."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with thin factors in the place of large matrices.

        Raises:
            LubanError: a rank is so high that factors would not be smaller, or nothing is to be factorised.
            TrainError: the recovery could not go on.
        """
        from luban.models import shapes

        model, rows = candidate.model, material.task.encode(material.train, candidate.processor)
        if not self.options.embeddings and not self.options.feed_forward:
            raise LubanError("factorise: nothing would be factorised", hint="set embeddings or feed_forward above 0")
        weights, told = dict(model.body.state_dict()), shapes.of(model.body)
        low_rank = dict(told.get("low_rank", {}))
        facts: dict[str, Any] = {}
        if rank := self.options.embeddings:
            path = _embeddings(model.body)
            matrix = weights.pop(f"{path}.weight")
            _check_smaller("embeddings", rank, *matrix.shape)
            counts = np.bincount(rows.ids, minlength=len(matrix))
            lookup, up, share = factors_of_rows(matrix, counts, rank)
            weights |= {f"{path}.lookup.weight": lookup, f"{path}.up.weight": up}
            low_rank[path] = [matrix.shape[0], rank, matrix.shape[1]]
            facts["embeddings"] = {"rank": rank, "kept": share}
        if rank := self.options.feed_forward:
            windows = surgery.sample(rows, self.options.rows, material.settings.seed)
            batches = surgery.batches(rows, windows, candidate.processor.pad_id)
            paths = [path for part in surgery.feed_forward(model.body) for path in (part.up, part.down)]
            shares = []
            for path, moments in second_moments(model, paths, batches).items():
                matrix = weights.pop(f"{path}.weight")
                _check_smaller("feed_forward", rank, *matrix.shape)
                down, up, share = factors_of_outputs(matrix, moments, rank)
                weights |= {f"{path}.down.weight": down, f"{path}.up.weight": up}
                if f"{path}.bias" in weights:
                    weights[f"{path}.up.bias"] = weights.pop(f"{path}.bias")
                low_rank[path] = [matrix.shape[1], rank, matrix.shape[0]]
                shares.append(share)
            facts["feed_forward"] = {"rank": rank, "kept": round(float(np.mean(shares)), 4)}
        resized = {path: size for path, size in told.get("resized", {}).items() if path not in low_rank}
        thin = surgery.rebuilt(model, weights, shapes={"resized": resized, "low_rank": low_rank})
        thin, recovery = recover(
            thin, candidate, material, epochs=self.options.recover_epochs,
            learning_rate=self.options.learning_rate, train_embeddings=self.options.embeddings > 0,
        )  # fmt: skip
        facts |= {
            "parameters": surgery.parameters(thin),
            "parameters_before": surgery.parameters(model),
            **recovery,
        }
        return Candidate(thin, candidate.processor, {**candidate.facts, "factorise": facts})


def _embeddings(body: nn.Module) -> str:
    """Return the path of the matrix of token vectors.

    Raises:
        LubanError: it is a product of two already.
    """
    import torch

    from luban.models.body import words

    matrix = words(body)
    if not isinstance(matrix, torch.nn.Embedding):
        raise LubanError("factorise: the token vectors are factorised already", hint="set embeddings: 0")
    path: str = next(path for path, module in body.named_modules() if module is matrix)
    return path


def _check_smaller(name: str, rank: int, rows: int, columns: int) -> None:
    """Raise a LubanError if two factors would not be smaller than the matrix."""
    if rank * (rows + columns) >= rows * columns:
        most = (rows * columns - 1) // (rows + columns)
        raise LubanError(
            f"factorise: factors of rank {rank} are no smaller than the matrix of {rows:,} x {columns:,} itself",
            hint=f"set {name} to {most} or less" if most else f"leave {name} at 0",
        )


def factors_of_rows(matrix: torch.Tensor, counts: np.ndarray, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return (V, R) and (D, R), whose product A B^T is nearest to a matrix (V, D) whose rows count by their use.

    Returns:
        Both factors, and the share of the weighted squares that they keep.
    """
    import torch

    weight = torch.from_numpy(np.asarray(counts, np.float64) + 1.0)  # rows that the data never use count a little
    wide = matrix.double()
    values, vectors = torch.linalg.eigh((wide * weight[:, None]).T @ wide)
    basis = _settled(vectors.flip(1)[:, :rank])
    share = float(values.flip(0)[:rank].sum() / values.sum())
    return (wide @ basis).to(matrix.dtype), basis.to(matrix.dtype).contiguous(), round(share, 4)


def factors_of_outputs(
    matrix: torch.Tensor, moments: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return (R, in) and (out, R), whose product is nearest to a matrix W (out, in) in what it does to real inputs.

    With U the main directions of the outputs, U U^T W is the matrix of its rank that changes them least.

    Args:
        matrix: (out, in).
        moments: (in, in), the mean of x x^T over inputs x.
        rank: R.
    """
    import torch

    wide = matrix.double()
    values, vectors = torch.linalg.eigh(wide @ moments @ wide.T)
    basis = _settled(vectors.flip(1)[:, :rank])
    share = float(values.flip(0)[:rank].clamp(min=0).sum() / values.clamp(min=0).sum().clamp(min=1e-30))
    return (basis.T @ wide).to(matrix.dtype), basis.to(matrix.dtype).contiguous(), round(share, 4)


def _settled(basis: torch.Tensor) -> torch.Tensor:
    """Return the basis with the largest entry of each direction positive: solvers are free to choose the sign."""
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * largest.sign()


def second_moments(
    model: TaskModel, paths: Sequence[str], batches: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Return path -> (in, in) float64: the mean of x x^T over the inputs x, at tokens, of the linear layers there."""
    import torch

    body: Any = model.body
    found = {path: torch.zeros(2 * (body.get_submodule(path).in_features,), dtype=torch.float64) for path in paths}
    real = torch.zeros(0, dtype=torch.bool)

    def hook(path: str) -> Any:
        def add(module: nn.Module, given: tuple[torch.Tensor]) -> None:
            x = given[0].detach()[real]
            found[path] += (x.T @ x).double()

        return add

    handles = [body.get_submodule(path).register_forward_pre_hook(hook(path)) for path in paths]
    n_tokens = 0
    try:
        for batch in batches:
            real = batch["attention_mask"] > 0
            n_tokens += int(real.sum())
            surgery.logits(model, [batch])
    finally:
        for handle in handles:
            handle.remove()
    return {path: value / max(1, n_tokens) for path, value in found.items()}
