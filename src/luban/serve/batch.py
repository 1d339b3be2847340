"""Micro-batching: requests that wait are answered together, as the engine would answer each alone.

Nobody waits for company. A batch is what had queued up while the last one ran; where the engine is free, a request
runs at once. From what waits, the oldest request is taken, and those nearest to it in length with it, as long as the
batch costs no more than a pass of the engine does and all will be done before their deadlines by the pace that was
measured. Which model runs next is decided by the oldest request too. A lane that is in no hurry runs small batches when
the others have nothing to do, and one now and then when they always have; it leaves a thread free where there are two.

Threads take batches; the event loop queues them and hands out answers. Tokenising is the threads' work: the tokeniser
lets go of the interpreter, and a batch is tokenised in less time than its rows one by one. Where requests come one by
one for a while, and are short, the event loop answers them itself: to wake a thread and to be woken by it takes a fifth
of such an answer's time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from luban.errors import DeadlineExceeded, Overloaded, TooLarge, Unavailable
from luban.serve.pace import Pace

if TYPE_CHECKING:
    from luban.models.processor import Processor
    from luban.records import Encoded

BATCH_TOKENS = 512
"""Tokens of a batch, at most, where two run at once: the engine makes passes of it that cost least. From 384 on the
rate is that of the engine alone, and what is in a batch waits for its end."""
_ASCII_CHARACTERS = 4.0
"""Characters of a token, in ASCII and outside, to begin with; a lane learns what is true of its texts."""
_SPECIAL_TOKENS = 2
_PATIENCE_S = 0.25
"""Seconds from one batch in no hurry to the next, where there is always one in a hurry: so that both go on."""
_PATIENT_TOKENS = 64
"""Tokens of a batch in no hurry, at most: so long a request in a hurry may find the thread taken."""
_IN_A_ROW = 8
"""Requests that must have come when nothing waited or ran, before the event loop answers the next."""
_SHORT_S = 0.01
"""For so long the event loop may be busy with an answer, by the pace: others wait for it at worst."""
_SAFETY = 1.25
"""How much longer than predicted a batch may take before it breaks a deadline."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to one request, and what it took."""

    predictions: list[Any]
    """One a row, in their order: of an engine, `Prediction`."""
    n_tokens: int
    """Of its rows, without padding."""
    waited_s: float
    """Until its batch was taken."""
    ran_s: float
    """From then to its answers."""
    batch_rows: int
    """Rows of the batch, its own among them."""
    batch_tokens: int
    """Tokens of the batch, without padding."""


@dataclass(slots=True, eq=False)
class _Job:
    """One request's rows, on their way."""

    rows: list[Any]
    cost: int
    """Tokens of all rows, as estimated: the engine runs near lengths together, and pads little."""
    longest: int
    """Tokens of the longest, as estimated."""
    since: float
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answered]


_Outcome = tuple[_Job, Answered | Exception]


@dataclass(frozen=True, slots=True)
class Batch:
    """What was told of a batch, for telemetry."""

    name: str
    rows: int
    tokens: int
    seconds: float


class Answering(Protocol):
    """What a lane asks: an engine, or what gives something else for the same rows."""

    @property
    def processor(self) -> Processor:
        """Tokenises."""
        ...

    def checked(self, rows: Sequence[Any]) -> list[Any]:
        """Return rows that can be tokenised; see `Engine.checked`."""
        ...

    def encode(self, rows: Sequence[Any]) -> Encoded:
        """Tokenise rows."""
        ...

    def answer(self, rows: Sequence[Any]) -> tuple[list[Any], Encoded]:
        """Answer rows that `checked` returned, and tell what they were tokenised to."""
        ...


class Lane:
    """One engine's queue. It is gone when nobody holds it."""

    def __init__(self, batcher: Batcher, engine: Answering, name: str, *, patient: bool = False) -> None:
        self._batcher = batcher
        self.engine = engine
        self.name = name
        self.patient = patient
        self.batch_tokens = min(batcher.batch_tokens, _PATIENT_TOKENS) if patient else batcher.batch_tokens
        self._taken = 0.0
        """When a batch was last taken off the queue; under the batcher's lock."""
        self.pace = Pace()
        self.waiting: list[_Job] = []
        """The oldest first; under the batcher's lock."""
        self.n_running = 0
        """Batches of it that run; under the batcher's lock."""
        self.running_tokens = 0
        self._ratio = 1.0
        """Tokens there were for each that was estimated."""
        settings = engine.processor.settings
        self._window = settings.max_length
        self._cuts = settings.long_text != "chunk"

    async def predict(self, rows: Sequence[Any], deadline: float) -> Answered:
        """Answer rows, as `Engine.predict` does, together with others that wait.

        Args:
            rows: texts, or lists of tokens where the task takes them.
            deadline: by `time.monotonic`.

        Raises:
            BadRequest: a row is of another type.
            TooLarge: a row has more tokens than a server lets through.
            Overloaded: by the measured pace, the deadline can't be kept.
            DeadlineExceeded: it was not kept.
            Unavailable: the server stops.
        """
        checked = self.engine.checked(rows)
        loop = asyncio.get_running_loop()
        await self._check_tokens(checked, loop)
        now = time.monotonic()
        sizes = [self._tokens(row) for row in checked]
        job = _Job(checked, sum(sizes), max(sizes, default=0), now, deadline, loop, loop.create_future())
        self._batcher.put(self, job, now)
        timer = loop.call_later(max(0.0, deadline - now), _expire, job)
        try:
            return await job.future
        finally:
            timer.cancel()

    async def _check_tokens(self, rows: Sequence[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Refuse rows that fill more windows than a server lets through.

        Raises:
            TooLarge: there is one; the message has its index, from 0.
        """
        most = self._batcher.most_tokens
        if self._cuts or max(map(len, rows), default=0) <= most:
            return  # a token has a character at least
        encoded = await loop.run_in_executor(None, self.engine.encode, rows)
        tokens = np.bincount(encoded.rows, weights=encoded.lengths, minlength=len(rows))
        if tokens.max() > most:
            row = int(tokens.argmax())
            raise TooLarge(
                f"row {row}: got {int(tokens[row])} tokens, wanted {most} at most", hint="cut the text into parts"
            )

    def _tokens(self, row: Any) -> int:
        """Return how many tokens a row will have, about."""
        if isinstance(row, str):
            found = len(row) / _ASCII_CHARACTERS if row.isascii() else len(row)
        else:
            found = 1.5 * len(row)
        tokens = int(found * self._ratio) + _SPECIAL_TOKENS
        return min(tokens, self._window) if self._cuts else tokens

    def cut(self, rows: Sequence[Any]) -> list[list[Any]]:
        """Return rows in lists, in their order, each of which is about a batch."""
        lists: list[list[Any]] = []
        room = 0
        for row in rows:
            tokens = self._tokens(row)
            if tokens > room or not lists:
                lists.append([])
                room = self.batch_tokens
            lists[-1].append(row)
            room -= tokens
        return lists

    def take(self, now: float) -> tuple[list[_Job], list[_Job]]:
        """Take what runs next off the queue, and what is too late for its deadline; under the batcher's lock."""
        late: list[_Job] = []
        waiting: list[_Job] = []
        for job in self.waiting:
            if not job.future.done():
                (waiting if now + self.pace.seconds(job.cost) <= job.deadline else late).append(job)
        if not waiting:
            self.waiting = []
            return [], late
        batch, left = waiting[:1], waiting[1:]
        cost, first_deadline = batch[0].cost, batch[0].deadline
        if left:
            longest_first = batch[0].longest
            left.sort(key=lambda job: (abs(job.longest - longest_first), job.since))
            stay: list[_Job] = []
            for job in left:
                both, due = cost + job.cost, min(first_deadline, job.deadline)
                if both <= self.batch_tokens and now + _SAFETY * self.pace.seconds(both) <= due:
                    batch.append(job)
                    cost, first_deadline = both, due
                else:
                    stay.append(job)
            stay.sort(key=lambda job: job.since)
            left = stay
        self.waiting = left
        self._taken = now
        return batch, late

    @property
    def turn(self) -> float:
        """When it is its turn, by `time.monotonic`: the lane that is earliest goes first; under the batcher's lock."""
        since = self.waiting[0].since
        return max(since, self._taken) + _PATIENCE_S if self.patient else since

    def learn(self, estimated: int, actual: int, seconds: float) -> None:
        """Learn from a batch that ran; under the batcher's lock."""
        self.pace.add(actual, seconds)
        if estimated > 0:
            self._ratio = min(4.0, max(0.1, self._ratio * (1 + 0.05 * (actual / estimated - 1))))

    def wait_s(self, runners: int) -> float:
        """Return how long what waits and runs will take; under the batcher's lock."""
        ahead = sum(job.cost for job in self.waiting) + self.running_tokens
        passes = -(-ahead // self.batch_tokens)
        return (passes * self.pace.begin_s + ahead * self.pace.token_s) / runners if ahead else 0.0


class Batcher:
    """Runs the batches of all lanes on its own threads."""

    def __init__(
        self,
        *,
        runners: int = 1,
        batch_tokens: int = BATCH_TOKENS,
        most_tokens: int = 512,
        on_batch: Callable[[Batch], None] | None = None,
        nice: int = 0,
    ) -> None:
        """Begin.

        Args:
            runners: batches that run at once.
            batch_tokens: tokens of a batch, at most; a request is never cut in two.
            most_tokens: tokens of a row, at most, where its model reads it in windows.
            on_batch: told of every batch, from the thread that ran it.
            nice: how much its threads give way to others, as `nice` has it; without effect but on Linux.
        """
        self.runners = runners
        self.batch_tokens = batch_tokens
        self.most_tokens = most_tokens
        self._on_batch = on_batch
        self._nice = nice
        self._changed = threading.Condition()
        self._lanes: dict[Lane, None] = {}
        """Those with something to do."""
        self._closed = False
        self._n_alone = 0
        """Requests in a row that came when nothing waited or ran."""
        self._threads = [
            threading.Thread(target=self._work, name=f"luban-batch-{number}", daemon=True) for number in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    def lane(self, engine: Answering, name: str, *, patient: bool = False) -> Lane:
        """Return a queue for an engine; `name` is for messages. What is patient lets all else go first."""
        return Lane(self, engine, name, patient=patient)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a batch."""
        with self._changed:
            return sum(len(lane.waiting) for lane in self._lanes)

    def put(self, lane: Lane, job: _Job, now: float) -> None:
        """Queue a request.

        Raises:
            Overloaded: its deadline can't be kept, by the pace.
            Unavailable: the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("the server is about to stop", hint="ask another one")
            before = [one for one in self._lanes if lane.patient or not one.patient]
            wait_s = sum(one.wait_s(self.runners) for one in before) if before else 0.0
            if wait_s and now + wait_s + lane.pace.seconds(job.cost) > job.deadline:
                raise Overloaded(
                    f"{lane.name}: {wait_s:.1f} s of work wait already", retry_after_s=wait_s, hint="ask again later"
                )
            self._n_alone = 0 if self._lanes else self._n_alone + 1
            lane.waiting.append(job)
            self._lanes[lane] = None
            here = self._n_alone > _IN_A_ROW and not lane.patient and lane.pace.seconds(job.cost) <= _SHORT_S
            if not here:
                self._changed.notify()
        if here:  # after all that is ready to run just now, other requests among it
            job.loop.call_soon(self._answer_here, lane)

    def close(self) -> None:
        """Answer what waits, take no more, and return when the threads are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        if self._nice and sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while True:
            with self._changed:
                while not (ready := self._ready()):
                    if self._closed:
                        return
                    self._changed.wait()
                lane = min(ready, key=lambda lane: lane.turn)
                batch, late, now = self._take(lane)
            _deliver(late)
            # Only when it has ended: who has an answer and asks again at once finds the lane free.
            _deliver(self._run(lane, batch, now))
            del lane, batch, late, ready  # an engine that was swapped out goes when its last batch is done

    def _answer_here(self, lane: Lane) -> None:
        """Answer the request that waits, on the event loop, if it is still the only one."""
        with self._changed:
            if list(self._lanes) != [lane] or len(lane.waiting) != 1 or lane.n_running:
                self._n_alone = 0
                self._changed.notify()
                return
            batch, late, now = self._take(lane)
        _settle([*late, *self._run(lane, batch, now)])

    def _take(self, lane: Lane) -> tuple[list[_Job], list[_Outcome], float]:
        """Take a batch, which then runs, what came too late, and when that was; under the lock."""
        now = time.monotonic()
        batch, late = lane.take(now)
        if batch:
            lane.n_running += 1
            lane.running_tokens += sum(job.cost for job in batch)
        elif not lane.n_running:
            self._lanes.pop(lane, None)
        return batch, [(job, _too_late(job, now)) for job in late], now

    def _run(self, lane: Lane, batch: list[_Job], now: float) -> list[_Outcome]:
        """Answer what `_take` returned."""
        if not batch:
            return []
        outcomes = self._outcomes(lane, batch, now)
        with self._changed:
            lane.n_running -= 1
            lane.running_tokens -= sum(job.cost for job in batch)
            if lane.patient:
                self._changed.notify()  # another batch of such a lane may have waited for its end
            if not lane.waiting and not lane.n_running:
                self._lanes.pop(lane, None)
        return outcomes

    def _ready(self) -> list[Lane]:
        """Return the lanes whose next batch may run; those in no hurry leave a thread free, if there are two."""
        patient = sum(lane.n_running for lane in self._lanes if lane.patient) < max(1, self.runners - 1)
        return [lane for lane in self._lanes if lane.waiting and (patient or not lane.patient)]

    def _outcomes(self, lane: Lane, batch: list[_Job], now: float) -> list[_Outcome]:
        """Answer a batch; where it fails, each of its requests alone, so that only the one at fault fails."""
        try:
            return self._answer(lane, batch, now)
        except BaseException as error:
            if len(batch) == 1:
                if not isinstance(error, Exception):
                    _log.critical("a batch was stopped by %s", type(error).__name__)
                return [(batch[0], error if isinstance(error, Exception) else RuntimeError(repr(error)))]
            return [outcome for job in batch for outcome in self._outcomes(lane, [job], now)]

    def _answer(self, lane: Lane, batch: list[_Job], now: float) -> list[_Outcome]:
        rows = [row for job in batch for row in job.rows]
        begun = time.monotonic()
        predictions, encoded = lane.engine.answer(rows)
        ran_s = time.monotonic() - begun
        lengths = encoded.lengths
        of_row = np.bincount(encoded.rows, weights=lengths, minlength=len(rows)).astype(int).tolist()
        n_tokens = int(lengths.sum())
        with self._changed:
            lane.learn(sum(job.cost for job in batch), n_tokens, ran_s)
        if self._on_batch is not None:
            self._on_batch(Batch(lane.name, len(rows), n_tokens, ran_s))
        outcomes: list[_Outcome] = []
        begin = 0
        for job in batch:
            end = begin + len(job.rows)
            found = Answered(
                predictions[begin:end], sum(of_row[begin:end]), now - job.since, ran_s, len(rows), n_tokens
            )  # fmt: skip
            outcomes.append((job, found))
            begin = end
        return outcomes


def _deliver(outcomes: list[_Outcome]) -> None:
    """Hand answers to the loops that wait for them; a loop that has ended meanwhile waits for nothing."""
    loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for job, outcome in outcomes:
        loops.setdefault(job.loop, []).append((job, outcome))
    for loop, some in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, some)
        except RuntimeError:
            _log.debug("answers came after their loop had ended")


def _settle(outcomes: list[_Outcome]) -> None:
    for job, outcome in outcomes:
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)


def _expire(job: _Job) -> None:
    if not job.future.done():
        job.future.set_exception(_too_late(job, time.monotonic()))


def _too_late(job: _Job, now: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no answer within {job.deadline - job.since:.1f} s, after {now - job.since:.1f} s of waiting",
        hint="ask for fewer texts at once, or later",
    )
