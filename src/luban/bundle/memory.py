"""Answers that were given before: in production the same short texts come again and again.

An answer depends on its own text alone, so that one which is remembered is the one that would be given again, but for
the last bits, which the company in a batch can change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

from luban.records import LabelScores, Prediction

_LONGEST = 1_000
"""Characters or tokens of a row that is remembered, at most: longer ones hardly come twice, and take much room."""


class Memory:
    """The newest answers to different rows; threads may share it."""

    def __init__(self, size: int) -> None:
        """Remember answers to so many rows, and forget the one that was asked for longest ago."""
        self.size = size
        self.n_asked = 0
        """Rows that were asked for."""
        self.n_known = 0
        """Those among them whose answer was remembered."""
        self._answers: OrderedDict[Hashable, Prediction] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, rows: Sequence[Any], predict: Callable[[Sequence[Any]], list[Prediction]]) -> list[Prediction]:
        """Return an answer a row, those that are not known from `predict`, which is asked for all of them at once."""
        keys = [tuple(row) if isinstance(row, list) else row for row in rows]
        with self._lock:
            found = [self._answers.get(key) for key in keys]
            for key, answer in zip(keys, found, strict=True):
                if answer is not None:
                    self._answers.move_to_end(key)
            self.n_asked += len(rows)
            self.n_known += sum(answer is not None for answer in found)
        missing = [place for place, answer in enumerate(found) if answer is None]
        new = dict(zip(missing, predict([rows[place] for place in missing]), strict=True)) if missing else {}
        with self._lock:
            for place, answer in new.items():
                if len(rows[place]) <= _LONGEST:
                    self._answers[keys[place]] = _alone(answer)
            while len(self._answers) > self.size:
                self._answers.popitem(last=False)
        return [new[place] if answer is None else answer for place, answer in enumerate(found)]


def _alone(answer: Prediction) -> Prediction:
    """Return an answer whose probabilities are not a view of those of all that it was made with."""
    if not isinstance(answer.scores, LabelScores):
        return answer
    return replace(answer, scores=LabelScores(answer.scores.labels, answer.scores.row.copy()))
