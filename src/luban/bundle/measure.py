"""How fast a runner is on this machine, and how many threads it is fastest with.

What was measured never stands in a bundle: a digest that changed with the weather would prove nothing. `choose` gives
advice to write down as `export.threads`, from where it goes into the bundle as any other setting does; a machine with
fewer cores uses all that it has.

Legend: W windows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from luban.bundle.engine import BEGIN_TOKENS, MAX_BATCH_TOKENS, n_callers
from luban.bundle.passes import cheapest
from luban.models.limits import cores
from luban.models.windows import pad

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner
    from luban.records import Encoded

_WARM = 3
"""Runs that are not counted: the first make threads and buffers."""
_ROUNDS = 3
_WORTH = 1.05
"""More threads must gain this much: they are taken from whoever else works on the machine."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of single windows, one after the other, in milliseconds."""

    p50_ms: float
    p99_ms: float
    n: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a runner does with all windows at once."""

    windows_per_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One number of threads, measured."""

    threads: int
    latency: Latency
    throughput: Throughput


@dataclass(frozen=True)
class Choice:
    """Every number of threads that was tried, and the advice."""

    threads: int
    """Fewest threads within 5% of the best rate over all windows."""
    tried: tuple[Timing, ...]

    def __str__(self) -> str:
        best = next(timing for timing in self.tried if timing.threads == self.threads)
        rates = ", ".join(f"{timing.threads}: {timing.throughput.windows_per_s:.0f}/s" for timing in self.tried)
        return f"{self.threads} threads ({best.latency.p50_ms:.2f} ms for one window; windows by threads: {rates})"


def latency(runner: Runner, rows: Encoded, *, pad_id: int, n: int = 200) -> Latency:
    """Run windows alone, evenly over all lengths, and return the median and the 99th percentile of their times.

    Raises:
        ValueError: there are no windows.
    """
    return _latency(runner, _singles(rows, pad_id, n), n)


def throughput(runner: Runner, rows: Encoded, *, pad_id: int) -> Throughput:
    """Run all windows once, in passes as the engine makes them and as many at once, and return the rate.

    Raises:
        ValueError: there are no windows.
    """
    passes = _passes(rows, pad_id)
    return _throughput(runner, passes, len(rows), len(rows.ids))


def choose(
    open_: Callable[[int], Runner], rows: Encoded, *, pad_id: int, tried: Sequence[int] = (), n: int = 60
) -> Choice:
    """Measure numbers of threads in turn, and advise one.

    Args:
        open_: opens the runner with a number of threads.
        rows: real windows.
        pad_id: token id of padding.
        tried: numbers of threads; none takes 1, 2, 4 and so on up to every core.
        n: single windows a round.

    Raises:
        ValueError: there are no windows.
    """
    numbers = sorted(set(tried)) or _numbers(cores())
    runners = {threads: open_(threads) for threads in numbers}
    singles, passes = _singles(rows, pad_id, n), _passes(rows, pad_id)
    alone: dict[int, list[Latency]] = {threads: [] for threads in numbers}
    together: dict[int, list[Throughput]] = {threads: [] for threads in numbers}
    for _ in range(_ROUNDS):  # in turn, so that what else the machine does strikes all alike
        for threads, runner in runners.items():
            alone[threads].append(_latency(runner, singles, n))
            together[threads].append(_throughput(runner, passes, len(rows), len(rows.ids)))
    timings = tuple(Timing(threads, _median(alone[threads]), _middle(together[threads])) for threads in numbers)
    most = max(timing.throughput.windows_per_s for timing in timings)
    fewest = min(timing.threads for timing in timings if timing.throughput.windows_per_s * _WORTH >= most)
    return Choice(fewest, timings)


def _singles(rows: Encoded, pad_id: int, n: int) -> list[dict[str, np.ndarray]]:
    if not len(rows):
        raise ValueError("there are no windows to measure on")
    ordered = np.argsort(rows.lengths, kind="stable")
    chosen = ordered[np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(int)]
    return [pad(rows, np.array([window]), pad_id) for window in chosen]


def _passes(rows: Encoded, pad_id: int) -> list[dict[str, np.ndarray]]:
    if not len(rows):
        raise ValueError("there are no windows to measure on")
    everything = np.arange(len(rows))
    passes = cheapest(everything, rows.lengths, pass_tokens=MAX_BATCH_TOKENS, begin_tokens=BEGIN_TOKENS)
    return [pad(rows, windows, pad_id) for windows in reversed(passes)]


def _latency(runner: Runner, singles: Sequence[dict[str, np.ndarray]], n: int) -> Latency:
    for batch in islice(singles, _WARM):
        runner.run(batch["input_ids"], batch["attention_mask"])
    times = [_took(runner, singles[number % len(singles)]) for number in range(n)]
    return Latency(statistics.median(times) * 1e3, float(np.percentile(times, 99)) * 1e3, n)


def _throughput(runner: Runner, passes: Sequence[dict[str, np.ndarray]], n_windows: int, n_tokens: int) -> Throughput:
    for batch in islice(passes, _WARM):
        _took(runner, batch)
    with ThreadPoolExecutor(n_callers(runner.threads)) as callers:
        started = time.perf_counter()
        list(callers.map(lambda batch: _took(runner, batch), passes))
        seconds = time.perf_counter() - started
    return Throughput(n_windows / seconds, n_tokens / seconds)


def _took(runner: Runner, batch: dict[str, np.ndarray]) -> float:
    started = time.perf_counter()
    runner.run(batch["input_ids"], batch["attention_mask"])
    return time.perf_counter() - started


def _median(found: Sequence[Latency]) -> Latency:
    return Latency(
        statistics.median(one.p50_ms for one in found), statistics.median(one.p99_ms for one in found),
        sum(one.n for one in found),
    )  # fmt: skip


def _middle(found: Sequence[Throughput]) -> Throughput:
    ordered = sorted(found, key=lambda one: one.windows_per_s)
    return ordered[len(ordered) // 2]


def _numbers(most: int) -> list[int]:
    """Return 1, 2, 4 ... and the most itself."""
    return sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})
