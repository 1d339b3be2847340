"""Progress as lines, as JSON lines and as a live display."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from luban.cli.show import progress
from luban.records import Progress, Step


class Clock:
    """A clock that goes as far as it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def step(number: int, n_steps: int = 100, **given: Any) -> Step:
    values: dict[str, Any] = {
        "step": number,
        "n_steps": n_steps,
        "epoch": number / 50,
        "loss": 0.5,
        "learning_rate": 2e-4,
        "grad_norm": 1.0,
        "examples_per_s": 1820.3,
        "tokens_per_s": 20_000.0,
        "left_s": float(n_steps - number),
        **given,
    }
    return Step(**values)


def training(number: int, **given: Any) -> Progress:
    return Progress("train", "", number, 100, "steps", step=step(number, **given))


def console(width: int = 80, *, terminal: bool = False) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=width, force_terminal=terminal, color_system=None, _environ={}), stream


def test_a_log_gets_a_line_in_five_seconds_and_one_an_evaluation() -> None:
    clock = Clock()
    to, stream = console(400)
    display = progress.Lines(to, clock)
    with display:
        for number in range(1, 101):
            clock.now_s += 0.125
            scores = {"accuracy": 0.9, "macro_f1": 0.8} if number == 30 else None
            display.update(training(number, scores=scores, is_best=number == 30))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "train: 1/100 steps 1%, 1:39 left, loss 0.5, lr 0.0002, 1,820 examples/s",
        "train: 30/100 steps 30%, 1:10 left, loss 0.5, lr 0.0002, 1,820 examples/s, "
        "validation accuracy 0.9000, macro_f1 0.8000 (best so far)",
        "train: 70/100 steps 70%, 30 s left, loss 0.5, lr 0.0002, 1,820 examples/s",
        "train: 100/100 steps 100%, loss 0.5, lr 0.0002, 1,820 examples/s",
    ]


def test_lines_grow_rarer_the_longer_a_stage_takes() -> None:
    clock = Clock()
    to, stream = console(400)
    display = progress.Lines(to, clock)
    for done in range(7200):
        clock.now_s += 1.0
        display.update(Progress("check", "reading", done, 10_000))
    n_lines = len(stream.getvalue().splitlines())
    assert 120 <= n_lines <= 160


def test_each_new_message_is_a_line_and_the_end_is_told_once() -> None:
    to, stream = console(400)
    display = progress.Lines(to, Clock())
    for news in (
        Progress("export", "writing the graph"),
        Progress("export", "writing the graph"),
        Progress("export", "comparing with torch"),
        Progress("evaluate", "", 3, 3),
        Progress("evaluate", "", 3, 3),
        Progress("seal"),
        Progress("train", "tokenising"),
        training(1),
        training(2),
    ):
        display.update(news)
    assert stream.getvalue().splitlines() == [
        "export: writing the graph",
        "export: comparing with torch",
        "evaluate: 3/3 rows 100%",
        "seal: begins",
        "train: tokenising",
        "train: 1/100 steps 1%, 1:39 left, loss 0.5, lr 0.0002, 1,820 examples/s",
    ]


def test_a_note_of_a_step_is_never_lost() -> None:
    to, stream = console(400)
    display = progress.Lines(to, Clock())
    display.update(training(1))
    display.update(training(2))
    display.update(training(3, note="the loss was not finite"))
    assert "train: step 3: the loss was not finite" in stream.getvalue().splitlines()
    assert len(stream.getvalue().splitlines()) == 3


def test_json_lines_leave_out_what_is_not_known() -> None:
    seen: list[tuple[str, Mapping[str, Any]]] = []
    clock = Clock()
    display = progress.JsonLines(lambda event, facts: seen.append((event, facts)), clock)
    display.update(Progress("predict", "", 10, 0, "rows", rate=5.0))
    display.update(Progress("predict", "", 11, 0, "rows", rate=5.0))
    clock.now_s += 1.5
    display.update(Progress("predict", "", 12, 0, "rows", rate=5.0))
    display.note("a warning")
    assert seen == [
        ("progress", {"stage": "predict", "done": 10, "total": 0, "unit": "rows", "rate": 5.0}),
        ("progress", {"stage": "predict", "done": 12, "total": 0, "unit": "rows", "rate": 5.0}),
        ("warning", {"message": "a warning"}),
    ]


def test_quiet_shows_warnings_alone() -> None:
    to, stream = console()
    with progress.Silent(to) as display:
        display.update(training(1, note="lost"))
        display.note("kept")
    assert stream.getvalue() == "warning: kept\n"


def drawn(display: progress.Live, width: int) -> list[str]:
    to, stream = console(width)
    to.print(display.draw())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_terminal_shows_bar_rate_time_left_loss_and_best() -> None:
    to, stream = console(terminal=True)
    with progress.Live(to, Clock()) as display:
        display.update(training(20, scores={"accuracy": 0.9, "macro_f1": 0.8}, is_best=True))
        display.update(training(40, scores={"accuracy": 0.85, "macro_f1": 0.8}))
        display.update(training(50))
        bar, below = drawn(display, 80)
    assert "train" in bar
    assert "━" in bar
    assert bar.endswith("50/100 steps 50% 50 s left")
    assert below == "  loss 0.5 · lr 0.0002 · 1,820 examples/s · best accuracy 0.9000"
    left = stream.getvalue()
    assert "★ step 20" in left
    assert "★ step 40" not in left
    assert "best at step 20: accuracy 0.9000  macro_f1 0.8000" in left


def test_each_finished_stage_leaves_a_line_and_a_failed_one_none() -> None:
    to, stream = console(terminal=True)
    clock = Clock()
    with pytest.raises(KeyboardInterrupt), progress.Live(to, clock) as display:
        display.update(Progress("check", "probe", 1, 20, "rows"))
        clock.now_s += 75
        display.update(Progress("train"))
        raise KeyboardInterrupt
    assert "✓ check         1:15   probe" in stream.getvalue()
    assert "✓ train" not in stream.getvalue()


def test_a_stage_that_is_over_says_what_it_was_and_not_where_it_was_last() -> None:
    to, stream = console(terminal=True)
    with progress.Live(to, Clock()) as display:
        display.update(Progress("train", "skipped: done already, nothing changed"))
        display.update(Progress("evaluate", "not done before"))
        display.update(Progress("evaluate", "baseline: probe"))
    left = [line for line in stream.getvalue().splitlines() if "✓" in line]
    assert "skipped: done already, nothing changed" in left[0]
    assert "baseline" not in left[1]
    assert "baseline" not in stream.getvalue().split("✓ evaluate")[1], "nothing moves beneath the last line"


@pytest.mark.parametrize("width", [30, 44, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    to, stream = console(width, terminal=True)
    with progress.Live(to, Clock()) as display:
        message = "可疑标签：线性探针的交叉验证，逐折训练，逐行比较"
        display.update(Progress("check", message, 12_345, 1_000_000, rate=321.0, left_s=3_000))
        lines = drawn(display, width)
        display.update(training(20, scores={"accuracy": 0.9, "macro_f1": 0.8, "weighted_f1": 0.8}, is_best=True))
        lines += drawn(display, width)
    assert all(cell_len(line) <= width for line in lines)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "")
    kept = [line for line in plain.split("\n") if line.startswith(("★", "✓"))]
    assert len(kept) == 3
    assert all(cell_len(line) <= width for line in kept)
