"""What watches training: a loss that goes wrong, and a score that no longer gets better."""

from __future__ import annotations

import math
from dataclasses import replace

from luban.train.resume import Place

FIRST_STEPS = 10
"""Steps whose mean loss is what a later one is judged by."""
EXPLODED = 5.0
"""A smoothed loss this many times the first steps' has exploded."""
LEAST = 1.0
"""What the first steps' loss counts for at least. Where training begins with next to none, as a model that learns the
answers of the one it was cut from, a few rows that it gets wrong raise a batch's many times."""
SMOOTH = 0.9


class LossWatch:
    """Tells a loss that is not finite, or that has exploded."""

    def __init__(self, first_loss: float | None) -> None:
        """Store the mean loss of the first steps where it is known from an earlier part of the run.

        Smoothing goes on from it: after going back, the batch that was met before must not decide alone.
        """
        self.first_loss = first_loss
        self._sum, self._seen = 0.0, 0
        self._smooth = first_loss

    def wrong(self, loss: float, grad_norm: float) -> str:
        """Return what is wrong with one step, or nothing; call it once a step."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        self._smooth = loss if self._smooth is None else SMOOTH * self._smooth + (1 - SMOOTH) * loss
        if self.first_loss is None:
            self._sum, self._seen = self._sum + loss, self._seen + 1
            if self._seen == FIRST_STEPS:
                self.first_loss = self._sum / FIRST_STEPS
        elif self._smooth > EXPLODED * max(self.first_loss, LEAST):
            return f"the loss has risen to {self._smooth:.3g}, from {self.first_loss:.3g} at the start"
        return ""


def judge(place: Place, scores: dict[str, float], choose_by: str) -> tuple[Place, bool]:
    """Return the place with a measurement taken into account, and whether it is the best so far.

    Args:
        place: before the measurement.
        scores: validation scores by name.
        choose_by: the score that decides; a name that starts with `-` is better when lower.
    """
    value = -scores[choose_by[1:]] if choose_by.startswith("-") else scores[choose_by]
    if place.best is None or value > place.best:
        return replace(place, best=value, without_better=0), True
    return replace(place, without_better=place.without_better + 1), False
