"""Findings as a person reads them."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from luban.cli.show import findings
from luban.records import Finding

FOUND = [
    Finding("schema", "PASS", "12,000 rows, 77 labels", mend="never shown"),
    Finding(
        "near duplicates",
        "WARN",
        "34 rows repeat others nearly",
        mend="keep one of each",
        examples=(
            "row 17: 我的卡还没到，请问什么时候能到？我已经等了两个星期，客服一直说在路上",
            "row 803: a\x1b[31mb\nc",
        ),
    ),
    Finding("labels", "FAIL", "2 rows have no label", mend="give them one", examples=("row 5: ''",)),
]


def lines(width: int, *, color: bool = False, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    to = Console(
        file=stream,
        width=width,
        color_system="standard" if color else None,
        force_terminal=color or None,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={},
    )
    to.print(findings.draw(FOUND, to))
    stream.seek(0)
    return [line.rstrip() for line in stream.read().splitlines()]


def test_verdict_place_message_examples_and_mend() -> None:
    assert lines(400) == [
        "✓ PASS  schema           12,000 rows, 77 labels",
        "▲ WARN  near duplicates  34 rows repeat others nearly",
        "                           row 17: 我的卡还没到，请问什么时候能到？我已经等了两个星期，客服一直说在路上",
        "                           row 803: a\\x1b[31mb⏎c",
        "                         fix: keep one of each",
        "✗ FAIL  labels           2 rows have no label",
        "                           row 5: ''",
        "                         fix: give them one",
        "",
        "1 to mend, 1 to look at, 1 fine",
    ]


@pytest.mark.parametrize("width", [44, 60, 80, 120])
def test_chinese_examples_fit_the_terminal(width: int) -> None:
    shown = lines(width)
    assert all(cell_len(line) <= width for line in shown)
    assert any("row 17: 我" in line for line in shown)


def test_verdicts_are_coloured_in_a_terminal() -> None:
    text = "\n".join(lines(100, color=True))
    assert "\x1b[1;31m✗ FAIL" in text
    assert "\x1b[33m▲ WARN" in text
    assert "\x1b[31mb" not in text


def test_a_stream_without_these_signs_gets_plain_ones() -> None:
    signs = [line[:6] for line in lines(400, encoding="ascii") if line.startswith(("+", "!", "x"))]
    assert signs == ["+ PASS", "! WARN", "x FAIL"]


def test_only_a_fail_fails() -> None:
    assert findings.failed(FOUND)
    assert not findings.failed(FOUND[:2])
