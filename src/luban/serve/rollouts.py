"""The trials of one serving process: found in the registry, begun, told of, judged, and ended.

Every process writes what it has counted and judges the sum of all once a poll. Which one is first to see that a trial
is over does not matter: the registry ends it once. Where the registry can't be reached, a process goes by its own
counts, and no longer asks a challenger that they speak against.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from luban.errors import LubanError
from luban.registry.trial import RUNNING, Counts, Rollout, rule
from luban.registry.version import parse
from luban.serve.batch import Batcher
from luban.serve.hosting import Hosting, Model
from luban.serve.rollout import Copies, Trial
from luban.serve.sources import Found, FromRegistry
from luban.serve.telemetry import Telemetry, event

if TYPE_CHECKING:
    from luban.registry.store import Registry

_PATIENCE = 10
"""A copy gives way to everything: the niceness of its thread."""


class Rollouts:
    """Looks after the trials of the models that a process hosts."""

    def __init__(
        self, hosting: Hosting, batcher: Batcher, telemetry: Telemetry, *, place: str, poll_s: float = 1.0
    ) -> None:
        """Look after trials.

        Args:
            hosting: has the models.
            batcher: runs their requests, and those of the challengers.
            telemetry: is told.
            place: the registry.
            poll_s: seconds between two looks.
        """
        self._hosting = hosting
        self._batcher = batcher
        self._telemetry = telemetry
        self._place = place
        self._poll_s = poll_s
        self._server = secrets.token_hex(16)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="luban-trials")
        self._registry: Registry | None = None
        self._copies: Copies | None = None
        self._noted: dict[int, int] = {}
        self._trouble = ""
        self._watching: asyncio.Task[None] | None = None
        self._models = {
            (reference.name, reference.alias): model
            for model in hosting.models
            if isinstance(model.source, FromRegistry) and (reference := parse(model.source.reference)).alias
        }

    def start(self) -> None:
        """Begin to look, where a model follows an alias: others are never on trial."""
        if self._models:
            self._watching = asyncio.create_task(self._watch())

    async def refresh(self) -> None:
        """Look once: tell what was counted, and begin and end what is to begin or end."""
        known = {key: model.trial for key, model in self._models.items() if model.trial is not None}
        told = [(trial.rollout, trial.n_counted, trial.counted()) for trial in known.values()]
        try:
            running = await self._in_thread(self._look, told)
        except Exception as error:
            self._alone(known, error)
            return
        self._trouble = ""
        for key, model in self._models.items():
            rollout = running.get(key)
            trial = model.trial
            if trial is not None and (rollout is None or rollout.id != trial.rollout.id):
                await self._end(model, trial)
            if rollout is not None and model.trial is None and model.served is not None:
                await self._begin(model, rollout)

    async def close(self) -> None:
        """Tell what was counted to the end, and let go of all."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            told = [(one.trial.rollout, -1, one.trial.counted()) for one in self._models.values() if one.trial]
            with suppress(Exception):
                await self._in_thread(self._note, told)
        if self._copies is not None:
            await self._copies.close()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        if self._registry is not None:
            self._registry.close()

    async def _watch(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception as error:  # the end of this loop would leave a challenger that nobody judges
                self._alone({key: model.trial for key, model in self._models.items() if model.trial}, error)
            await asyncio.sleep(self._poll_s)

    def _look(self, told: list[tuple[Rollout, int, Counts]]) -> dict[tuple[str, str], Rollout]:
        """Return the trials that run beside the models here, having told and judged them."""
        from luban.registry import audit, trials

        registry = self._note(told)
        running = {}
        for rollout in trials.rollouts(registry, running=True):
            key = rollout.name, rollout.alias
            if key in self._models:
                judged = trials.judge(registry, rollout, now=audit.now(), who=_who())
                if judged.state == RUNNING:
                    running[key] = judged
        return running

    def _note(self, told: list[tuple[Rollout, int, Counts]]) -> Registry:
        from luban.registry import trials
        from luban.registry.store import open_registry

        if self._registry is None:
            self._registry = open_registry(self._place)
        for rollout, n_counted, counts in told:
            if self._noted.get(rollout.id) != n_counted:
                trials.note(self._registry, rollout, self._server, counts)
                self._noted[rollout.id] = n_counted
        return self._registry

    async def _begin(self, model: Model, rollout: Rollout) -> None:
        if self._copies is None:
            aside = Batcher(runners=1, most_tokens=self._batcher.most_tokens, nice=_PATIENCE)
            self._copies = Copies(aside, lambda: self._batcher.n_waiting > 0)
        try:
            challenger = await self._hosting.beside(model, await self._in_thread(self._found, rollout))
        except Exception as error:  # a graph that fails while it is warmed raises what its runtime raises
            problem = error.message if isinstance(error, LubanError) else type(error).__name__
            event("trial.refused", logging.ERROR, version=str(rollout), problem=problem)
            self._telemetry.trial_ended(model.name, "rolled_back")
            await self._in_thread(self._refuse, rollout, f"it can't be opened: {problem}")
            return
        model.trial = Trial(rollout, challenger, self._copies, self._telemetry)
        self._telemetry.trial_began(challenger)
        terms = rollout.terms
        event("trial.begun", version=str(rollout), kind=rollout.kind, beside=rollout.alias, share=terms.share,
              by=terms.by, minutes=terms.minutes)  # fmt: skip

    async def _end(self, model: Model, trial: Trial) -> None:
        model.trial = None
        ended = await self._in_thread(self._ended, trial.rollout)
        event("trial.ended", version=str(ended), kind=ended.kind, state=ended.state, reason=ended.reason)
        self._telemetry.trial_ended(model.name, ended.state)

    def _alone(self, known: dict[tuple[str, str], Trial], error: Exception) -> None:
        """Go by what was counted here."""
        said = error.message if isinstance(error, LubanError) else type(error).__name__
        if said != self._trouble:
            event("trial.trouble", logging.ERROR, problem=said)
            self._trouble = said
        for trial in known.values():
            if not trial.off and (reasons := rule(trial.rollout, trial.counts).reasons):
                trial.off = True
                event("trial.off", logging.WARNING, version=str(trial.rollout), reason="; ".join(reasons))

    def _found(self, rollout: Rollout) -> Found:
        assert self._registry is not None
        registry, version = self._registry, self._registry.version(str(rollout))
        return Found(
            key=version.digest, folder=lambda: registry.bundle(version), number=version.number, digest=version.digest
        )

    def _refuse(self, rollout: Rollout, reason: str) -> None:
        from luban.registry import trials

        assert self._registry is not None
        trials.end(self._registry, rollout, "rolled_back", reason, who=_who())

    def _ended(self, rollout: Rollout) -> Rollout:
        from luban.registry import trials

        assert self._registry is not None
        return next(one for one in trials.rollouts(self._registry, rollout.name) if one.id == rollout.id)

    async def _in_thread(self, function: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *given)


def _who() -> str:
    return f"luban serve on {socket.gethostname()}"
