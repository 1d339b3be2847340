"""Adapters: how a base is changed by training. One file a method: `Options`, `attach`, `merge`.

One that changes linear layers by matrices of low rank, and leaves all else of the base as it is, also has
`low_rank(body, options)`, the paths of these layers: tasks that are trained with it can share their base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from luban.errors import PluginError
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


def attach(body: torch.nn.Module, kind: str, options: Mapping[str, Any]) -> torch.nn.Module:
    """Put an adapter, by name, into a body."""
    module = catalogue.load(kind)
    attached: torch.nn.Module = module.attach(body, module.Options(**options))
    return attached


def low_rank(body: torch.nn.Module, kind: str, options: Mapping[str, Any]) -> list[str]:
    """Return the paths of the linear layers of a plain body that an adapter, by name, changes by low rank.

    Raises:
        PluginError: it changes a base in other ways.
    """
    module = catalogue.load(kind)
    if not hasattr(module, "low_rank"):
        raise PluginError(
            f"the adapter {kind} changes the base's own weights, so that tasks can't share it",
            hint="set `train.adapter: {kind: lora}` or `train.freeze: base`, or `export.runtime: onnx`",
        )
    found: list[str] = module.low_rank(body, module.Options(**options))
    return found


def merge(body: torch.nn.Module, kind: str) -> torch.nn.Module:
    """Return a plain body that computes what the body with the adapter does."""
    merged: torch.nn.Module = catalogue.load(kind).merge(body)
    return merged
