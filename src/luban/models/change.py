"""What training changed of a base: matrices of low rank beside weights that stayed as they were.

They are found by comparing the trained body with the base, so that a checkpoint need not keep them apart, and one that
was trained before is as good. The rank of a change is that of the adapter which made it, whatever it was merged into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn import functional

from luban.errors import LubanError

DOWN, UP = "down", "up"
"""Names of a change's two matrices, in this order."""
Factors = tuple[torch.Tensor, torch.Tensor]
"""(in, rank) and (rank, out): the layer's outputs for inputs x change by x @ first @ second."""
_NOTHING = 1e-7
"""Share of a change's largest singular value below which one is rounding."""


class Trunk(nn.Module):
    """A base's body alone: token ids in, hidden states out."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return hidden states (B, L, width) for ids and mask (B, L)."""
        hidden: torch.Tensor = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


class ChangedLinear(nn.Module):
    """A linear layer beside a change of low rank, with its bias last, where fused operators take it."""

    def __init__(self, linear: nn.Linear, down: torch.Tensor, up: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs (..., out) for inputs (..., in)."""
        found = functional.linear(x, self.weight) + (x @ self.down) @ self.up
        return found if self.bias is None else found + self.bias


def put(body: nn.Module, found: Mapping[str, Factors]) -> nn.Module:
    """Put changes beside the linear layers of a body, in place, and return it."""
    for path, (down, up) in found.items():
        linear = body.get_submodule(path)
        assert isinstance(linear, nn.Linear), path
        body.set_submodule(path, ChangedLinear(linear, down, up))
    return body


def changes(trained: nn.Module, base: nn.Module, layers: Iterable[str]) -> dict[str, Factors]:
    """Return the path of each linear layer -> its change, all of one rank, 1 at least.

    Args:
        trained: a plain body.
        base: what it was trained from.
        layers: paths of the linear layers that may have changed.

    Raises:
        LubanError: something else changed, or a layer in more than a low rank.
    """
    paths = list(layers)
    free = {f"{path}.weight" for path in paths}
    before = dict(base.named_parameters())
    other = [name for name, part in trained.named_parameters() if name not in before]
    other += [
        name for name, part in trained.named_parameters()
        if name not in free and name in before and not torch.equal(part, before[name])
    ]  # fmt: skip
    if other or len(before) != len(dict(trained.named_parameters())):
        raise _refusal(f"{len(other)} of its weights are not the base's, {min(other, default='')} among them")
    found = {path: _factors(path, trained, before) for path in paths}
    rank = max((down.shape[1] for down, _ in found.values()), default=1)
    return {path: _padded(factors, max(1, rank)) for path, factors in found.items()}


def _factors(path: str, trained: nn.Module, before: Mapping[str, torch.Tensor]) -> Factors:
    """Return a layer's change as two matrices whose rank is that of all that rounding does not explain."""
    name = f"{path}.weight"
    base, after = before[name].detach().double(), trained.get_parameter(name).detach().double()
    change = after - base
    if not change.any():
        return torch.zeros(base.shape[1], 0), torch.zeros(0, base.shape[0])
    # The squares of the singular values: far faster than those themselves, and in fp64 as good for an fp32 change.
    wide = change.shape[1] > change.shape[0]
    squares, vectors = torch.linalg.eigh(change @ change.T if wide else change.T @ change)
    sizes = squares.clamp(min=0).sqrt()
    # Adding a change to a weight rounds the sum by half of its last bit: a random matrix, of this norm.
    last_bit = torch.finfo(torch.float32).eps * after.square().mean().sqrt()
    rounding = last_bit * (base.shape[0] ** 0.5 + base.shape[1] ** 0.5)
    kept = vectors[:, sizes > torch.maximum(rounding, sizes.max() * _NOTHING)]
    if kept.shape[1] * sum(base.shape) > base.numel():
        raise _refusal(f"{name} changed in {kept.shape[1]} directions of {min(base.shape)}, which is no low rank")
    down, up = (change.T @ kept, kept.T) if wide else (kept, kept.T @ change.T)
    return down.float().contiguous(), up.float().contiguous()


def _padded(factors: Factors, rank: int) -> Factors:
    down, up = factors
    more = rank - down.shape[1]
    return functional.pad(down, (0, more)), functional.pad(up, (0, 0, 0, more))


def _refusal(reason: str) -> LubanError:
    return LubanError(
        f"the model can't share its base with other tasks: {reason}",
        hint="train with `train.adapter: {kind: lora}` or `train.freeze: base`, or set `export.runtime: onnx`",
    )
