"""Let rows whose label the model does not believe teach less: for data in which many labels are wrong.

A model learns what most rows say before it learns single rows by heart (Arpit et al. 2017), so that what it does not
believe by then is often wrong. The gradient is that of generalised cross entropy (Zhang and Sabuncu 2018), which lies
between cross entropy and the mean absolute error, and of which label smoothing and class weights can be part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from luban.objectives.terms import Weighed, needs_single_answers

if TYPE_CHECKING:
    from luban.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the objective `noisy-labels`."""

    q: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    """A label with probability p counts p to this power; 0 is cross entropy, 1 trusts least and learns slowest."""


def make(options: Options, task: Task) -> Weighed:
    """Return the objective.

    Raises:
        PluginError: the task's loss has no terms by row or token, as that of a conditional random field.
    """
    needs_single_answers("noisy-labels", task)
    return Weighed(lambda log_right: (options.q * log_right.detach()).exp())
