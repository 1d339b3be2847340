"""Train magnitude and, at low rank, direction of the base's linear layers (Liu et al. 2024, "DoRA")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luban.adapters import lora

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options(lora.Options):
    """Settings of the adapter `dora`: those of `lora`."""


def attach(body: torch.nn.Module, options: Options) -> torch.nn.Module:
    """Return the same body with the changes in its linear layers, and these alone to be trained.

    Slower than `lora` by about a third: each pass takes the norm of every changed matrix anew.

    Raises:
        MissingExtra: peft is not installed.
        PluginError: the base has no such linear layers.
    """
    return lora.inject(body, options, use_dora=True)


def merge(body: torch.nn.Module) -> torch.nn.Module:
    """Return the same body with the changes in its weights; merge a deep copy to go on training."""
    return lora.merge(body)
