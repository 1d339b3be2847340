"""Average the weights of several checkpoints: one model, of one model's cost, often better than the best of them.

They must have begun with the same weights, such as runs of one project with other seeds or settings, or one run at
several moments; weights that were trained apart from the start have no meaningful mean.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luban.compress import Candidate, Material, surgery
from luban.compress.measure import Validation
from luban.errors import LubanError

if TYPE_CHECKING:
    import torch

    from luban.models.heads import TaskModel

WORKS_ON = "model"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `average`."""

    folders: tuple[str, ...] = ()
    """Folders of the other checkpoints, of the same task and of as many layers of the same sizes. Paths start at the
    project's folder."""
    how: Literal["greedy", "mean"] = "greedy"
    """`greedy` takes them from the best down, each only if the mean's validation score does not fall; `mean` takes
    all."""


def checkpoints(options: Options) -> tuple[str, ...]:
    """Return the folders whose weights are averaged."""
    return options.folders


def make(options: Options) -> Average:
    """Return the method."""
    return Average(options)


class Average:
    """Model soups (Wortsman et al. 2022)."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the mean of the candidate's weights and those of the checkpoints that it takes in.

        Raises:
            LubanError: no checkpoints are named, or one is of another task, another vocabulary or other sizes.
            NotFound: a folder holds no checkpoint.
            CorruptBundle: a checkpoint was changed.
        """
        if not self.options.folders:
            raise LubanError("average: no checkpoints are named", hint="set folders to those of other runs")
        measure = Validation(material, candidate.processor)
        models = [candidate.model, *(self._load(folder, candidate, material) for folder in self.options.folders)]
        scores = [measure.value(measure(model)) for model in models]
        order = sorted(range(len(models)), key=lambda at: -scores[at])
        taken, best = [order[0]], scores[order[0]]
        for at in order[1:]:
            if self.options.how == "mean":
                taken.append(at)
                continue
            value = measure.value(measure(_mean(candidate.model, [models[one].state_dict() for one in (*taken, at)])))
            if value >= best:
                taken, best = [*taken, at], value
        model = _mean(candidate.model, [models[at].state_dict() for at in sorted(taken)])
        names = ["candidate", *self.options.folders]
        facts = {
            "taken": [names[at] for at in sorted(taken)],
            "left_out": [names[at] for at in order if at not in taken],
            "score": round(measure.value(measure(model)), 6),
            "scores": {name: round(score, 6) for name, score in zip(names, scores, strict=True)},
            "parameters": surgery.parameters(model),
            "not_smaller": "averaging changes weights, not how many there are",
        }
        return Candidate(model, candidate.processor, {**candidate.facts, "average": facts})

    def _load(self, folder: str, candidate: Candidate, material: Material) -> TaskModel:
        from luban.models import checkpoint
        from luban.tasks import make_head

        model, parts = checkpoint.load(material.root / folder, make_head)
        sizes, wanted = (
            {name: tuple(part.shape) for name, part in one.state_dict().items()} for one in (model, candidate.model)
        )
        task = material.task
        for same, what in (
            ((parts.task["kind"], tuple(parts.task["labels"])) == (task.kind, tuple(task.labels)), "labels"),
            (parts.processor.tokenizer_json == candidate.processor.tokenizer_json, "a vocabulary"),
            (sizes == wanted, "layers or sizes"),
        ):
            if not same:
                raise LubanError(
                    f"average: the checkpoint in {folder} has {what} other than this model's",
                    hint="name checkpoints of the same project, with other seeds; put average first in the plan",
                )
        return model


def _mean(like: TaskModel, states: Sequence[Mapping[str, torch.Tensor]]) -> TaskModel:
    """Return a model with the mean of several models' weights, added up in double precision."""
    import torch

    mixed: dict[str, Any] = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            mixed[name] = torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        else:
            mixed[name] = first.clone()
    model = copy.deepcopy(like)
    model.load_state_dict(mixed)
    return model.eval()
