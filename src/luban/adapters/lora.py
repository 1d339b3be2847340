"""Train a low-rank change of the base's linear layers (Hu et al. 2022, "LoRA")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from luban.errors import MissingExtra, PluginError, install

if TYPE_CHECKING:
    import torch

NAME = "luban"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the adapter `lora`."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the change of each layer; its weights grow in step with it."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """The change is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability with which an input of the change is dropped in training."""
    targets: Literal["all", "attention"] = "all"
    """Linear layers that are changed: `all` of each layer, or those of its `attention`."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead, which keeps high ranks learning (Kalajdzievski 2023, "rsLoRA")."""


def attach(body: torch.nn.Module, options: Options) -> torch.nn.Module:
    """Return the same body with low-rank changes in its linear layers, and these alone to be trained.

    The changes begin at zero: the body computes at first what it did before.

    Raises:
        MissingExtra: peft is not installed.
        PluginError: the base has no such linear layers.
    """
    return inject(body, options, use_dora=False)


def inject(body: torch.nn.Module, options: Options, *, use_dora: bool) -> torch.nn.Module:
    """Put peft's layers into a body, in place; the body keeps its class and the places of its layers."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingExtra("the adapters lora and dora need peft, which is not installed",
                           hint=install("train")) from error  # fmt: skip
    settings: dict[str, Any] = {
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "use_rslora": options.rank_stabilised,
        "use_dora": use_dora,
        "target_modules": _linear_layers(body, options.targets),
        "bias": "none",
    }
    body.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(**settings), body, adapter_name=NAME)
    return body


def low_rank(body: torch.nn.Module, options: Options) -> list[str]:
    """Return the paths of the linear layers of a plain body that are changed; all else stays as it is."""
    return _linear_layers(body, options.targets)


def merge(body: torch.nn.Module) -> torch.nn.Module:
    """Return the same body with the changes added to its weights, and without peft's layers.

    The body is changed in place: to go on training, merge a deep copy.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.no_grad():
        for path, module in list(body.named_modules()):
            if isinstance(module, BaseTunerLayer):
                layer: Any = module
                layer.merge(safe_merge=True, adapter_names=[NAME])
                parent, _, name = path.rpartition(".")
                setattr(body.get_submodule(parent), name, layer.get_base_layer())
    if hasattr(body, "peft_config"):
        del body.peft_config
    return body


def _linear_layers(body: torch.nn.Module, targets: str) -> list[str]:
    """Return the paths of the linear layers to change; all families name the modules of attention after it."""
    import torch

    found = [
        path
        for path, module in body.named_modules()
        if isinstance(module, torch.nn.Linear) and (targets == "all" or "att" in path.lower())
    ]
    if not found:
        raise PluginError(
            f"{type(body).__name__} has no linear layers ({targets}) for lora to change", hint="choose the adapter full"
        )
    return found
