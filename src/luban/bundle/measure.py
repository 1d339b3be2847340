"""How fast runners are on this machine, measured in turn, and which is best.

What was measured never stands in a bundle: a digest that changed with the weather would prove nothing. It is written
down in the project file, as settings, from where it goes into the bundle as any other does; a machine with fewer cores
uses all that it has.

Legend: W windows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from luban.bundle.engine import BEGIN_TOKENS, MAX_BATCH_TOKENS
from luban.bundle.passes import cheapest
from luban.bundle.runtimes import n_callers
from luban.models.windows import pad

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner
    from luban.records import Encoded

_WARM = 3
"""Runs that are not counted: the first make threads and buffers."""
_ROUNDS = 3
_WORTH = 1.1
"""A cost is a product of two times; 5% of each are worth no thread that others on the machine could use."""
Name = TypeVar("Name")


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
    """One runner, measured."""

    latency: Latency
    throughput: Throughput

    @property
    def cost(self) -> float:
        """Time of one window alone times time of a window among many: what either gains counts alike."""
        return self.latency.p50_ms / self.throughput.windows_per_s


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


def in_turn(runners: Mapping[Name, Runner], rows: Encoded, *, pad_id: int, n: int = 60) -> dict[Name, Timing]:
    """Measure runners in turn, so that what else the machine does strikes all alike.

    Args:
        runners: by any name.
        rows: real windows.
        pad_id: token id of padding.
        n: single windows a round.

    Raises:
        ValueError: there are no windows.
    """
    singles, passes = _singles(rows, pad_id, n), _passes(rows, pad_id)
    alone: dict[Name, list[Latency]] = {name: [] for name in runners}
    together: dict[Name, list[Throughput]] = {name: [] for name in runners}
    for _ in range(_ROUNDS):
        for name, runner in runners.items():
            alone[name].append(_latency(runner, singles, n))
            together[name].append(_throughput(runner, passes, len(rows), len(rows.ids)))
    return {name: Timing(_median(alone[name]), _middle(together[name])) for name in runners}


def best(timings: Mapping[Name, Timing]) -> Name:
    """Return the name with the least cost, or the first that is within a tenth of it: put what asks for least first."""
    least = min(timing.cost for timing in timings.values())
    return next(name for name, timing in timings.items() if timing.cost <= least * _WORTH)


def numbers_of_threads(most: int) -> list[int]:
    """Return the numbers of threads that are worth measuring: 1, 2, 4 and so on, and the most itself."""
    return sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})


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
