"""One process's part of a trial: who gets the challenger, what counts, and that nobody is harmed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import challengers
import pytest
from unit.bundle.made import Made

from luban.bundle.engine import Engine
from luban.bundle.explain import Scorer
from luban.errors import BadRequest
from luban.registry.trial import Rollout, Terms
from luban.serve import asked
from luban.serve.access import Principal
from luban.serve.batch import Batcher
from luban.serve.hosting import Served
from luban.serve.rollout import Copies, Slowness, Trial
from luban.serve.sources import Found
from luban.serve.telemetry import Telemetry

ROLLOUT = Rollout(
    id=7, name="bank", alias="champion", kind="canary", champion=1, challenger=2, terms=Terms(share=0.5),
    at="2026-01-01T00:00:00.000000Z", who="ann", why="", state="running",
)  # fmt: skip


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(runners=1)
    yield batcher
    batcher.close()


@pytest.fixture
def aside() -> Iterator[Batcher]:
    batcher = Batcher(runners=1, nice=10)
    yield batcher
    batcher.close()


def version(engine: Engine, number: int, batcher: Batcher) -> Served:
    found = Found(key=str(number), folder=Path, number=number)
    scored = batcher.lane(Scorer(engine), "bank", patient=True)
    return Served(
        name="bank", found=found, engine=engine, lane=batcher.lane(engine, "bank"), scored=scored, vectors=None,
        size_bytes=1,
    )  # fmt: skip


@pytest.fixture
def champion(engine: Engine, batcher: Batcher) -> Served:
    return version(engine, 1, batcher)


@pytest.fixture(scope="module")
def failing(classify: Made, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.open(challengers.failing(classify.folder, tmp_path_factory.mktemp("bad") / "failing", 0), threads=1)


def trial(
    challenger: Served, aside: Batcher, terms: Terms | None = None, *, busy: bool = False, **changed: Any
) -> Trial:
    rollout = replace(ROLLOUT, terms=terms or ROLLOUT.terms, **changed)
    return Trial(rollout, challenger, Copies(aside, lambda: busy), Telemetry())


async def ask(it: Trial, champion: Served, n: int, *, who: str = "", text: str = "card") -> Counter[int | None]:
    """Ask for n different texts, and return how often each version answered."""
    found: Counter[int | None] = Counter()
    for number in range(n):
        if who:
            asked.begin([(b"x-user", who.encode())]).principal = Principal(name=who)
        answer = await it.predict(champion, [f"{text} {number}"], time.monotonic() + 10)
        found[answer.served.number] += 1
    await asyncio.gather(*it._copies._tasks)
    return found


def test_a_share_is_answered_by_the_challenger_and_compared(engine: Engine, champion: Served, aside: Batcher) -> None:
    async def run() -> tuple[Counter[int | None], Trial]:
        it = trial(version(engine, 2, champion.lane._batcher), aside)
        return await ask(it, champion, 200), it

    found, it = asyncio.run(run())
    counts = it.counts
    assert 60 < found[2] < 140 and found[1] + found[2] == 200
    assert (counts.champion, counts.challenger) == (found[1], found[2])
    assert counts.compared + counts.dropped == found[2] and counts.compared and not counts.disagreed
    assert sum(counts.challenger_ms) == found[2] and not counts.challenger_failed


@pytest.mark.parametrize("by", ["key", "header:X-User"])
def test_a_caller_keeps_its_version(engine: Engine, champion: Served, aside: Batcher, by: str) -> None:
    async def run() -> list[Counter[int | None]]:
        it = trial(version(engine, 2, champion.lane._batcher), aside, Terms(share=0.5, by=by))
        return [await ask(it, champion, 3, who=f"caller {number}") for number in range(40)]

    found = asyncio.run(run())
    assert all(len(one) == 1 for one in found)
    assert 8 < sum(one[2] > 0 for one in found) < 32


def test_who_says_nothing_stays_with_the_champion(engine: Engine, champion: Served, aside: Batcher) -> None:
    async def run() -> Counter[int | None]:
        it = trial(version(engine, 2, champion.lane._batcher), aside, Terms(share=0.5, by="header:x-user"))
        return await ask(it, champion, 30)

    assert asyncio.run(run()) == {1: 30}


def test_what_the_challenger_fails_the_champion_answers(failing: Engine, champion: Served, aside: Batcher) -> None:
    async def run() -> tuple[Counter[int | None], Trial]:
        it = trial(version(failing, 2, champion.lane._batcher), aside)
        return await ask(it, champion, 60, text="pizza"), it

    found, it = asyncio.run(run())
    assert found == {1: 60}
    assert it.counts.challenger_failed == it.counts.challenger > 10 and not it.counts.champion_failed


def test_one_caller_s_misfortune_counts_once(failing: Engine, champion: Served, aside: Batcher) -> None:
    async def run() -> Trial:
        it = trial(version(failing, 2, champion.lane._batcher), aside, Terms(share=0.5, by="key"))
        for number in range(20):
            await ask(it, champion, 5, who=f"caller {number}", text="pizza")
        return it

    counts = asyncio.run(run()).counts
    assert counts.challenger_failed == counts.challenger / 5 > 0


def test_a_caller_s_own_fault_is_nobody_s_failure(engine: Engine, champion: Served, aside: Batcher) -> None:
    async def run() -> Trial:
        it = trial(version(engine, 2, champion.lane._batcher), aside)
        for _ in range(20):
            with pytest.raises(BadRequest):
                await it.predict(champion, [5], time.monotonic() + 10)
        return it

    counts = asyncio.run(run()).counts
    assert (counts.challenger_failed, counts.champion_failed) == (0, 0)


def test_a_shadow_answers_nobody_and_is_dropped_first(engine: Engine, champion: Served, aside: Batcher) -> None:
    async def run(busy: bool) -> tuple[Counter[int | None], Trial]:
        it = trial(version(engine, 2, aside), aside, Terms(share=1.0), kind="shadow", busy=busy)
        return await ask(it, champion, 20), it

    found, it = asyncio.run(run(False))
    assert found == {1: 20} and it.counts.compared == it.counts.challenger > 0
    found, it = asyncio.run(run(True))
    assert found == {1: 20} and (it.counts.dropped, it.counts.challenger) == (20, 0)


def test_a_text_that_comes_again_is_compared_once(engine: Engine, champion: Served, aside: Batcher) -> None:
    async def run() -> Trial:
        it = trial(version(engine, 2, aside), aside, Terms(share=1.0), kind="shadow")
        for _ in range(5):
            await ask(it, champion, 3)
        return it

    counts = asyncio.run(run()).counts
    assert (counts.compared, counts.dropped) == (3, 0)


def test_a_champion_that_was_swapped_ends_the_challenger_s_share(
    engine: Engine, batcher: Batcher, aside: Batcher
) -> None:
    async def run() -> tuple[Counter[int | None], Trial]:
        it = trial(version(engine, 2, batcher), aside)
        return await ask(it, version(engine, 3, batcher), 20), it

    found, it = asyncio.run(run())
    assert found == {3: 20} and it.n_counted == 0


class TestSlowness:
    def test_nothing_is_known_at_first(self) -> None:
        assert Slowness(2.0).is_slow(10, 1.0) is None

    def test_a_batch_is_held_against_the_champion_s_of_its_size(self) -> None:
        it = Slowness(2.0)
        for number in range(200):
            it.add(10, 0.001 + number * 1e-6)
            it.add(300, 0.03)
        assert it.is_slow(10, 0.0021) is False and it.is_slow(10, 0.003) is True
        assert it.is_slow(300, 0.05) is False and it.is_slow(300, 0.07) is True

    def test_a_size_that_is_not_known_is_held_against_the_next_larger(self) -> None:
        it = Slowness(2.0)
        for _ in range(100):
            it.add(300, 0.03)
        assert it.is_slow(10, 0.05) is False and it.is_slow(10, 0.07) is True
        assert it.is_slow(1000, 9.0) is None
