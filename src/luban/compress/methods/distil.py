"""Train the candidate again, to answer as the uncompressed model (or better ones) does.

Every step that cuts trains through here afterwards, and the only training loop does the training: the best weights by
validation score are kept, and a run that was killed goes on bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.measure import Validation
from luban.errors import LubanError
from luban.files import digest_bytes, digest_json, new_folder
from luban.records import Progress

if TYPE_CHECKING:
    import torch

    from luban.models.heads import TaskModel
    from luban.project.schema import TrainSection

WORKS_ON = "model"
_NO_EFFECT = ("save_every_s", "trackers", "objectives", "adapter", "start")
_PRUNED = 0.01
"""Share of exact zeros from which a matrix counts as pruned: learning leaves them at zero."""
_BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `distil`."""

    epochs: Annotated[float, Field(gt=0.0)] = 3.0
    """Passes over the labelled and the unlabelled rows."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """Highest learning rate; a model that was cut bears, and needs, a higher one than fine-tuning."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """What the logits of both are divided by before they are compared: higher ones tell more of the unlikely labels."""
    labels: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Weight of the true labels, with the class weights of training; that of the teacher's logits is 1 minus it."""
    hidden: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the distance of hidden states; above 0 the teacher runs at every step, which costs about half as much
    again, and both must read the same pieces."""
    attention: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the divergence of the last layer's relations among tokens; it costs as `hidden` does."""
    train_embeddings: bool = False
    """Train the token vectors, too: most of a small model's weights, of which each step touches a few."""
    teachers: tuple[str, ...] = ()
    """Folders of checkpoints of the same task whose answers are averaged, in place of the uncompressed model's: of a
    larger base, or of several seeds. Paths start at the project's folder, as `runs/large/checkpoint`."""


def checkpoints(options: Options) -> tuple[str, ...]:
    """Return the folders of the teachers."""
    return options.teachers


def make(options: Options) -> Distil:
    """Return the method."""
    return Distil(options)


class Distil:
    """Knowledge distillation (Hinton et al. 2015)."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with the weights that scored best on validation rows, those that it had among them.

        Raises:
            LubanError: a teacher is of another task, or the insides of the two can't be matched.
            TrainError: training could not go on.
        """
        model, facts = teach(candidate, material, self.options)
        why = "distilling changes weights, not how many there are"
        told = {**facts, "parameters": surgery.parameters(model), "not_smaller": why}
        return Candidate(model, candidate.processor, {**candidate.facts, "distil": told})


def teach(candidate: Candidate, material: Material, options: Options) -> tuple[TaskModel, dict[str, Any]]:
    """Train a candidate; return its model with the best weights, and what to tell of it.

    Matrices that were pruned keep their zeros. The candidate and the teachers are left as they are.
    """
    import torch

    from luban.compress.answers import digest, lesson
    from luban.compress.matching import Distillation, Early, Inside
    from luban.models import body as bodies
    from luban.train.loop import Training

    task, processor = material.task, candidate.processor
    settings = _settings(material.settings, options)
    measure = Validation(material, processor)
    before = measure(candidate.model)
    teachers = _teachers(options.teachers, material)
    key = digest_json(
        {
            "models": [digest(one.model) for one in (candidate, *teachers)],
            "tokenisers": [digest_bytes(one.processor.tokenizer_json.encode()) for one in (candidate, *teachers)],
            "rows": [material.train.num_rows, len(material.unlabelled)],
            "options": asdict(options),
            "settings": {name: value for name, value in asdict(settings).items() if name not in _NO_EFFECT},
        }
    )
    material.on_progress(Progress("compress", "the teacher's answers"))
    learnt = lesson(processor, teachers, material, key)
    model = copy.deepcopy(candidate.model).requires_grad_(True).to(settings.device)
    inside = None
    if options.hidden or options.attention:
        inside = Inside(
            model, candidate, teachers[0], learnt.rows.ids,
            hidden=options.hidden, attention=options.attention, seed=settings.seed,
        )  # fmt: skip
    early = None if model.early is None else Early(model.early)
    objective = Distillation(
        learnt, per_token=task.per_token, temperature=options.temperature, labels=options.labels,
        inside=inside, early=early,
    )  # fmt: skip
    _keep_zeros(model)
    training = Training(
        model, task, learnt.rows, settings,
        layers=bodies.layers(model.body), embeddings=bodies.embeddings(model.body), pad_id=processor.pad_id,
        folder=material.folder / "states", plan=key, measure=measure,
        keep=lambda trained: _keep(_weights(trained), material.folder / "best"),
        objectives=[objective],
    )  # fmt: skip
    try:
        for step in training.steps():
            message = f"distilling{f': {step.note}' if step.note else ''}"
            rate = step.examples_per_s / settings.batch_size
            material.on_progress(
                Progress("compress", message, step.step, step.n_steps, "steps", rate, step.left_s, step)
            )
    finally:
        for watched in (inside, early):
            if watched is not None:
                watched.close()
    found = copy.deepcopy(candidate.model)
    found.load_state_dict(_kept(material.folder / "best"))
    after = measure(found.eval())
    were = candidate.model.state_dict()
    unchanged = all(torch.equal(were[name], tensor) for name, tensor in found.state_dict().items())
    name = material.settings.choose_by
    facts = {
        "steps": training.n_steps,
        "rows": learnt.rows.n_rows,
        "unlabelled": learnt.rows.n_rows - learnt.n_labelled,
        "before": {name: before[name.removeprefix("-")]},
        "after": {name: after[name.removeprefix("-")]},
        **({"kept": "the weights from before, which scored better"} if unchanged else {}),
    }
    return found.eval(), facts


def recover(
    model: TaskModel, candidate: Candidate, material: Material, *, epochs: float, learning_rate: float,
    train_embeddings: bool = False,
) -> tuple[TaskModel, dict[str, Any]]:  # fmt: skip
    """Return a model that was cut after it has learnt from the teacher's logits again; with 0 epochs, as it is."""
    if not epochs:
        return model, {}
    options = Options(epochs=epochs, learning_rate=learning_rate, train_embeddings=train_embeddings)
    found, facts = teach(replace(candidate, model=model), material, options)
    return found, {"recovery": facts}


def _settings(settings: TrainSection, options: Options) -> TrainSection:
    """Return the settings with which the model was trained, but for what distillation has of its own."""
    return replace(
        settings,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        head_learning_rate=None,
        freeze="nothing" if options.train_embeddings else "embeddings",
        freeze_layers=0,
        layer_decay=1.0,
    )


def _teachers(folders: Sequence[str], material: Material) -> list[Candidate]:
    """Return the teachers: those of checkpoints, or the uncompressed model.

    Raises:
        LubanError: a checkpoint is of another task or has other labels.
    """
    from luban.models import checkpoint
    from luban.tasks import make_head

    found = []
    for folder in folders:
        model, parts = checkpoint.load(material.root / folder, make_head)
        if (parts.task["kind"], tuple(parts.task["labels"])) != (material.task.kind, tuple(material.task.labels)):
            raise LubanError(
                f"distil: the teacher in {folder} has other labels, or another task, than this model",
                hint="train teachers with the same project file but for the base and the seed",
            )
        found.append(Candidate(model, parts.processor))
    return found or [material.teacher]


def _keep_zeros(model: TaskModel) -> None:
    """Let nothing move the zeros of matrices that were pruned: with no gradient, no optimiser does."""
    import torch

    for module in model.body.modules():
        if isinstance(module, torch.nn.Linear):
            kept = module.weight != 0
            if float(kept.float().mean()) <= 1 - _PRUNED:
                module.weight.register_hook(_Masked(kept))  # type: ignore[no-untyped-call]


class _Masked:
    """A gradient without what belongs to zeros."""

    def __init__(self, kept: torch.Tensor) -> None:
        self._kept = kept

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self._kept


def _weights(model: TaskModel) -> dict[str, torch.Tensor]:
    """Return a trained model's weights without those that only learning needs."""
    from luban.compress.matching import PROJECTION

    return {name: part for name, part in model.state_dict().items() if not name.startswith(f"head.{PROJECTION}.")}


def _keep(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    with new_folder(folder, replace=True) as aside:
        save_file({name: part.detach().cpu().contiguous().clone() for name, part in weights.items()}, aside / _BEST)


def _kept(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / _BEST)
