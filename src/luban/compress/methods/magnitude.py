"""Set the smallest weights to zero: a model that packs smaller, and is neither smaller in memory nor faster.

Zeros here and there take the space and the time of other numbers in every dense product. What shrinks is the compressed
archive in which a bundle travels. For a model that is truly smaller and faster see `prune` and `layers`.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.methods.distil import recover
from luban.errors import LubanError

if TYPE_CHECKING:
    import torch

    from luban.models.heads import TaskModel

WORKS_ON = "model"
_WHY = (
    "zeros take the space of other numbers, on disk and in memory, and no time is saved: only an archive that is "
    "compressed for transport is smaller"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `magnitude`."""

    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the weights of the layers' matrices that becomes zero."""
    across: Literal["matrix", "model"] = "matrix"
    """The smallest weights of each matrix go, or the smallest of all matrices together."""
    recover_epochs: Annotated[float, Field(ge=0.0)] = 3.0
    """Passes over the rows in which the other weights learn the uncompressed model's answers again; 0 leaves them."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate of the recovery."""


def make(options: Options) -> Magnitude:
    """Return the method."""
    return Magnitude(options)


class Magnitude:
    """Unstructured pruning by magnitude (Han et al. 2015, "Learning both Weights and Connections")."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with the smallest weights of its layers at zero, where recovery leaves them.

        Raises:
            LubanError: the base has no linear layers.
            TrainError: the recovery could not go on.
        """
        model = copy.deepcopy(candidate.model)
        matrices = _matrices(model)
        if not matrices:
            raise LubanError(
                f"magnitude: {type(model.body).__name__} has no linear layers", hint="leave magnitude out of the plan"
            )
        self._clear(list(matrices.values()))
        model, recovery = recover(
            model, candidate, material,
            epochs=self.options.recover_epochs, learning_rate=self.options.learning_rate,
        )  # fmt: skip
        facts = {**_told(model), "not_smaller": _WHY, "parameters": surgery.parameters(model), **recovery}
        return Candidate(model, candidate.processor, {**candidate.facts, "magnitude": facts})

    def _clear(self, matrices: list[torch.Tensor]) -> None:
        """Set the smallest weights to zero, in place."""
        import torch

        groups = [matrices] if self.options.across == "model" else [[matrix] for matrix in matrices]
        with torch.no_grad():
            for group in groups:
                sizes = np.concatenate([matrix.detach().abs().numpy().ravel() for matrix in group])
                n_zeros = int(self.options.sparsity * len(sizes))
                if n_zeros:
                    limit = float(np.partition(sizes, n_zeros - 1)[n_zeros - 1])
                    for matrix in group:
                        matrix.masked_fill_(matrix.abs() <= limit, 0.0)


def _matrices(model: TaskModel) -> dict[str, torch.Tensor]:
    """Return path -> matrix of the linear layers within the body's layers."""
    found: dict[str, Any] = {}
    for layer in surgery.linears(model.body):
        found |= {path: module.weight for path, module in layer.items()}
    return found


def _told(model: TaskModel) -> dict[str, Any]:
    """Return how many weights are zero, and what packing makes of the matrices."""
    arrays = [matrix.detach().numpy() for matrix in _matrices(model).values()]
    n_zeros, n_all = sum(int((array == 0).sum()) for array in arrays), sum(array.size for array in arrays)
    packed = sum(len(zlib.compress(np.ascontiguousarray(array).data, level=1)) for array in arrays)
    return {
        "zeros": n_zeros,
        "share_of_matrices": round(n_zeros / n_all, 4),
        "share_of_model": round(n_zeros / surgery.parameters(model), 4),
        "matrices_mb": round(sum(array.nbytes for array in arrays) / 1e6, 3),
        "matrices_packed_mb": round(packed / 1e6, 3),
    }
