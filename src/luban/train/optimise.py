"""Optimisers, parameter groups and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from luban.project.schema import TrainSection


def freeze(body: nn.Module, embeddings: nn.Module, layers: Sequence[nn.Module], settings: TrainSection) -> None:
    """Switch off training of what the settings freeze."""
    if settings.freeze == "base":
        body.requires_grad_(False)
        return
    if settings.freeze == "embeddings" or settings.freeze_layers:
        embeddings.requires_grad_(False)
    for layer in layers[: settings.freeze_layers]:
        layer.requires_grad_(False)


def groups(
    body: nn.Module, head: nn.Module, layers: Sequence[nn.Module], settings: TrainSection
) -> list[dict[str, Any]]:
    """Return parameter groups: each layer at its own rate, the head at its own, no decay of biases and norms.

    Each group has `scale`, its highest rate as a multiple of the scheduled one.
    """
    depth = {id(p): index for index, layer in enumerate(layers) for p in layer.parameters()}
    head_scale = (settings.head_learning_rate or settings.learning_rate) / settings.learning_rate
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part, of_head in ((body, False), (head, True)):
        for parameter in part.parameters():
            if not parameter.requires_grad:
                continue
            # Layers count from the bottom; embeddings stand below the first, whatever is not in a layer above the last.
            below_top = len(layers) - 1 - depth[id(parameter)] if id(parameter) in depth else len(layers)
            scale = head_scale if of_head else settings.layer_decay**below_top
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale, "lr": settings.learning_rate * scale}
        for (scale, decay), parameters in found.items()
    ]


def make(settings: TrainSection, parameter_groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser, in its fused form where torch has one."""
    rate = settings.learning_rate
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameter_groups, lr=rate, fused=True)
        case "adam":
            return torch.optim.Adam(parameter_groups, lr=rate, fused=True)
        case "sgd":
            return torch.optim.SGD(parameter_groups, lr=rate, momentum=0.9, fused=True)
        case "adagrad":
            return torch.optim.Adagrad(parameter_groups, lr=rate)
        case "adafactor":
            return torch.optim.Adafactor(parameter_groups, lr=rate)


def rate_at(step: int, n_steps: int, settings: TrainSection) -> float:
    """Return the share of the highest rate that step `step` (counted from 0) is taken with."""
    warmup = round(settings.warmup * n_steps)
    if step < warmup:
        return (step + 1) / warmup
    passed = (step - warmup) / max(1, n_steps - warmup)
    match settings.schedule:
        case "linear":
            return 1.0 - passed
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * passed))
        case "constant":
            return 1.0


class Average:
    """Exponential moving average of the trained weights, which stands in for them when asked."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 1); the start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call takes that back."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
