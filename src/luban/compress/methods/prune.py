"""Take out attention heads and feed-forward units that matter least: smaller matrices, so that it is truly faster.

What a head or a unit matters is told by the first-order Taylor term: how much the loss would change, row by row, were
it gone (Michel et al. 2019, "Are Sixteen Heads Really Better than One?"; Molchanov et al. 2019, "Importance Estimation
for Neural Network Pruning"). Every layer keeps equally many, so that none becomes the neck of the bottle.

Legend: B windows in a batch, L tokens in the longest of them, U units of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.methods.distil import recover
from luban.errors import LubanError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luban.models.heads import TaskModel
    from luban.tasks import Task

WORKS_ON = "model"
_STEP = 8
"""Units are kept in multiples of this, which suits the products of all processors."""
_COMPARED = 8
_WIDTHS = ("intermediate_size", "hidden_dim")
"""What configurations call the width of the feed-forward part."""
Chosen = Mapping[str, np.ndarray]
"""Path of the layer after them -> which units (of its inputs) stay, in their order."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `prune`."""

    heads: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of each layer's attention heads that stays; 1 leaves them alone."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of each layer's feed-forward units that stays, rounded to a multiple of 8; 1 leaves them alone."""
    rows: Annotated[int, Field(ge=1)] = 512
    """Windows of the training rows on which it is measured what matters."""
    recover_epochs: Annotated[float, Field(ge=0.0)] = 3.0
    """Passes over the rows in which the model learns the uncompressed one's answers again; 0 leaves it as it is."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate of the recovery."""


def make(options: Options) -> Prune:
    """Return the method."""
    return Prune(options)


class Prune:
    """Structured pruning by importance."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with narrower layers.

        Raises:
            LubanError: nothing is to go, or this family's layers can't have fewer heads or units.
            TrainError: the recovery could not go on.
        """
        sizes = _Sizes(candidate.model)
        n_heads, n_units = _share(sizes.heads, self.options.heads), _rounded(sizes.units, self.options.width)
        if (n_heads, n_units) == (sizes.heads, sizes.units):
            raise LubanError("prune: nothing would go", hint="set heads or width below 1")
        rows = material.task.encode(material.train, candidate.processor)
        windows = surgery.sample(rows, self.options.rows, material.settings.seed)
        batches = surgery.batches(rows, windows, candidate.processor.pad_id)
        model = candidate.model
        told: dict[str, Any] = {}
        if n_heads < sizes.heads:
            paths = {part.outward: sizes.head_width for part in surgery.attention(model.body)}
            chosen = _best(importance(model, material.task, paths, batches), n_heads)
            inputs = {path: _spread(units, sizes.head_width) for path, units in chosen.items()}
            model = self._proved(model, inputs, fewer_heads(model, inputs), batches)
            told |= {"heads": n_heads, "heads_before": sizes.heads}
        if n_units < sizes.units:
            paths = {part.down: 1 for part in surgery.feed_forward(model.body)}
            inputs = _best(importance(model, material.task, paths, batches), n_units)
            model = self._proved(model, inputs, narrower(model, inputs), batches)
            told |= {"units": n_units, "units_before": sizes.units}
        after, recovery = recover(
            model, candidate, material,
            epochs=self.options.recover_epochs, learning_rate=self.options.learning_rate,
        )  # fmt: skip
        facts = {
            **told,
            "parameters": surgery.parameters(after),
            "parameters_before": surgery.parameters(candidate.model),
            **recovery,
        }
        return Candidate(after, candidate.processor, {**candidate.facts, "prune": facts})

    def _proved(
        self, before: TaskModel, inputs: Chosen, after: TaskModel, batches: Sequence[Mapping[str, torch.Tensor]]
    ) -> TaskModel:
        """Return the smaller model, if it answers as the larger one does with the same units silenced.

        Raises:
            LubanError: it does not: this family has parts that were not found.
        """
        some = [{name: part[:_COMPARED] for name, part in batch.items()} for batch in batches[:2]]
        with silenced(before, inputs):
            wanted = surgery.logits(before, some)
        try:
            found = surgery.logits(after, some)
        except RuntimeError as error:
            raise LubanError(
                f"prune: {type(before.body).__name__} does not run with fewer heads or units",
                hint="leave prune out of the plan, or choose a base of another family",
            ) from error
        surgery.check_same(wanted, found, some, "prune")
        return after


class _Sizes:
    """How many heads and units each layer of a model has now."""

    def __init__(self, model: TaskModel) -> None:
        """Read them off the layers.

        Raises:
            LubanError: the layers differ.
        """
        body: Any = model.body
        self.head_width = int(body.config.hidden_size) // int(body.config.num_attention_heads)
        self.units = self._one(model, [part.down for part in surgery.feed_forward(body)])
        try:
            self.heads = self._one(model, [part.outward for part in surgery.attention(body)]) // self.head_width
        except LubanError:  # its heads can't be told apart; its feed-forward units can still be pruned
            self.heads = int(body.config.num_attention_heads)

    def _one(self, model: TaskModel, paths: Sequence[str]) -> int:
        found = {int(_linear(model.body, path).in_features) for path in paths}
        if len(found) != 1:
            raise LubanError("prune: the layers are of different widths", hint="leave prune out of the plan")
        return found.pop()


def _linear(body: nn.Module, path: str) -> Any:
    return body.get_submodule(path)


def _share(n: int, share: float) -> int:
    return max(1, round(n * share))


def _rounded(n: int, share: float) -> int:
    """Return a share of n as a multiple of 8, or n itself."""
    return n if share == 1.0 else min(n, max(_STEP, round(n * share / _STEP) * _STEP))


def importance(
    model: TaskModel, task: Task, paths: Mapping[str, int], batches: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, np.ndarray]:
    """Return path -> (U,): the mean over windows of how much the loss changes, to first order, without each unit.

    Args:
        model: is not changed.
        task: gives the loss.
        paths: of the layers that read the units -> how many of its inputs make one unit.
        batches: windows with targets.
    """
    import torch

    found = {path: np.zeros(_linear(model.body, path).in_features // size) for path, size in paths.items()}
    n_windows = 0
    for batch in batches:
        gates: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
        with _hooked(model, {path: _gate(gates[path]) for path in paths}), torch.enable_grad():
            logits = model(batch["input_ids"], batch["attention_mask"])
            loss = task.loss(logits, batch["targets"], batch["attention_mask"], model.head)
        count = len(batch["input_ids"])
        flat = [(path, gate) for path, kept in gates.items() for gate in kept]
        gradients = torch.autograd.grad(loss * count, [gate for _, gate in flat], allow_unused=True)
        for path, size in paths.items():
            parts = [
                part for (owner, _), part in zip(flat, gradients, strict=True) if owner == path and part is not None
            ]
            if parts:  # a layer that runs several times has one gate for all
                whole = torch.stack(parts).sum(0).view(count, -1, size).sum(2)
                found[path] += whole.abs().sum(0).double().numpy()
        n_windows += count
    return {path: value / max(1, n_windows) for path, value in found.items()}


def _gate(kept: list[torch.Tensor]) -> Callable[..., tuple[torch.Tensor]]:
    """Return a hook that multiplies a layer's inputs (B, L, U) by ones (B, 1, U), which gradients are taken of."""

    def hook(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        import torch

        gate = torch.ones(given[0].shape[0], 1, given[0].shape[-1], requires_grad=True)
        kept.append(gate)
        return (given[0] * gate,)

    return hook


@contextmanager
def silenced(model: TaskModel, inputs: Chosen) -> Iterator[None]:
    """Let the layers at these paths read 0 from all inputs but the chosen ones while the block runs."""

    def silence(chosen: np.ndarray) -> Callable[..., tuple[torch.Tensor]]:
        def hook(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            import torch

            kept = torch.zeros(given[0].shape[-1])
            kept[torch.from_numpy(chosen)] = 1.0
            return (given[0] * kept,)

        return hook

    with _hooked(model, {path: silence(chosen) for path, chosen in inputs.items()}):
        yield


@contextmanager
def _hooked(model: TaskModel, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    handles = [_linear(model.body, path).register_forward_pre_hook(hook) for path, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _best(scores: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Return path -> the n units of the highest scores, in their order."""
    return {path: np.sort(np.argsort(-value, kind="stable")[:n]) for path, value in scores.items()}


def _spread(units: np.ndarray, size: int) -> np.ndarray:
    """Return the inputs that units of some inputs each stand for."""
    inputs: np.ndarray = (units[:, None] * size + np.arange(size)).ravel()
    return inputs


def fewer_heads(model: TaskModel, inputs: Chosen) -> TaskModel:
    """Return a model whose attention has, in each layer, only the heads that make the chosen inputs of its last part.

    Raises:
        LubanError: this family can't be built so.
    """
    from luban.models import shapes

    weights = dict(model.body.state_dict())
    told = shapes.of(model.body)
    resized = dict(told.get("resized", {}))
    for part in surgery.attention(model.body):
        chosen, before = inputs[part.outward], _linear(model.body, part.outward).in_features
        for path in part.inward:
            times = _linear(model.body, path).out_features // before
            rows = np.concatenate([number * before + chosen for number in range(times)])
            _cut(weights, path, rows, 0)
            resized[path] = [_linear(model.body, path).in_features, len(rows)]
        _cut(weights, part.outward, chosen, 1)
        resized[part.outward] = [len(chosen), _linear(model.body, part.outward).out_features]
    return surgery.rebuilt(model, weights, shapes={**told, "resized": resized})


def narrower(model: TaskModel, inputs: Chosen) -> TaskModel:
    """Return a model whose feed-forward parts have only the chosen units.

    Raises:
        LubanError: this family can't be built so.
    """
    weights, config = dict(model.body.state_dict()), {}
    for part in surgery.feed_forward(model.body):
        chosen, before = inputs[part.down], _linear(model.body, part.down).in_features
        times = _linear(model.body, part.up).out_features // before
        _cut(weights, part.up, np.concatenate([number * before + chosen for number in range(times)]), 0)
        _cut(weights, part.down, chosen, 1)
        config = {name: len(chosen) for name in _WIDTHS if getattr(model.body.config, name, None) == before}
    return surgery.rebuilt(model, weights, config=config)


def _cut(weights: dict[str, torch.Tensor], path: str, chosen: np.ndarray, axis: int) -> None:
    """Keep the chosen rows (axis 0, with their biases) or columns (axis 1) of a linear layer, in place."""
    import torch

    index = torch.from_numpy(chosen)
    weights[f"{path}.weight"] = weights[f"{path}.weight"].index_select(axis, index)
    if axis == 0 and f"{path}.bias" in weights:
        weights[f"{path}.bias"] = weights[f"{path}.bias"][index]
