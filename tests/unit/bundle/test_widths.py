"""Runs that are alone, and runs beside each other."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from luban.bundle.widths import _IN_A_ROW, Choice, TwoWidths

IDS = np.ones((1, 8), np.int64)


class Session:
    """Notes who runs, and waits inside until it is let go."""

    def __init__(self) -> None:
        self.n = 0
        self.inside, self.go = threading.Event(), threading.Event()
        self.go.set()

    def run(self, names: Any, given: Any) -> list[np.ndarray]:
        self.n += 1
        self.inside.set()
        assert self.go.wait(10)
        return [np.zeros((1, 2), np.float32)]


def test_a_run_alone_prefers_what_was_sooner_and_now_and_then_tries_the_other() -> None:
    for faster in (True, False):
        choice, chosen = Choice(), []
        for _ in range(200):
            wide = choice.wide(16)
            chosen.append(wide)
            choice.learn(16, wide, 0.001 if wide == faster else 0.002)
        later = chosen[20:]
        assert 0.9 < sum(wide == faster for wide in later) / len(later) < 1


def test_it_learns_that_others_have_work_now_and_that_they_have_no_longer() -> None:
    choice = Choice()

    def ask(n: int, wide_s: float) -> float:
        found = []
        for _ in range(n):
            wide = choice.wide(16)
            found.append(wide)
            choice.learn(16, wide, wide_s if wide else 0.002)
        return sum(found[n // 2 :]) / (n - n // 2)

    assert ask(100, 0.001) > 0.9
    assert ask(400, 0.004) < 0.1
    assert ask(800, 0.001) > 0.9


def test_sizes_are_told_apart() -> None:
    choice = Choice()
    for _ in range(50):
        for size, wide_s in ((8, 0.003), (512, 0.001)):
            wide = choice.wide(size)
            choice.learn(size, wide, wide_s if wide else 0.002)
    assert not choice.wide(8) and choice.wide(512)


def test_a_run_beside_another_takes_one_thread() -> None:
    narrow, wide = Session(), Session()
    runner = TwoWidths(narrow, wide, 2)
    for _ in range(_IN_A_ROW):
        runner.run(IDS, IDS)
    assert (narrow.n, wide.n) == (_IN_A_ROW, 0)
    narrow.inside.clear()
    for session in (narrow, wide):
        session.go.clear()
    first = threading.Thread(target=runner.run, args=(IDS, IDS))
    first.start()
    assert wide.inside.wait(10) and narrow.n == _IN_A_ROW  # nothing is known of all threads yet: it tries them
    second = threading.Thread(target=runner.run, args=(IDS, IDS))
    second.start()
    assert narrow.inside.wait(10) and wide.n == 1
    for session in (narrow, wide):
        session.go.set()
    for thread in (first, second):
        thread.join(10)
    # What ran beside another says nothing of runs alone.
    assert [pace.n for pace in runner._inside.choice._paces(IDS.size)] == [_IN_A_ROW, 0]
    runner.run(IDS, IDS)
    assert wide.n == 1, "somebody was there just now"


def test_a_run_that_fails_is_inside_no_longer() -> None:
    class Broken(Session):
        def run(self, names: Any, given: Any) -> list[np.ndarray]:
            raise ValueError("broken")

    runner = TwoWidths(Session(), Broken(), 2)
    n_failed = 0
    for _ in range(_IN_A_ROW + 3):
        try:
            runner.run(IDS, IDS)
        except ValueError:
            n_failed += 1
    assert n_failed and runner._inside.n == 0
