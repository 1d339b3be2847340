"""Measuring runners: what is counted, and which number of threads is advised."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from unit.bundle.made import Made

from luban.bundle import measure, runtimes
from luban.files import read_json
from luban.records import Encoded


class Runner:
    """Takes a known time for each token, which threads share, but for a part that one must do alone."""

    def __init__(self, threads: int, shared_s: float, alone_s: float) -> None:
        self.threads = threads
        self._seconds = alone_s + shared_s / threads
        self._busy = threading.Lock()

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        assert input_ids.shape == attention_mask.shape
        with self._busy:
            until = time.perf_counter() + self._seconds * input_ids.size
            while time.perf_counter() < until:
                pass
        return np.zeros((len(input_ids), 2), np.float32)


def rows(n: int) -> Encoded:
    lengths = np.arange(n) % 30 + 1
    return Encoded(np.ones(lengths.sum(), np.int32), np.concatenate([[0], np.cumsum(lengths)]), np.arange(n), n)


def test_latency_is_that_of_single_windows(classifier: Made) -> None:
    facts = read_json(classifier.folder / "bundle.json")["runtime"]
    runner = runtimes.open("onnx", classifier.folder, facts, 1)
    found = measure.latency(runner, classifier.rows, pad_id=0, n=30)
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.n == 30
    slow = measure.latency(Runner(1, 0.0, 1e-4), rows(60), pad_id=0, n=30)
    assert slow.p50_ms >= 0.1 * 10
    assert slow.p99_ms >= 0.1 * 25


def test_throughput_counts_windows_and_tokens() -> None:
    found = measure.throughput(Runner(1, 0.0, 1e-5), rows(60), pad_id=0)
    assert found.tokens_per_s / found.windows_per_s == pytest.approx(15.5)
    assert 20_000 < found.tokens_per_s <= 100_000


def test_runners_are_measured_in_turn() -> None:
    runners = {"slow": Runner(1, 0.0, 2e-4), "fast": Runner(1, 0.0, 1e-5)}
    found = measure.in_turn(runners, rows(40), pad_id=0, n=4)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].cost > 10 * found["fast"].cost
    assert measure.best(found) == "fast"


def test_what_is_hardly_better_is_not_worth_more() -> None:
    def timing(ms: float, rate: float) -> measure.Timing:
        return measure.Timing(measure.Latency(ms, ms, 9), measure.Throughput(rate, rate))

    assert measure.best({"plain": timing(1.0, 100.0), "odd": timing(0.97, 103.0)}) == "plain"
    assert measure.best({"plain": timing(1.0, 100.0), "odd": timing(0.97, 120.0)}) == "odd"
    assert measure.best({"plain": timing(1.0, 100.0), "odd": timing(2.0, 150.0)}) == "plain"


def test_numbers_of_threads() -> None:
    assert measure.numbers_of_threads(1) == [1]
    assert measure.numbers_of_threads(6) == [1, 2, 4, 6]
    assert measure.numbers_of_threads(8) == [1, 2, 4, 8]


def test_a_bundles_own_number_of_threads_gives_way_to_the_machines(classifier: Made) -> None:
    facts = {**read_json(classifier.folder / "bundle.json")["runtime"], "threads": 1}
    assert runtimes.open("onnx", classifier.folder, facts).threads == 1
    assert runtimes.open("onnx", classifier.folder, facts, threads=2).threads == 2
    many = runtimes.open("onnx", classifier.folder, {**facts, "threads": 10_000}).threads
    assert many == runtimes.open("onnx", classifier.folder, {**facts, "threads": 0}).threads


def test_nothing_to_measure_on_is_said() -> None:
    for call in (measure.latency, measure.throughput):
        with pytest.raises(ValueError, match="no windows"):
            call(Runner(1, 0.0, 0.0), rows(0), pad_id=0)
