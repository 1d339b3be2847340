"""Dropout that costs little on a CPU, where torch draws its random numbers one by one in a single thread.

Masks come from 16-bit numbers of numpy's SFC64, seeded anew for every step, so that nothing about them has to be saved
to resume. On other devices torch's own dropout stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

ATTENTION = "luban"


class Noise:
    """The source of masks that all dropouts of one model share."""

    def __init__(self) -> None:
        self._rng = np.random.Generator(np.random.SFC64(0))

    def begin(self, seed: int, step: int) -> None:
        """Start the numbers of one step."""
        self._rng = np.random.Generator(np.random.SFC64([seed, step]))

    def drop(self, x: torch.Tensor, p: float) -> torch.Tensor:
        """Return x with a share p of its values at 0 and the others scaled up by 1 / (1 - p)."""
        bits = np.frombuffer(self._rng.bytes(2 * x.numel()), np.int16)
        keep = torch.from_numpy(bits.copy()).view(x.shape) >= round(p * 65536) - 32768
        return x * keep.to(x.dtype).mul_(1.0 / (1.0 - p))


class FastDropout(nn.Module):
    """`nn.Dropout` fed by a `Noise`."""

    def __init__(self, p: float, noise: Noise) -> None:
        super().__init__()
        self.p = p
        self.noise = noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop values in training; return x unchanged otherwise."""
        return self.noise.drop(x, self.p) if self.training and self.p else x


def install(model: nn.Module, body: nn.Module) -> Noise:
    """Put fast dropout into a model, in its attention too where the architecture lets attention be exchanged."""
    noise = Noise()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, FastDropout(child.p, noise))
    config: Any = body.config
    if getattr(body, "_supports_attention_backend", False) and config._attn_implementation == "sdpa":
        _register()
        for module in body.modules():
            module.noise = noise  # type: ignore[assignment]  # attention is one function for all: it asks its module
        body.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    return noise


def _register() -> None:
    """Offer attention over plain products: in training on short windows it beats the fused kernel."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend; query, key and value are (B, heads, L, width), the result (B, L, heads, width)."""
        scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(2, 3))
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = scores.softmax(-1)
        if dropout and module.training:
            weights = module.noise.drop(weights, dropout)  # type: ignore[operator, union-attr]
        return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).contiguous(), None

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
