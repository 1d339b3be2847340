"""A model's scores on the validation rows, by which methods choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luban.records import Calibration

if TYPE_CHECKING:
    import numpy as np

    from luban.compress import Material
    from luban.models.heads import Shallow, TaskModel
    from luban.models.processor import Processor


class Validation:
    """Scores models that read with one processor; the validation rows are tokenised once."""

    def __init__(self, material: Material, processor: Processor) -> None:
        self._task, self._settings, self._pad_id = material.task, material.settings, processor.pad_id
        self._rows = material.task.encode(material.validation, processor)
        self._gold = material.task.gold(material.validation)
        self._inputs = material.task.inputs(material.validation)

    def __call__(self, model: TaskModel) -> dict[str, float]:
        """Return the scores of a model that is in evaluation mode: with an early head, the mean of both heads'."""
        scores = self._of(model, model)
        if model.early is None:
            return scores
        from luban.models.heads import Shallow

        early = self._of(Shallow(model).eval(), model)
        return {name: (score + early[name]) / 2 for name, score in scores.items()}

    def logits(self, model: TaskModel | Shallow) -> np.ndarray:
        """Return the logits (W, K) or (T, K) of a model, or of its early head, for the validation rows."""
        from luban.train.loop import logits_of

        return logits_of(model, self._rows, self._task, self._settings, self._pad_id)

    def temperature(self, logits: np.ndarray) -> float:
        """Return what such logits are best divided by, so that probabilities are what they say."""
        return self._task.calibrate(
            logits, self._rows, self._gold, temperature=True, thresholds="half", wanted_precision=0.0
        ).temperature

    def _of(self, view: TaskModel | Shallow, model: TaskModel) -> dict[str, float]:
        logits = self.logits(view)
        facts = self._task.facts(model.head)
        predictions = self._task.decode(logits, self._rows, self._inputs, Calibration(), facts)
        return {name: score.value for name, score in self._task.score(self._gold, predictions, intervals=False).items()}

    def value(self, scores: dict[str, float]) -> float:
        """Return the score that decides, with its sign turned where lower is better."""
        name = self._settings.choose_by
        return -scores[name[1:]] if name.startswith("-") else scores[name]
