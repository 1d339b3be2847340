"""Keep some of the base's layers, and learn the lost ones' work again: half the layers, half the time.

Dropping whole layers is a strong start for a smaller model (Sanh et al. 2019, "DistilBERT"; Sajjad et al. 2023, "On the
Effect of Dropping Layers of Pre-trained Transformer Models").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.ladder import half_of
from luban.compress.methods.distil import recover
from luban.errors import LubanError

if TYPE_CHECKING:
    from luban.models.heads import TaskModel

WORKS_ON = "model"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `layers`."""

    keep: Annotated[int, Field(ge=0)] = 0
    """Layers that stay; 0 keeps half of them."""
    choose: Literal["even", "look"] = "even"
    """Which stay: `even` spreads them from the first to the last; `look` takes away, one by one, the layer without
    which the answers change least."""
    look_rows: Annotated[int, Field(ge=1)] = 256
    """For `look`: windows of the training rows on which answers are compared."""
    recover_epochs: Annotated[float, Field(ge=0.0)] = 3.0
    """Passes over the rows in which the model learns the uncompressed one's answers again; 0 leaves it as it is."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate of the recovery."""


def make(options: Options) -> Layers:
    """Return the method."""
    return Layers(options)


class Layers:
    """Takes whole layers out of a body."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with fewer layers.

        Raises:
            LubanError: it has not more layers than shall stay, or all its layers are the same weights.
            TrainError: the recovery could not go on.
        """
        config: Any = candidate.model.body.config
        n_layers = int(config.num_hidden_layers)
        keep = self.options.keep or half_of(n_layers)
        if hasattr(config, "num_hidden_groups"):
            raise LubanError(
                f"layers: the layers of {type(candidate.model.body).__name__} share their weights, so that none can go",
                hint="leave layers out of the plan",
            )
        if keep >= n_layers:
            raise LubanError(f"layers: {keep} shall stay of {n_layers}", hint=f"set keep below {n_layers}")
        if self.options.choose == "even":
            kept = [int(layer) for layer in np.linspace(0, n_layers - 1, keep).round()]
        else:
            kept = self._look(candidate, material, n_layers, keep)
        cut = without(candidate.model, kept)
        if self.options.recover_epochs:
            _refit(cut, candidate, material)
        model, told = recover(
            cut, candidate, material,
            epochs=self.options.recover_epochs, learning_rate=self.options.learning_rate,
        )  # fmt: skip
        facts = {
            "kept": kept,
            "layers_before": n_layers,
            "parameters": surgery.parameters(model),
            "parameters_before": surgery.parameters(candidate.model),
            **told,
        }
        return Candidate(model, candidate.processor, {**candidate.facts, "layers": facts})

    def _look(self, candidate: Candidate, material: Material, n_layers: int, keep: int) -> list[int]:
        """Return the layers that stay when that with the least effect is taken away, again and again."""
        from luban.compress.matching import disagreement

        rows = material.task.encode(material.train, candidate.processor)
        windows = surgery.sample(rows, self.options.look_rows, material.settings.seed)
        batches = surgery.batches(rows, windows, candidate.processor.pad_id)
        wanted = surgery.answers(candidate.model, batches)
        several = wanted.ndim == 2 and bool(getattr(material.task, "multi_label", False))
        kept = list(range(n_layers))
        while len(kept) > keep:
            changes = {}
            for layer in kept:
                rest = [other for other in kept if other != layer]
                try:
                    model = without(candidate.model, rest)
                except LubanError:  # in some families the first layer is unlike the others
                    continue
                found = surgery.answers(model, batches)
                changes[layer] = float(disagreement(found, wanted, 1.0, several_labels=several))
            if not changes:
                raise LubanError("layers: no layer can be taken away", hint="leave layers out of the plan")
            kept.remove(min(changes, key=lambda layer: changes[layer]))
        return kept


def _refit(cut: TaskModel, candidate: Candidate, material: Material) -> None:
    """Let the head read what the layers that stay make of the rows, where its last layer is one over features."""
    output: Any = getattr(cut.head, "output", None)
    if output is not None:
        surgery.refit(output, lambda batch: cut(batch["input_ids"], batch["attention_mask"]), candidate, material)


def without(model: TaskModel, kept: Sequence[int]) -> TaskModel:
    """Return a model that has only these layers, in this order, counted from 0.

    Raises:
        LubanError: this family can't be built of them.
    """
    from luban.models.body import layers

    if model.early is not None:
        raise LubanError("layers: the model has an early head on one of them", hint="name `layers` before `early-exit`")
    body: Any = model.body
    paths = {id(module): path for path, module in body.named_modules()}
    found = [f"{paths[id(layer)]}." for layer in layers(body)]
    weights = {}
    for name, tensor in body.state_dict().items():
        old = next((at for at, path in enumerate(found) if name.startswith(path)), None)
        if old is None:
            weights[name] = tensor
        elif old in kept:
            weights[found[kept.index(old)] + name[len(found[old]) :]] = tensor
    config: dict[str, Any] = {"num_hidden_layers": len(kept)}
    if getattr(body.config, "layer_types", None):  # of each layer, such as whether it sees all tokens or near ones
        config["layer_types"] = [body.config.layer_types[layer] for layer in kept]
    return surgery.rebuilt(model, weights, config=config, shapes=_renumbered(body, found, kept))


def _renumbered(body: Any, found: Sequence[str], kept: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """Return what the body has beyond its configuration, at the layers' new paths."""
    from luban.models import shapes

    moved: dict[str, dict[str, list[int]]] = {}
    for kind, sizes in shapes.of(body).items():
        for path, size in sizes.items():
            old = next((at for at, prefix in enumerate(found) if path.startswith(prefix)), None)
            if old is None:
                moved.setdefault(kind, {})[path] = size
            elif old in kept:
                moved.setdefault(kind, {})[found[kept.index(old)] + path[len(found[old]) :]] = size
    return moved
