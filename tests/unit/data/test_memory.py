"""Reading row after row takes no more memory for many rows than for few; `bench/stream.py` measures a million."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

STREAM = Path(__file__).resolve().parents[3] / "bench" / "stream.py"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_memory_is_flat(tmp_path: Path, suffix: str) -> None:
    spec = importlib.util.spec_from_file_location("stream", STREAM)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    peaks = []
    for n_rows in (10_000, 150_000):
        bench.make(tmp_path / f"rows{suffix}", n_rows)
        read, _, peak = bench.measure(tmp_path / f"rows{suffix}")
        assert read == n_rows
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0]
