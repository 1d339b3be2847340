"""Answer easy texts from an inner layer: a head stands there, and a window that it is sure of is spared the rest.

The body and both heads learn the uncompressed model's answers together, so that the last layer loses little and the
inner one knows what it can (Teerapittayanon et al. 2016, "BranchyNet"; Xin et al. 2020, "DeeBERT"; Zhou et al. 2020,
"BERT Loses Patience"). How sure is sure enough is chosen on validation rows, with calibrated probabilities. The file
grows by a head; the median text takes the time of the layers below, and the hardest a little more than before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.ladder import half_of
from luban.compress.measure import Validation
from luban.compress.methods.distil import recover
from luban.errors import LubanError

if TYPE_CHECKING:
    from luban.models.heads import TaskModel

WORKS_ON = "model"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `early-exit`."""

    after: Annotated[int, Field(ge=0)] = 0
    """Layers below the early head; 0 puts it after half of them."""
    max_disagreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.002
    """Share of the validation windows that may leave early with another label than the last layer gives them. About as
    often as not, the early one is right."""
    at_least: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Share of the validation windows that must leave early: fewer do not make up for asking all of them."""
    recover_epochs: Annotated[float, Field(ge=0.0)] = 3.0
    """Passes over the rows in which body and heads learn the uncompressed model's answers; with 0 the early head knows
    what a linear layer can read from the inner one as it is."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate of these passes."""


def make(options: Options) -> EarlyExit:
    """Return the method."""
    return EarlyExit(options)


class EarlyExit:
    """Puts a second head on an inner layer."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with an early head, and with the bound from which its answers are taken.

        Raises:
            LubanError: the task is not one label a text; the layer is not an inner one; there is an early head
                already; or too few texts would leave early.
            TrainError: training could not go on.
        """
        after = self._place(candidate, material)
        model = copy.deepcopy(candidate.model)
        _put(model, after)
        assert model.early is not None
        output: Any = model.early.head.output
        surgery.refit(
            output, lambda batch: model.stages(batch["input_ids"], batch["attention_mask"]), candidate, material
        )
        model, told = recover(
            model, candidate, material, epochs=self.options.recover_epochs, learning_rate=self.options.learning_rate
        )
        early = self._bound(model, candidate, material)
        facts = {
            **early,
            "after": after,
            "parameters": surgery.parameters(model),
            "not_smaller": "leaving early spares time, not weights",
            **told,
        }
        return Candidate(model, candidate.processor, {**candidate.facts, "early-exit": facts})

    def _place(self, candidate: Candidate, material: Material) -> int:
        """Return how many layers stand below the early head; raise as `apply` says."""
        config: Any = candidate.model.body.config
        n_layers = int(config.num_hidden_layers)
        after = self.options.after or half_of(n_layers)
        if material.task.per_token or getattr(material.task, "multi_label", False):
            raise LubanError(
                f"early-exit: the task {material.task.kind} gives several answers to a text, wanted one label each",
                hint="leave early-exit out of the plan",
            )
        if candidate.model.early is not None:
            raise LubanError("early-exit: the model has an early head", hint="name `early-exit` once in a plan")
        if after >= n_layers:
            raise LubanError(f"early-exit: after {after} of {n_layers} layers", hint=f"set after below {n_layers}")
        return after

    def _bound(self, model: TaskModel, candidate: Candidate, material: Material) -> dict[str, Any]:
        """Give the early head a temperature and a bound, and return what it does to the validation windows.

        Both heads' logits are brought to one scale, so that one calibration fits whichever answers.
        """
        from luban.models.heads import Shallow

        validation = Validation(material, candidate.processor)
        last, first = validation.logits(model), validation.logits(Shallow(model).eval())
        wanted = validation.temperature(last)
        early = model.early
        assert early is not None
        stretch = wanted / validation.temperature(first)
        _stretch(early.head, stretch)
        first = first * stretch
        sure, leaving = bound(first / wanted, last, self.options.max_disagreement)
        if leaving < self.options.at_least:
            raise LubanError(
                f"early-exit: {leaving:.0%} of the texts would leave after layer {early.after}, wanted "
                f"{self.options.at_least:.0%} or more",
                hint="set `after` higher, or leave early-exit out of the plan",
            )
        early.sure, early.temperature = sure, wanted
        return {"leaving": round(leaving, 4), "sure": round(sure, 4), "temperature": round(wanted, 4)}


def bound(early: np.ndarray, last: np.ndarray, max_disagreement: float) -> tuple[float, float]:
    """Return the lowest probability from which early answers may be taken, and the share of windows that leave then.

    Args:
        early: (W, K) early logits, calibrated.
        last: (W, K) logits of the last layer.
        max_disagreement: share of all windows that may leave with another label.
    """
    if not len(early):
        return 1.0, 0.0
    shares = np.exp(early - early.max(1, keepdims=True))
    top = shares.max(1) / shares.sum(1)
    order = np.argsort(-top, kind="stable")
    wrong = np.cumsum(early[order].argmax(1) != last[order].argmax(1))
    allowed = np.flatnonzero(wrong <= max_disagreement * len(early))
    if not len(allowed):
        return 1.0, 0.0
    n_leaving = int(allowed[-1]) + 1
    edge = float(top[order[n_leaving - 1]])
    after = float(top[order[n_leaving]]) if n_leaving < len(order) else 0.0
    return (edge + after) / 2, n_leaving / len(early)


def _put(model: TaskModel, after: int) -> None:
    """Put a copy of the head onto an inner layer."""
    from luban.models.heads import EARLY, EarlyHead

    model.head.add_module(EARLY, EarlyHead(copy.deepcopy(model.head), after=after))


def _stretch(head: Any, factor: float) -> None:
    """Multiply what a head answers."""
    import torch

    with torch.no_grad():
        for parameter in head.output.parameters():
            parameter.mul_(factor)
