"""Requests that wait are answered together, each as if it were alone, in time or not at all."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.bundle.made import texts

from luban.bundle.engine import Engine
from luban.errors import BadRequest, DeadlineExceeded, Overloaded, TooLarge, Unavailable
from luban.models.processor import Processor
from luban.records import Prediction
from luban.serve.batch import Answered, Batch, Batcher, Lane
from luban.serve.pace import Pace

ROWS = texts(60, seed=3)


def later(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


@contextmanager
def batching(**given: Any) -> Iterator[Batcher]:
    batcher = Batcher(**given)
    try:
        yield batcher
    finally:
        batcher.close()


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


def same(found: Sequence[Prediction], wanted: Sequence[Prediction]) -> bool:
    """Tell whether answers are the same, but for the last bits that the company in a batch changes."""
    return [one.labels for one in found] == [one.labels for one in wanted] and all(
        one.score == pytest.approx(other.score, abs=1e-5) for one, other in zip(found, wanted, strict=True)
    )


class Held:
    """An engine's runner that waits until it is let go, so that a queue forms."""

    def __init__(self, engine: Engine) -> None:
        self.threads = 1
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.sizes: list[int] = []
        self._runner = engine.runner
        self.engine = replace(engine, runner=self)

    def run(self, ids: Any, mask: Any) -> Any:
        self.sizes.append(len(ids))
        self.begun.release()
        assert self.go.wait(30)
        return self._runner.run(ids, mask)


@pytest.fixture(scope="module")
def wanted(engine: Engine) -> list[Prediction]:
    return engine.predict(ROWS)


Arrivals = list[tuple[list[int], int]]


@given(
    arrivals=st.lists(
        st.tuples(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=6), st.integers(0, 3)), max_size=25
    ),
    runners=st.integers(1, 3),
    batch_tokens=st.sampled_from([1, 40, 512]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whenever_requests_come_each_gets_its_own_answer(
    engine: Engine, wanted: list[Prediction], arrivals: Arrivals, runners: int, batch_tokens: int
) -> None:
    async def main() -> list[Answered]:
        async def one(rows: list[int], turns: int) -> Answered:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await lane.predict([ROWS[row] for row in rows], later())

        return await asyncio.gather(*(one(rows, turns) for rows, turns in arrivals))

    with batching(runners=runners, batch_tokens=batch_tokens) as batcher:
        lane = batcher.lane(engine, "bank")
        found = run(main())
    for (rows, _), answered in zip(arrivals, found, strict=True):
        assert same(answered.predictions, [wanted[row] for row in rows])


def test_what_waits_goes_together_and_nobody_waits_for_company(engine: Engine) -> None:
    held, told = Held(engine), list[Batch]()

    async def main() -> list[Answered]:
        first = asyncio.create_task(lane.predict(ROWS[:1], later()))
        await asyncio.to_thread(held.begun.acquire)
        others = [asyncio.create_task(lane.predict([row], later())) for row in ROWS[1:9]]
        while batcher.n_waiting < 8:
            await asyncio.sleep(0)
        held.go.set()
        return [await first, *(await asyncio.gather(*others))]

    with batching(on_batch=told.append) as batcher:
        lane = batcher.lane(held.engine, "bank")
        found = run(main())
    assert [one.batch_rows for one in found] == [1] + [8] * 8
    assert [batch.rows for batch in told] == [1, 8]
    assert sum(batch.tokens for batch in told) == sum(one.n_tokens for one in found) == engine.encode(ROWS[:9]).ids.size


class Seen:
    """An engine's runner that notes which thread it runs on."""

    def __init__(self, engine: Engine) -> None:
        self.threads = 1
        self.on: list[int] = []
        self._runner = engine.runner
        self.engine = replace(engine, runner=self)

    def run(self, ids: Any, mask: Any) -> Any:
        self.on.append(threading.get_ident())
        return self._runner.run(ids, mask)


def test_requests_one_by_one_are_answered_on_the_loop_and_others_are_not(
    engine: Engine, wanted: list[Prediction]
) -> None:
    class Slow(Pace):
        def seconds(self, tokens: int) -> float:
            return 1.0

    seen = Seen(engine)

    async def main() -> list[Answered]:
        found = [await lane.predict([row], later()) for row in ROWS[:20]]
        n_alone = len(seen.on)
        assert seen.on[0] != threading.get_ident(), "at first nobody knows whether more will come"
        assert seen.on[12:] == [threading.get_ident()] * 8
        together = await asyncio.gather(*(lane.predict([row], later()) for row in ROWS[20:30]))
        assert threading.get_ident() not in seen.on[n_alone:], "where there are several, none keeps the loop busy"
        found += together
        n_together = len(seen.on)
        found += [await lane.predict([row], later()) for row in ROWS[30:34]]
        assert threading.get_ident() not in seen.on[n_together:], "there may be others again"
        lane.pace = Slow()
        found += [await lane.predict([row], later()) for row in ROWS[34:50]]
        assert threading.get_ident() not in seen.on[n_together:], "what takes long keeps no other waiting"
        return found

    with batching() as batcher:
        lane = batcher.lane(seen.engine, "bank")
        found = run(main())
    assert same([answered.predictions[0] for answered in found], wanted[:50])


def test_what_fails_on_the_loop_fails_alone(engine: Engine) -> None:
    class Failing(Seen):
        def run(self, ids: Any, mask: Any) -> Any:
            if len(self.on) == 12:
                self.on.append(0)
                raise ValueError("a broken product")
            return super().run(ids, mask)

    failing = Failing(engine)

    async def main() -> None:
        for number, row in enumerate(ROWS[:20]):
            if number == 12:
                with pytest.raises(ValueError, match="a broken product"):
                    await lane.predict([row], later())
            elif number == 15:
                with pytest.raises(DeadlineExceeded):
                    await lane.predict([row], time.monotonic() - 1)
            else:
                await lane.predict([row], later())
        assert failing.on[13:] == [threading.get_ident()] * 6

    with batching() as batcher:
        lane = batcher.lane(failing.engine, "bank")
        run(main())


def test_a_short_one_takes_short_company_and_the_oldest_goes_first(engine: Engine) -> None:
    held = Held(engine)
    short, long = "a", " ".join(["where"] * 30)
    order: list[str] = []

    async def main() -> None:
        async def ask(name: str, text: str) -> None:
            await lane.predict([text], later())
            order.append(name)

        tasks = [asyncio.create_task(ask("first", short))]
        await asyncio.to_thread(held.begun.acquire)
        for name, text in [
            ("long 1", long),
            ("short 1", short + "b"),
            ("long 2", long + "b"),
            ("short 2", short + "c"),
        ]:
            tasks.append(asyncio.create_task(ask(name, text)))
            await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(*tasks)

    with batching(batch_tokens=81) as batcher:
        lane = batcher.lane(held.engine, "bank")
        run(main())
    assert order == ["first", "long 1", "long 2", "short 1", "short 2"]


def test_what_is_in_no_hurry_lets_all_else_go_first_and_in_small_batches(engine: Engine) -> None:
    held, told = Held(engine), list[Batch]()

    async def main() -> None:
        first = asyncio.create_task(hurried.predict(ROWS[:1], later()))
        await asyncio.to_thread(held.begun.acquire)
        patient = [asyncio.create_task(aside.predict([row], later())) for row in ROWS]
        while batcher.n_waiting < len(ROWS):
            await asyncio.sleep(0)
        others = [asyncio.create_task(hurried.predict([row], later())) for row in ROWS[:3]]
        while batcher.n_waiting < len(ROWS) + 3:
            await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(first, *others, *patient)

    with batching(on_batch=told.append) as batcher:
        hurried, aside = batcher.lane(held.engine, "bank"), batcher.lane(held.engine, "aside", patient=True)
        run(main())
    assert [batch.name for batch in told[:2]] == ["bank", "bank"] and {batch.name for batch in told[2:]} == {"aside"}
    assert max(batch.tokens for batch in told[2:]) < 256 and len(told) > 4


def test_what_is_in_no_hurry_has_its_turn_at_last(engine: Engine) -> None:
    with batching() as batcher:
        hurried, aside = batcher.lane(engine, "bank"), batcher.lane(engine, "aside", patient=True)

        async def main() -> Answered:
            waiting = asyncio.create_task(aside.predict(ROWS[:1], later()))
            while not waiting.done():  # there is always something else to do
                await asyncio.gather(*(hurried.predict([row], later()) for row in ROWS[:8]))
            return waiting.result()

        assert same(run(main()).predictions, engine.predict(ROWS[:1]))


def test_nobody_in_a_hurry_is_turned_away_for_what_waits_behind(engine: Engine) -> None:
    held = Held(engine)

    async def main() -> None:
        first = asyncio.create_task(aside.predict(ROWS[:1], later()))
        await asyncio.to_thread(held.begun.acquire)
        behind = asyncio.create_task(aside.predict(ROWS * 20, later()))
        while not batcher.n_waiting:
            await asyncio.sleep(0)
        aside.pace.begin_s = 10.0  # of each of the batches that wait
        with pytest.raises(Overloaded):
            await aside.predict(ROWS[:1], later(5))
        ahead = asyncio.create_task(hurried.predict(ROWS[:1], later(5)))
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(first, behind, ahead)

    with batching() as batcher:
        hurried, aside = batcher.lane(held.engine, "bank"), batcher.lane(held.engine, "aside", patient=True)
        run(main())


def test_who_left_is_not_run(engine: Engine) -> None:
    held = Held(engine)

    async def main() -> None:
        first = asyncio.create_task(lane.predict(ROWS[:1], later()))
        await asyncio.to_thread(held.begun.acquire)
        second, third = (asyncio.create_task(lane.predict([row], later())) for row in ROWS[1:3])
        while batcher.n_waiting < 2:
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        held.go.set()
        assert (await third).batch_rows == 1
        await first

    with batching() as batcher:
        lane = batcher.lane(held.engine, "bank")
        run(main())
    assert held.sizes == [1, 1]


def test_a_deadline_is_kept_or_told(engine: Engine) -> None:
    held = Held(engine)

    async def main() -> None:
        first = asyncio.create_task(lane.predict(ROWS[:1], later()))
        await asyncio.to_thread(held.begun.acquire)
        with pytest.raises(DeadlineExceeded, match="within 0"):
            await lane.predict(ROWS[1:2], later(0.2))
        held.go.set()
        assert len((await first).predictions) == 1

    with batching() as batcher:
        lane = batcher.lane(held.engine, "bank")
        run(main())
    assert held.sizes == [1], "what was too late was not run"


def test_what_can_t_be_done_in_time_is_refused_at_once(engine: Engine) -> None:
    held = Held(engine)

    async def main() -> None:
        for _ in range(300):
            lane.pace.add(20, 1.0)
        first = asyncio.create_task(lane.predict(ROWS[:1], later()))
        await asyncio.to_thread(held.begun.acquire)
        with pytest.raises(Overloaded) as refused:
            await lane.predict(ROWS[1:2], later(0.1))
        assert refused.value.retry_after_s > 0.1
        held.go.set()
        await first

    with batching() as batcher:
        lane = batcher.lane(held.engine, "bank")
        run(main())


def test_only_the_one_at_fault_fails(engine: Engine) -> None:
    class Faulty(Held):
        def run(self, ids: Any, mask: Any) -> Any:
            if (ids == poison).sum() and self.go.is_set():
                raise RuntimeError("a driver's fault")
            return super().run(ids, mask)

    poison = engine.encode(["z"]).ids[1]
    held = Faulty(engine)

    async def main() -> list[Any]:
        first = asyncio.create_task(lane.predict(["a"], later()))
        await asyncio.to_thread(held.begun.acquire)
        tasks = [asyncio.create_task(lane.predict([text], later())) for text in ("b", "z", "c")]
        while batcher.n_waiting < 3:
            await asyncio.sleep(0)
        held.go.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    with batching() as batcher:
        lane = batcher.lane(held.engine, "bank")
        found = run(main())
    assert [isinstance(one, RuntimeError) for one in found] == [False, False, True, False]


@pytest.mark.parametrize("row", [3, None, b"text", ["tokens"]])
def test_a_wrong_row_is_refused_before_it_is_queued(engine: Engine, row: Any) -> None:
    with batching() as batcher, pytest.raises(BadRequest, match="row 1"):
        run(batcher.lane(engine, "bank").predict(["a", row], later()))


def test_a_text_that_fills_too_many_windows_is_refused(engine: Engine) -> None:
    settings = replace(engine.processor.settings, long_text="chunk")
    windows = replace(engine, processor=Processor(settings, engine.processor.tokenizer(of_units=False)))
    with batching(most_tokens=100) as batcher:
        lane = batcher.lane(windows, "bank")
        with pytest.raises(TooLarge, match="row 1: got 2"):
            run(lane.predict(["a", "where " * 40], later()))
        assert len(run(lane.predict(["a", "where " * 10], later())).predictions) == 2


def test_closing_answers_what_waits_and_takes_no_more(engine: Engine) -> None:
    async def main() -> None:
        batcher = Batcher()
        lane = batcher.lane(engine, "bank")
        tasks = [asyncio.create_task(lane.predict([row], later())) for row in ROWS[:20]]
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        assert len(await asyncio.gather(*tasks)) == 20
        with pytest.raises(Unavailable):
            await lane.predict(ROWS[:1], later())

    run(main())


def test_an_engine_goes_when_nobody_asks_it_any_more(engine: Engine) -> None:
    own = replace(engine)
    with batching() as batcher:
        lane: Lane | None = batcher.lane(own, "bank")
        assert lane is not None
        run(lane.predict(ROWS[:3], later()))
        gone = weakref.ref(own)
        del own, lane
        # The thread lets go of its last batch a moment after the answers are out.
        wait_until(lambda: gone() is None)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        gc.collect()
        assert time.monotonic() < end
