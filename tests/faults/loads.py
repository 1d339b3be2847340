"""Load on a server, and what is wrong with what its clients got: every harness returns a list of that, empty where all
is well, so that it can be tried on servers with mistakes, too.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import serving

LOAD = int(os.environ.get("LUBAN_LOAD", "1"))
TEXTS = ["where is my card", "我的卡还没到", "refund", "late again " * 8]
Swap = Callable[[int], None]
"""Puts the n-th version, counted from 1, in the place of the one before, and returns when it answers."""


@dataclass
class Loaded:
    """What a load came to."""

    wrong: list[str]
    numbers: dict[str, float] = field(default_factory=dict)
    """What was measured: requests a second, milliseconds, MB."""

    def __str__(self) -> str:
        return json.dumps({name: round(value, 3) for name, value in self.numbers.items()})


def unanswered(got: serving.Got, *allowed: int) -> list[str]:
    """Return what is wrong with the answers: a status that may not be, none at all, or no time to come again."""
    wrong = [f"{n} answers have the status {one}" for one, n in got.statuses.items() if one not in allowed]
    if got.lost:
        wrong.append(f"{len(got.lost)} requests have no answer: {got.lost[0]}")
    if n := sum(b"retry-after: " not in head for head in got.heads):
        wrong.append(f"{n} refusals do not say when to come again")
    return wrong


def percentile(times: list[float], share: float) -> float:
    """Return a percentile of times, in ms."""
    return 1000 * sorted(times)[int((len(times) - 1) * share)]


def steady(server: serving.Server, n: int, *, timed: bool = True) -> Loaded:
    """Send requests from 16 clients: each is answered, and, where it is timed, p99 is within 4 times p50."""
    serving.flood(server.port, serving.asking(TEXTS, 200), 16)
    begun = time.monotonic()
    got = serving.flood(server.port, serving.asking(TEXTS, n), 16, most_s=1800)
    seconds = time.monotonic() - begun
    wrong = unanswered(got, 200)
    if sum(got.statuses.values()) != n:
        wrong.append(f"{n} were asked, and {sum(got.statuses.values())} answered")
    p50, p99 = percentile(got.times, 0.5), percentile(got.times, 0.99)
    if timed and p99 > 4 * p50:
        wrong.append(f"p99 is {p99:.1f} ms, and p50 {p50:.1f} ms")
    return Loaded(wrong, {"requests": n, "per_s": n / seconds, "p50_ms": p50, "p99_ms": p99})


def crowded(server: serving.Server, n: int, *, peak_per_s: float = 0.0) -> Loaded:
    """Send requests from 256 clients: each is answered or told when to come again; with a peak, of which half must be
    reached, p99 is within a second.
    """
    begun = time.monotonic()
    got = serving.flood(server.port, serving.asking(TEXTS, n), 256, most_s=1800)
    seconds = time.monotonic() - begun
    wrong = unanswered(got, 200, 429)
    if sum(got.statuses.values()) != n:
        wrong.append(f"{n} were asked, and {sum(got.statuses.values())} answered")
    good, p99 = got.statuses[200] / seconds, percentile(got.times, 0.99) if got.times else 0.0
    if not got.times:
        wrong.append("nobody was answered")
    if peak_per_s and good < 0.5 * peak_per_s:
        wrong.append(f"{good:.0f} answers a second, of {peak_per_s:.0f} at best")
    if peak_per_s and p99 > 1000:
        wrong.append(f"p99 is {p99:.0f} ms")
    told = {"requests": n, "answered": got.statuses[200], "per_s": good, "peak_per_s": peak_per_s, "p99_ms": p99}
    return Loaded(wrong, told)


def swapped(server: serving.Server, swap: Swap, n: int) -> Loaded:
    """Swap two versions so often under 16 clients: every request is answered, by one version."""

    def swaps(crowd: serving.Crowd) -> None:
        try:
            for number in range(1, n + 1):
                swap(number)
        finally:
            crowd.stopped = True

    body = json.dumps({"text": TEXTS[0]}).encode()
    got = serving.flood(server.port, itertools.repeat(body), 16, keep=True, meanwhile=swaps, most_s=60 + 10 * n)
    wrong = unanswered(got, 200)
    seen = {(one["digest"], round(one["predictions"][0]["score"], 3)) for one in got.bodies}
    if len({digest for digest, _ in seen}) != 2:
        wrong.append(f"two versions were there, and these answered: {seen}")
    if len(seen) > 2:
        wrong.append(f"the versions are mixed: {seen}")
    return Loaded(wrong, {"swaps": n, "requests": len(got.bodies)})


def drained(server: serving.Server, n_clients: int = 16, after_s: float = 0.5) -> Loaded:
    """Tell a server to stop while clients ask: every request that it took is answered, and it ends as it should."""
    begun = time.monotonic()

    def stop(crowd: serving.Crowd) -> None:
        while sum(crowd.got.statuses.values()) < 2 * n_clients and time.monotonic() - begun < 30:
            time.sleep(after_s / 10)
        server.process.send_signal(signal.SIGTERM)

    got = serving.flood(server.port, serving.asking(TEXTS, 10**9), n_clients, meanwhile=stop)
    wrong = unanswered(got, 200, 503)
    if (code := server.process.wait(40)) != 0:
        wrong.append(f"it ended with {code}")
    if got.statuses[200] < 2 * n_clients:
        wrong.append(f"{got.statuses[200]} were answered before")
    return Loaded(wrong, {"requests": sum(got.statuses.values())})


def held(server: serving.Server) -> tuple[float, int]:
    """Return the memory of a server's processes in MB, and how many descriptors they hold."""
    parent = psutil.Process(server.process.pid)
    family = [parent, *parent.children(recursive=True)]
    return sum(one.memory_info().rss for one in family) / 1e6, sum(one.num_fds() for one in family)


def soaked(
    server: serving.Server, *, minutes: float, per_s: float, warm_s: float, looks: int, most_mb_per_min: float = 1.0
) -> Loaded:
    """Ask for so long at a pace: after it is warm, memory grows within the limit, and descriptors do not.

    Args:
        server: is asked.
        minutes: for so long.
        per_s: requests a second, of 8 clients.
        warm_s: seconds after which it is looked at.
        looks: how often it is looked at.
        most_mb_per_min: may be gained, by the slope of all looks.
    """
    seen: list[tuple[float, float, int]] = []

    def look(crowd: serving.Crowd) -> None:
        try:
            begun = time.monotonic()
            for number in range(looks):
                due = begun + warm_s + number * (60 * minutes - warm_s) / (looks - 1)
                while (left := due - time.monotonic()) > 0:
                    time.sleep(min(left, 1.0))
                seen.append((time.monotonic() - begun, *held(server)))
        finally:
            crowd.stopped = True

    bodies = serving.asking(TEXTS, 10**9)
    got = serving.flood(server.port, bodies, 8, meanwhile=look, every_s=8 / per_s, most_s=60 * minutes + 120)
    wrong = unanswered(got, 200)
    slope = statistics.linear_regression([at / 60 for at, *_ in seen], [mb for _, mb, _ in seen]).slope
    if slope > most_mb_per_min:
        wrong.append(f"memory grows by {slope:.2f} MB a minute")
    descriptors = [n for *_, n in seen]
    if statistics.median(descriptors[-looks // 3 :]) > statistics.median(descriptors[: looks // 3]) + 2:
        wrong.append(f"descriptors: {descriptors}")
    reached = len(got.times) / (60 * minutes)
    return Loaded(wrong, {"minutes": minutes, "per_s": reached, "mb_per_min": slope, "mb": seen[-1][1],
                          "descriptors": descriptors[-1]})  # fmt: skip


def swapping(server: serving.Server, folder: Path, first: Path, second: Path) -> Swap:
    """Return what swaps the bundle in a folder: `second` lies there aside, and `first` is where the other one goes."""

    def swap(number: int) -> None:
        new, old = (second, first) if number % 2 else (first, second)
        folder.rename(old)
        new.rename(folder)
        server.wait_for("model.swapped", number)

    return swap
