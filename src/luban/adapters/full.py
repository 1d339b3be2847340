"""Train every weight of the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the adapter `full`: there are none."""


def attach(body: torch.nn.Module, options: Options) -> torch.nn.Module:
    """Return the body itself, all of it to be trained."""
    return body.requires_grad_(True)


def merge(body: torch.nn.Module) -> torch.nn.Module:
    """Return the body itself."""
    return body
