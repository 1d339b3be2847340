"""Layers of shapes that a configuration of transformers can't tell, and how `body.json` tells of them.

A compressed body may have attention with fewer heads than its width has room for, or matrices that are products of two
thin ones. Its configuration stays that of its family; what differs stands beside it, by the paths of its modules.

Legend: B windows, L tokens in the longest of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

KEY = "shapes"
"""Where `body.json` has them."""


class Resized(nn.Linear):
    """A linear layer of another shape than the configuration tells."""


class LowRankLinear(nn.Module):
    """A linear layer whose matrix is the product of two thin ones."""

    def __init__(self, in_features: int, rank: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., out_features) for x (..., in_features)."""
        out: torch.Tensor = self.up(self.down(x))
        return out

    def sizes(self) -> list[int]:
        """Return its widths: in, between, out."""
        return [self.down.in_features, self.down.out_features, self.up.out_features]


class LowRankEmbedding(nn.Module):
    """Token vectors that are narrow in the matrix and made wide after they were looked up."""

    def __init__(self, tokens: int, rank: int, width: int, *, padding_idx: int | None = None) -> None:
        super().__init__()
        self.lookup = nn.Embedding(tokens, rank, padding_idx=padding_idx)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return vectors (B, L, width) for ids (B, L)."""
        vectors: torch.Tensor = self.up(self.lookup(ids))
        return vectors

    def sizes(self) -> list[int]:
        """Return how many tokens there are, and the widths in the matrix and after it."""
        return [self.lookup.num_embeddings, self.lookup.embedding_dim, self.up.out_features]


def of(body: nn.Module) -> dict[str, dict[str, list[int]]]:
    """Return what a body has beyond its configuration, as JSON values: kind -> path -> sizes; empty for a plain one."""
    found: dict[str, dict[str, list[int]]] = {}
    for path, module in body.named_modules():
        if isinstance(module, Resized):
            found.setdefault("resized", {})[path] = [module.in_features, module.out_features]
        elif isinstance(module, LowRankLinear | LowRankEmbedding):
            found.setdefault("low_rank", {})[path] = module.sizes()
    return found


def put(body: nn.Module, shapes: Mapping[str, Mapping[str, list[int]]]) -> None:
    """Give a body, in place, the layers that `of` told; their weights are still to be loaded.

    Raises:
        ValueError: a kind that is not known, or a path at which no layer of its kind stands.
        AttributeError: a path that the body has not.
    """
    if unknown := set(shapes) - {"resized", "low_rank"}:
        raise ValueError(f"unknown shapes: {', '.join(sorted(unknown))}")
    for path, sizes in shapes.get("resized", {}).items():
        old = body.get_submodule(path)
        if not isinstance(old, nn.Linear):
            raise ValueError(f"{path} is no linear layer")
        before, after = sizes
        exchange(body, path, Resized(before, after, bias=old.bias is not None))
    for path, sizes in shapes.get("low_rank", {}).items():
        exchange(body, path, _low_rank(body.get_submodule(path), path, sizes))


def _low_rank(old: nn.Module, path: str, sizes: list[int]) -> nn.Module:
    first, rank, last = sizes
    if isinstance(old, nn.Linear):
        return LowRankLinear(first, rank, last, bias=old.bias is not None)
    if isinstance(old, nn.Embedding):
        return LowRankEmbedding(first, rank, last, padding_idx=old.padding_idx)
    raise ValueError(f"{path} is neither a linear layer nor an embedding")


def exchange(body: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at a path."""
    above, _, name = path.rpartition(".")
    setattr(body.get_submodule(above), name, module)
