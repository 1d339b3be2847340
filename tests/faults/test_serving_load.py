"""Load: a steady one, a crowd, swaps, drains and hours; and that each harness finds the mistakes that it is for.

`LUBAN_LOAD=20` is the whole of it: 30,000 requests of 16 clients, 20,000 of 256, 100 swaps, 20 drains; with
`LUBAN_SOAK=30` half the load that it can bear for 30 minutes. Times are only judged in the whole of it, on a machine
that does nothing else: `make load`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import serving
from faults import loads
from faults.loads import LOAD
from serving import served
from unit.bundle.made import Made

TIMED = LOAD > 1
SOAK_MIN = float(os.environ.get("LUBAN_SOAK", "0"))
Run = Callable[[serving.Server], loads.Loaded]


@pytest.fixture(scope="module")
def server(classify: Made) -> Iterator[serving.Server]:
    with served(f"bank={classify.folder}") as server:
        yield server


@contextmanager
def swapping(classify: Made, place: Path, mistake: str = "") -> Iterator[tuple[serving.Server, loads.Swap]]:
    """Serve a folder in which two versions can be swapped."""
    folder, first, second = place / "bundle", place / "v1", place / "v2"
    serving.another(classify.folder, folder, 1.0)
    serving.another(classify.folder, second, 2.0)
    with served(f"bank={folder}", mistake=mistake) as server:
        yield server, loads.swapping(server, folder, first, second)


def test_a_steady_load_is_answered(server: serving.Server) -> None:
    loaded = loads.steady(server, 1500 * LOAD, timed=TIMED)
    print("steady", loaded)
    assert loaded.wrong == []


def test_a_crowd_is_answered_or_told_when_to_come(server: serving.Server) -> None:
    peak = loads.steady(server, 5000, timed=False).numbers["per_s"] if TIMED else 0.0
    loaded = loads.crowded(server, 1000 * LOAD, peak_per_s=peak)
    print("crowded", loaded)
    assert loaded.wrong == []
    assert server.wait_for("requests.shed")["n"]
    assert loads.steady(server, 100, timed=False).wrong == [], "it answers again"


def test_no_answer_is_lost_or_mixed_through_many_swaps(classify: Made, tmp_path: Path) -> None:
    with swapping(classify, tmp_path) as (server, swap):
        loaded = loads.swapped(server, swap, 5 * LOAD)
    print("swapped", loaded)
    assert loaded.wrong == []


@pytest.mark.parametrize("number", range(LOAD))
def test_a_drain_loses_nothing(classify: Made, number: int) -> None:
    with served(f"bank={classify.folder}") as server:
        assert loads.drained(server).wrong == []


def test_memory_and_descriptors_stay(server: serving.Server) -> None:
    if SOAK_MIN:
        peak = loads.steady(server, 5000, timed=False).numbers["per_s"]
        loaded = loads.soaked(server, minutes=SOAK_MIN, per_s=peak / 2, warm_s=60 * SOAK_MIN / 6, looks=100)
    else:  # a leak of 10 kB a request, which is a small one, would be 600 MB a minute at a thousand a second
        loads.steady(server, 500, timed=False)
        loaded = loads.soaked(server, minutes=0.04, per_s=400, warm_s=0.8, looks=12, most_mb_per_min=100)
    print("soaked", loaded)
    assert loaded.wrong == []


def soaked_shortly(server: serving.Server) -> loads.Loaded:
    loads.steady(server, 300, timed=False)
    return loads.soaked(server, minutes=0.03, per_s=200, warm_s=0.2, looks=12, most_mb_per_min=100)


MISTAKES: dict[str, tuple[Run | None, str]] = {
    "slow_now_and_then": (lambda server: loads.steady(server, 300), "p99 is"),
    "fails_now_and_then": (lambda server: loads.steady(server, 300), "status 500"),
    "no_time_to_come_again": (lambda server: loads.crowded(server, 600), "when to come again"),
    "fails_when_full": (lambda server: loads.crowded(server, 600), "status 500"),
    "version_told_late": (None, "mixed"),
    "closed_while_opening": (None, "status 503"),
    "stops_at_once": (loads.drained, "no answer"),
    "keeps_memory": (soaked_shortly, "memory grows"),
    "keeps_descriptors": (soaked_shortly, "descriptors"),
}
"""A mistake -> the harness that must find it, None for the one of swaps, and what that must say."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_harness_finds_mistakes_made_on_purpose(classify: Made, tmp_path: Path, mistake: str) -> None:
    run, said = MISTAKES[mistake]
    with ExitStack() as stack:
        if run is None:
            server, swap = stack.enter_context(swapping(classify, tmp_path, mistake))
            loaded = loads.swapped(server, swap, 6)
        else:
            loaded = run(stack.enter_context(served(f"bank={classify.folder}", mistake=mistake)))
    assert any(said in one for one in loaded.wrong), loaded
