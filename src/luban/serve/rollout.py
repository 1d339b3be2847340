"""A challenger beside the champion, in one serving process: who gets it, what is counted, and how nobody is harmed.

As a canary the challenger answers a share of the requests. What it can't answer in four fifths of the time there is,
the champion answers, so that a bad challenger costs time and no answer. Each text that it has answered goes to the
champion too, afterwards, to see whether they agree. As a shadow it gets copies of requests after their answer, and
nobody gets what it says. Copies run on a thread of their own at a low priority, a few at a time, each text once; while
requests wait for a batch, none is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.errors import BadRequest, Overloaded, ServeError, Unavailable
from luban.registry.trial import Counts, Rollout, bucket, same
from luban.serve.access import Headers
from luban.serve.asked import ASKED, Asked
from luban.serve.hosting import Answer, Served
from luban.serve.telemetry import Telemetry, event

if TYPE_CHECKING:
    from luban.records import Prediction
    from luban.serve.batch import Answered, Batcher

_CHALLENGER_TIME = 0.8
"""Share of the time for an answer that a challenger has; what is left is the champion's."""
_COPIES = 8
"""Copies that are under way at once."""
_COPY_S = 10.0
_REMEMBERED = 20_000
"""Texts and callers that are kept as hashes, so that each counts once."""
_KEPT = 1024
_LEAST = 100
"""Times of a champion's batches of one size, at most and at least, of which a percentile is taken."""


class Slowness:
    """What is slow for the champion: a multiple of its 99th percentile, by the size of the batch.

    Sizes are told apart by powers of two of their tokens. Where the champion has run too few batches of a size,
    the next larger one stands for it: that is in favour of the challenger.
    """

    def __init__(self, times: float) -> None:
        self._times = times
        self._kept: dict[int, deque[float]] = {}
        self._limits: dict[int, float] = {}

    def is_slow(self, tokens: int, seconds: float) -> bool | None:
        """Tell whether a batch took too long; None where that is not known yet."""
        size = tokens.bit_length()
        limit = next((self._limits[one] for one in sorted(self._limits) if one >= size), None)
        return None if limit is None else seconds > limit

    def add(self, tokens: int, seconds: float) -> None:
        """Learn from a batch of the champion."""
        size = tokens.bit_length()
        kept = self._kept.setdefault(size, deque(maxlen=_KEPT))
        kept.append(seconds)
        if len(kept) == _LEAST or (len(kept) > _LEAST and random.random() < 0.03):
            self._limits[size] = self._times * float(np.quantile(np.array(kept), 0.99, method="higher"))


class Copies:
    """Work that nobody waits for."""

    def __init__(self, batcher: Batcher, busy: Callable[[], bool]) -> None:
        """Begin; `batcher` is for copies alone, and `busy` tells whether there are better things to do."""
        self.batcher = batcher
        self._busy = busy
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Begin some work, if there is room and nothing better to do; tell whether it was begun."""
        if len(self._tasks) >= _COPIES or self._busy():
            return False
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self.batcher.close)


class Trial:
    """One challenger beside one champion. For the event loop alone."""

    def __init__(self, rollout: Rollout, challenger: Served, copies: Copies, telemetry: Telemetry) -> None:
        self.rollout = rollout
        self.challenger = challenger
        self.counts = Counts()
        self.off = False
        """Nobody gets the challenger any more; what it was judged by stays."""
        self._copies = copies
        self._telemetry = telemetry
        self._slowness = Slowness(rollout.terms.slower_at_most)
        self._lanes: dict[Served, Any] = {}
        self._seen: dict[str, set[bytes]] = {}
        self._told = 0.0

    async def predict(self, champion: Served, rows: Sequence[Any], deadline: float) -> Answer:
        """Answer rows, by the champion or the challenger; see `Hosting.predict`."""
        if self.off or champion.number != self.rollout.champion:
            return Answer(champion, await champion.lane.predict(rows, deadline))
        asked = ASKED.get()
        who = _caller(self.rollout.terms.by, asked)
        chosen = _chosen(self.rollout, who)
        if chosen and self.rollout.kind == "canary":
            return await self._by_challenger(champion, rows, deadline, asked, who)
        answered = await self._by_champion(champion, rows, deadline, asked)
        if chosen:
            self._copy(self.challenger, rows, answered.predictions[0])
        if self.rollout.kind == "shadow" or (self.rollout.terms.by and who is None):
            return Answer(champion, answered)  # chance had no part in it
        return Answer(champion, answered, self.rollout.id, _unit(self.rollout, who))

    async def _by_champion(
        self, champion: Served, rows: Sequence[Any], deadline: float, asked: Asked | None
    ) -> Answered:
        try:
            answered = await champion.lane.predict(rows, deadline)
        except (BadRequest, Overloaded, Unavailable):
            raise
        except Exception:
            self.counts.champion += 1
            self._failed("champion", asked)
            raise
        self.counts.champion += 1
        self._timed("champion", answered, asked)
        self._slowness.add(answered.batch_tokens, answered.ran_s)
        return answered

    async def _by_challenger(
        self, champion: Served, rows: Sequence[Any], deadline: float, asked: Asked | None, who: bytes | None
    ) -> Answer:
        now = time.monotonic()
        sooner = now + _CHALLENGER_TIME * (deadline - now)
        try:
            answered = await self.challenger.lane.predict(rows, sooner)
        except (Overloaded, Unavailable):
            raise
        except Exception as error:
            # What the champion refuses too is the caller's own fault; its refusal is raised here.
            instead = await champion.lane.predict(rows, deadline)
            self.counts.challenger += 1
            self._failed("challenger", asked)
            self._tell(error)
            return Answer(champion, instead)
        self.counts.challenger += 1
        self._timed("challenger", answered, asked)
        self._copy(champion, rows, answered.predictions[0])
        return Answer(self.challenger, answered, self.rollout.id, _unit(self.rollout, who))

    def _copy(self, to: Served, rows: Sequence[Any], said: Prediction) -> None:
        """Ask another version the first of the rows later, and see whether it says the same."""
        if not self._is_first("text", repr(rows[0]).encode("utf-8", "replace")):
            return

        async def compare() -> None:
            lane = self._lanes.get(to) or self._lanes.setdefault(to, self._copies.batcher.lane(to.engine, to.name))
            try:
                other = await lane.predict([rows[0]], time.monotonic() + _COPY_S)
            except ServeError:  # too late, or the server stops: that says nothing of an answer
                self._count("dropped", "dropped")
                return
            except Exception as error:
                if to is self.challenger:
                    self.counts.challenger += 1
                    self._failed("challenger", None)
                    self._tell(error)
                return
            if to is self.challenger:
                self.counts.challenger += 1
                self._timed("challenger", other, None)
            self.counts.compared += 1
            if same(said, other.predictions[0]):
                self._telemetry.trial(self.challenger, "challenger", "agreed")
            else:
                self._count("disagreed", "disagreed")

        if not self._copies.offer(compare):
            self._count("dropped", "dropped")

    def _timed(self, arm: str, answered: Answered, asked: Asked | None) -> None:
        """Count an answer, and how long its batch took."""
        getattr(self.counts, f"{arm}_ms")[bucket(answered.ran_s)] += 1
        self._telemetry.trial(self.challenger, arm, "answered", answered.ran_s)
        slow = self._slowness.is_slow(answered.batch_tokens, answered.ran_s)
        if slow is None:
            return
        setattr(self.counts, f"{arm}_timed", getattr(self.counts, f"{arm}_timed") + 1)
        if slow and self._is_first_of_caller(f"{arm} slow", asked):
            self._count(f"{arm}_slow", "slow", arm)

    def _failed(self, arm: str, asked: Asked | None) -> None:
        if self._is_first_of_caller(f"{arm} failed", asked):
            self._count(f"{arm}_failed", "failed", arm)

    def _count(self, what: str, outcome: str, arm: str = "challenger") -> None:
        setattr(self.counts, what, getattr(self.counts, what) + 1)
        self._telemetry.trial(self.challenger, arm, outcome)

    def _is_first_of_caller(self, what: str, asked: Asked | None) -> bool:
        """Tell whether this befalls a caller for the first time.

        Where a caller keeps its version, what befalls it a hundred times is chosen once by lot, and counts once.
        """
        who = _caller(self.rollout.terms.by, asked)
        return who is None or self._is_first(what, who)

    def _is_first(self, what: str, of: bytes) -> bool:
        seen = self._seen.setdefault(what, set())
        hashed = hashlib.blake2b(of, digest_size=8).digest()
        if hashed in seen or len(seen) >= _REMEMBERED:
            return False
        seen.add(hashed)
        return True

    def _tell(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._told >= 1.0:
            self._told = now
            event("trial.failure", logging.WARNING, version=str(self.rollout), problem=_described(error))

    def counted(self) -> Counts:
        """Return a copy of what was counted."""
        found = Counts()
        found.add(self.counts)
        return found

    @property
    def n_counted(self) -> int:
        """Changes whenever something was counted."""
        return sum(value for one in fields(Counts) if isinstance(value := getattr(self.counts, one.name), int))


def _described(error: Exception) -> str:
    """Return the kind of an error, and what Luban's own say: others may quote a text."""
    return f"{type(error).__name__}: {error.message}" if isinstance(error, ServeError) else type(error).__name__


def _chosen(rollout: Rollout, who: bytes | None) -> bool:
    """Tell whether a request is for the challenger."""
    if not rollout.terms.by:
        return random.random() < rollout.terms.share
    if who is None:  # whoever does not say who it is stays with the champion
        return False
    return int.from_bytes(_unit(rollout, who), "big") < rollout.terms.share * 2**64


def _unit(rollout: Rollout, who: bytes | None) -> bytes:
    """Return what a caller's lot is drawn by, another one in each trial; nothing where each request has its own."""
    return b"" if who is None else hashlib.blake2b(who, digest_size=8, salt=str(rollout.id).encode()[:16]).digest()


def _caller(by: str, asked: Asked | None) -> bytes | None:
    """Return what tells callers apart; None where it is not there, or nothing is to tell them apart."""
    if not by or asked is None:
        return None
    if by == "key":
        return asked.principal.name.encode() if asked.principal else None
    return _header(asked.headers, by.removeprefix("header:").strip().lower().encode())


def _header(headers: Headers, name: bytes) -> bytes | None:
    return next((value for one, value in headers if one == name), None)
