"""Train magnitude and, at low rank, direction of the base's linear layers (Liu et al. 2024, "DoRA")."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from luban.adapters import lora

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the adapter `dora`."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the change of each layer's direction; its weights grow in step with it."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """The change is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability with which an input of the change is dropped in training."""
    targets: Literal["all", "attention"] = "all"
    """Linear layers that are changed: `all` of each layer, or those of its `attention`."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead, which keeps high ranks learning."""


def attach(body: torch.nn.Module, options: Options) -> torch.nn.Module:
    """Return the same body with the changes in its linear layers, and these alone to be trained.

    Slower than `lora` by about a third: each pass takes the norm of every changed matrix anew.

    Raises:
        MissingExtra: peft is not installed.
        PluginError: the base has no such linear layers.
    """
    return lora.inject(body, lora.Options(**asdict(options)), use_dora=True)


def merge(body: torch.nn.Module) -> torch.nn.Module:
    """Return the same body with the changes in its weights; merge a deep copy to go on training."""
    return lora.merge(body)
