"""Train the base's biases alone, a thousandth of its weights (Ben Zaken et al. 2022, "BitFit")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luban.errors import PluginError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the adapter `bitfit`."""

    norms: bool = False
    """Train the scales of layer norms too, which are as few as their biases."""


def attach(body: torch.nn.Module, options: Options) -> torch.nn.Module:
    """Return the body itself, its biases to be trained.

    Raises:
        PluginError: the base has none of what is to be trained, as ModernBERT has no biases.
    """
    body.requires_grad_(False)
    n_trained = 0
    for module in body.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or (options.norms and parameter.ndim == 1):
                parameter.requires_grad_(True)
                n_trained += 1
    if not n_trained:
        raise PluginError(
            f"{type(body).__name__} has no biases for bitfit to train",
            hint="set norms: true to train its layer norms, or choose the adapter lora",
        )
    return body


def merge(body: torch.nn.Module) -> torch.nn.Module:
    """Return the body itself: nothing was added to it."""
    return body
