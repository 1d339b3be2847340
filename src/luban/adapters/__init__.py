"""Adapters: how a base is changed by training. One file a method: `Options`, `attach`, `merge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from luban.plugins import Catalogue

if TYPE_CHECKING:
    import torch

catalogue = Catalogue("luban.adapters", "adapter")


class Adapter(Protocol):
    """What an adapter's module offers."""

    Options: type[Any]

    def attach(self, body: torch.nn.Module, options: Any) -> torch.nn.Module:
        """Return the body with the adapter in it, `requires_grad` set on what is trained."""
        ...

    def merge(self, body: torch.nn.Module) -> torch.nn.Module:
        """Return a plain body that computes the same, with no trace of the adapter in its parameter names."""
        ...
