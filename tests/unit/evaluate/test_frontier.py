"""The page about smaller models: what it says, in both languages, and that it is safe and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luban.evaluate.frontier import write

LOST = {"value": 0.0032, "low": -0.002, "high": 0.008, "p": 0.2, "n": 3080, "is_clear": False}


def point(size_mb: float, *plan: dict[str, Any], on_frontier: bool = True) -> dict[str, Any]:
    return {
        "plan": list(plan), "size_mb": size_mb, "latency_ms": size_mb / 10, "p99_ms": size_mb / 5, "rows_per_s": 1234.5,
        "score": {"value": 0.93, "low": 0.92, "high": 0.94, "n": 500}, "lost": LOST, "smaller": 91 / size_mb,
        "faster": 2.5, "throughput": 2.0, "on_frontier": on_frontier,
    }  # fmt: skip


SMALL = point(10.0, {"kind": "layers", "keep": 3}, {"kind": "quantise"})
FACTS: dict[str, Any] = {
    "name": "<b>bank</b>", "score": "accuracy",
    "points": [point(91.0), SMALL, point(40.0, {"kind": "quantise"}, on_frontier=False)],
    "chosen": SMALL, "lost_on_test": LOST,
}  # fmt: skip


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", ["Chosen: layers keep=3, quantise. 9.1 times smaller, 2.5 times faster.", "loses 0.32 points"]),
        ("zh", ["选定：layers keep=3, quantise。体积为原来的 1/9.1，速度为原来的 2.5 倍。", "损失 0.32 个百分点"]),
    ],
)
def test_the_page_tells_what_was_chosen_and_what_it_loses(language: str, told: list[str], tmp_path: Path) -> None:
    write(FACTS, tmp_path, language)
    page = (tmp_path / "compress.html").read_text("utf-8")
    for text in told:
        assert text in page
    assert "&lt;b&gt;bank" in page
    assert "<b>bank" not in page
    assert page.count("<circle") == 2 * 3
    table = (tmp_path / "compress.md").read_text("utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 3
    assert len({line.count("|") for line in rows}) == 1
    assert [line[2] for line in rows[1:]] == ["●", "●", "○"]


def test_a_search_under_way_has_chosen_nothing(tmp_path: Path) -> None:
    write({**FACTS, "points": FACTS["points"][:1], "chosen": None, "lost_on_test": None}, tmp_path)
    assert "No plan was chosen." in (tmp_path / "compress.html").read_text("utf-8")


def test_equal_facts_make_equal_bytes(tmp_path: Path) -> None:
    write(FACTS, tmp_path)
    before = (tmp_path / "compress.html").read_bytes()
    write(FACTS, tmp_path)
    assert (tmp_path / "compress.html").read_bytes() == before
