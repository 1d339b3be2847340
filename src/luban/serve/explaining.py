"""Explanations on a server: their many texts go through a lane that lets all requests in a hurry go first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from luban.bundle.explain import Scored, Scorer, Steps
from luban.records import Explanation

if TYPE_CHECKING:
    from luban.serve.batch import Answered, Lane


async def explain(
    lane: Lane, text: Any, label: str | None, n_rows: int, deadline: float, told: Callable[[Answered], None]
) -> Explanation:
    """Explain an answer, step by step.

    Args:
        lane: of a `Scorer`.
        text: what was answered.
        label: see `Scorer.steps`.
        n_rows: texts that may be answered for it.
        deadline: by `time.monotonic`.
        told: of each part of the texts that was answered.

    Raises:
        BadRequest: this can't be explained.
        ServeError: as `Lane.predict`.
    """
    scorer = lane.engine
    assert isinstance(scorer, Scorer)
    loop = asyncio.get_running_loop()
    # To cut a text hundreds of times and to solve for its weights takes milliseconds, which the loop does not have.
    steps = await loop.run_in_executor(None, scorer.steps, text, label, n_rows)
    found: list[Scored] | None = None
    while True:
        came = await loop.run_in_executor(None, _next, steps, found)
        if isinstance(came, Explanation):
            return came
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(lane.predict(rows, deadline)) for rows in lane.cut(came)]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the first one: the others were called off for it
        found = []
        for task in tasks:
            answered = task.result()
            told(answered)
            found += answered.predictions


def _next(steps: Steps, found: list[Scored] | None) -> list[str] | Explanation:
    """Go one step: return the texts to be answered, or the explanation."""
    try:
        return next(steps) if found is None else steps.send(found)
    except StopIteration as done:
        explanation: Explanation = done.value
        return explanation
