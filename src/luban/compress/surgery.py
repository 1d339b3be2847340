"""Bodies taken apart and put together: built again with other sizes, and their inner linear layers found by structure.

Legend: B windows in a batch, L tokens in the longest of them, K outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.errors import LubanError
from luban.models.windows import by_length, pad
from luban.records import Encoded

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luban.compress import Candidate, Material
    from luban.models.heads import TaskModel

_REFIT_WINDOWS = 4000
"""Training windows from which a head's first weights are computed."""
_RIDGE = 0.01
"""Penalty on weights, as a share of the features' mean square."""
Run = Callable[[Mapping[str, "torch.Tensor"]], Any]
SAME = 1e-4
"""Largest difference of two models' logits that are called the same, as a share of the largest logit."""


def rebuilt(
    model: TaskModel,
    weights: Mapping[str, torch.Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Mapping[str, list[int]]] | None = None,
) -> TaskModel:
    """Return a model whose body has these weights, built as a checkpoint builds it, so that it survives being saved.

    Args:
        model: gives the body's configuration and the head, which is copied.
        weights: the body's, by name.
        config: settings that differ, by transformers' common names, e.g. `num_hidden_layers`.
        shapes: what the body has beyond its configuration; without it, what it had.

    Raises:
        LubanError: this family's configuration does not take the settings, or the weights don't fit it then.
    """
    from luban.models import shapes as shaped
    from luban.models.body import body_from_config, body_to_json
    from luban.models.heads import TaskModel

    told = body_to_json(model.body)
    names = getattr(model.body.config, "attribute_map", {})
    told |= {names.get(name, name): value for name, value in (config or {}).items()}
    if shapes is not None:
        told[shaped.KEY] = shapes
    body = body_from_config(told)
    try:
        body.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise LubanError(
            f"{type(model.body).__name__} can't be built with other sizes: {reason}",
            hint="leave this step out of the plan, or choose a base of another family",
        ) from error
    return TaskModel(body, copy.deepcopy(model.head)).eval()


def parameters(model: nn.Module) -> int:
    """Return how many numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def sample(rows: Encoded, n_windows: int, seed: int) -> np.ndarray:
    """Return at most so many windows, drawn at random, in their order."""
    if len(rows) <= n_windows:
        return np.arange(len(rows))
    return np.sort(np.random.default_rng(seed).choice(len(rows), n_windows, replace=False))


def batches(rows: Encoded, windows: np.ndarray, pad_id: int) -> list[dict[str, torch.Tensor]]:
    """Return some windows, in padded batches of like length, as tensors."""
    import torch

    chosen = [windows[part] for part in by_length(rows.lengths[windows], max_rows=32, max_tokens=4096)]
    return [
        {name: torch.from_numpy(array) for name, array in pad(rows, part, pad_id).items()}
        for part in chosen
        if len(part)
    ]


def logits(model: TaskModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Return a model's logits, (B, K) or (B, L, K), of each batch."""
    import torch

    with torch.inference_mode():
        return [model(batch["input_ids"], batch["attention_mask"]) for batch in batches]


def answers(model: TaskModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Return the logits (A, K) of all windows, or of all tokens that are no padding."""
    import torch

    found = logits(model, batches)
    real = [batch["attention_mask"] > 0 for batch in batches]
    return torch.cat([out[mask] if out.ndim == 3 else out for out, mask in zip(found, real, strict=True)])


def check_same(
    wanted: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    batches: Sequence[Mapping[str, torch.Tensor]],
    what: str,
) -> None:
    """Compare the logits of two models, batch by batch.

    Raises:
        LubanError: they differ by more than rounding; `what` tells what was done.
    """
    for one, other, batch in zip(wanted, found, batches, strict=True):
        if one.ndim == 3:
            one, other = one[batch["attention_mask"] > 0], other[batch["attention_mask"] > 0]
        difference = float((one - other).abs().max()) if one.numel() else 0.0
        if not difference <= SAME * max(1.0, float(one.abs().max()) if one.numel() else 0.0):
            raise LubanError(
                f"{what}: the model answers otherwise than it must (logits differ by {difference:.2g})",
                hint="leave this step out of the plan; please report the base that does this",
            )


@dataclass(frozen=True)
class Attention:
    """The linear layers of one layer's attention, by their paths within the body."""

    inward: tuple[str, ...]
    """Query, key and value; or one layer that makes all three, in this order."""
    outward: str


@dataclass(frozen=True)
class FeedForward:
    """The two linear layers of one layer's feed-forward part, by their paths within the body."""

    up: str
    """Wide: one unit an output, or two where the first half is gated by the second."""
    down: str


def linears(body: nn.Module) -> list[dict[str, Any]]:
    """Return for each layer, lowest first, path within the body -> linear layer.

    Raises:
        LubanError: the body's layers are not found.
    """
    import torch

    from luban.models.body import layers

    paths = {id(module): path for path, module in body.named_modules()}
    return [
        {
            f"{paths[id(layer)]}.{name}": module
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        for layer in layers(body)
    ]


def attention(body: nn.Module) -> list[Attention]:
    """Return each layer's attention; all families name the modules of attention after it.

    Raises:
        LubanError: attention is not of three linear layers (or one for three) and one after them.
    """
    found = []
    for layer in linears(body):
        inside = [path for path in layer if "att" in path.lower()]
        *inward, outward = inside or [""]
        wide = sum(layer[path].out_features for path in inward)
        if len(inward) not in (1, 3) or wide != 3 * layer[outward].in_features:
            raise LubanError(
                f"{type(body).__name__} has no attention of query, key, value and one layer after them",
                hint="leave this step out of the plan, or choose a base of another family",
            )
        found.append(Attention(tuple(inward), outward))
    return found


def feed_forward(body: nn.Module) -> list[FeedForward]:
    """Return each layer's feed-forward part.

    Raises:
        LubanError: it is not of two linear layers.
    """
    found = []
    for layer in linears(body):
        outside = [path for path in layer if "att" not in path.lower()]
        if len(outside) != 2 or layer[outside[0]].out_features not in (n := layer[outside[1]].in_features, 2 * n):
            raise LubanError(
                f"{type(body).__name__} has no feed-forward part of two linear layers",
                hint="leave this step out of the plan, or choose a base of another family",
            )
        found.append(FeedForward(*outside))
    return found


def refit(output: nn.Linear, run: Run, candidate: Candidate, material: Material) -> None:
    """Give a head's last layer the weights with which its logits come nearest to a candidate's, by ridge regression.

    A head that is put on other features begins to learn from there, rather than from weights that mean nothing now.

    Args:
        output: the layer, changed in place.
        run: runs a batch of windows through the model that the layer belongs to.
        candidate: gives the logits.
        material: gives the training rows.
    """
    import torch

    rows = material.task.encode(material.train, candidate.processor)
    windows = sample(rows, _REFIT_WINDOWS, material.settings.seed)
    passes = batches(rows, windows, candidate.processor.pad_id)
    wanted = logits(candidate.model, passes)
    read: list[torch.Tensor] = []
    handle = output.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        with torch.inference_mode():
            for batch in passes:
                run(batch)
    finally:
        handle.remove()
    parts = [
        (x, y) if x.ndim == 2 else (x[batch["attention_mask"] > 0], y[batch["attention_mask"] > 0])
        for x, y, batch in zip(read, wanted, passes, strict=True)
    ]
    x, y = (torch.cat(both).double() for both in zip(*parts, strict=True))
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    products = x.T @ x
    products += _RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=torch.double)
    weight = torch.linalg.solve(products, x.T @ y).T
    with torch.no_grad():
        output.weight.copy_(weight)
        output.bias.copy_(y_mean - weight @ x_mean)
