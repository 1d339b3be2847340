"""How far something long has come: a live display, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from luban.cli.show import machine, words
from luban.records import Progress, Step

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

N_SCORES = 3
"""How many validation scores stand in one line."""
Clock = Callable[[], float]


class Display(Protocol):
    """Something that shows progress while its block runs."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the end, where there is no error."""
        ...

    def update(self, progress: Progress) -> None:
        """Take news from a stage; called as often as it likes."""
        ...

    def note(self, text: str) -> None:
        """Show a warning that must not be lost between two lines of progress."""
        ...


class Silent:
    """Shows warnings alone: for `--quiet`, and where the terminal belongs to answers."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, progress: Progress) -> None:
        """Let it pass."""

    def note(self, text: str) -> None:
        """Write a warning as a line."""
        self._console.print(f"warning: {words.safe(text)}", soft_wrap=True)


class Pace:
    """Decides which news are shown where each takes a line: the first, the last, evaluations, and some between."""

    def __init__(self, every_s: float, slowest_s: float, clock: Clock = time.monotonic) -> None:
        self._every_s = every_s
        self._slowest_s = slowest_s
        self._clock = clock
        self._stage = ""
        self._message = ""
        self._began_s = 0.0
        self._shown_s = 0.0
        self._ended = False
        self._steps = False

    def wants(self, progress: Progress) -> bool:
        """Return whether these news are worth a line. The longer a stage takes, the rarer its lines."""
        now_s = self._clock()
        step = progress.step
        ends = 0 < progress.total <= progress.done
        if progress.stage != self._stage:
            self._stage, self._began_s, self._ended, new = progress.stage, now_s, False, True
        else:
            new = (progress.message != self._message and not progress.done) or (step is not None and not self._steps)
        pause_s = min(max((now_s - self._began_s) / 10, self._every_s), self._slowest_s)
        told = step is not None and (step.scores is not None or bool(step.note))
        wanted = new or told or now_s - self._shown_s >= pause_s or (ends and not self._ended)
        if wanted:
            self._shown_s, self._message, self._ended = now_s, progress.message, ends
            self._steps = step is not None
        return wanted


class Lines:
    """Plain lines, for a log: at most one in five seconds of a stage, and one for each evaluation."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._pace = Pace(every_s=5.0, slowest_s=60.0, clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, progress: Progress) -> None:
        """Write a line if it is time for one."""
        if not self._pace.wants(progress):
            return
        if progress.step is not None and progress.step.note:
            self._say(f"{progress.stage}: step {progress.step.step}: {words.safe(progress.step.note)}")
        parts = [part for part in (_message(progress), *_amounts(progress)) if part]
        if progress.step is not None:
            parts += _training(progress.step)
            if progress.step.scores:
                parts.append(_measured(progress.step))
        self._say(f"{progress.stage}: {', '.join(parts) or 'begins'}")

    def note(self, text: str) -> None:
        """Write a warning as a line of its own."""
        self._say(f"warning: {words.safe(text)}")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


class JsonLines:
    """JSON lines, for a program: at most one a second of a stage, and one for each evaluation."""

    def __init__(self, emit: Callable[[str, Mapping[str, Any]], None], clock: Clock = time.monotonic) -> None:
        self._emit = emit
        self._pace = Pace(every_s=1.0, slowest_s=10.0, clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, progress: Progress) -> None:
        """Write a line if it is time for one; what is not known is left out."""
        if self._pace.wants(progress):
            facts = {key: value for key, value in machine.plain(progress).items() if value not in (None, "")}
            self._emit("progress", facts)

    def note(self, text: str) -> None:
        """Write a warning as a line."""
        self._emit("warning", {"message": text})


class Live:
    """One or two moving lines at the foot of a terminal; what is finished stays above them."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        from rich.live import Live as RichLive
        from rich.spinner import Spinner

        self._console = console
        self._clock = clock
        self._now: Progress | None = None
        self._only = ""
        """The message of the stage that has told one alone."""
        self._began_s = 0.0
        self._best: Step | None = None
        self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="cyan")
        self._live = RichLive(
            console=console, get_renderable=self.draw, refresh_per_second=5, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        over, self._now = self._now, None
        self._live.stop()  # first, or what moves is drawn once more beneath the last line
        if error is None and over is not None:
            self._console.print(self._ended(over))

    def update(self, progress: Progress) -> None:
        """Remember the news; the display looks at them five times a second."""
        over, self._now = self._now, progress
        if over is None or progress.stage != over.stage:
            if over is not None:
                self._console.print(self._ended(over))
            self._began_s, self._best, self._only = self._clock(), None, _message(progress)
        elif _message(progress) != self._only:
            self._only = ""
        step = progress.step
        if step is None:
            return
        if step.note:
            self.note(f"step {step.step}: {step.note}")
        if step.scores:
            self._console.print(self._evaluation(step))
        if step.is_best:
            self._best = step

    def note(self, text: str) -> None:
        """Leave a warning above the moving lines."""
        from rich.text import Text

        sign = "!" if self._console.options.ascii_only else "▲"
        self._console.print(Text.assemble((f"{sign} ", "yellow"), words.safe(text)))

    def _ended(self, over: Progress) -> RenderableType:
        """Return the line that a stage leaves: its best step, its one message, or how much there was."""
        from rich.text import Text

        sign = "+" if self._console.options.ascii_only else "✓"
        line = Text.assemble((f"{sign} ", "green"), (f"{over.stage:<10}", "bold"))
        line.append(f" {words.seconds(self._clock() - self._began_s):>7}", "dim")
        if self._best is not None:
            line.append(f"   best at step {words.count(self._best.step)}: ")
            line.append(_scores(self._best, self._console.width - line.cell_len))
        elif self._only:
            line.append(f"   {self._only}", "dim")
        elif over.total:
            line.append(f"   {words.count(over.total)} {over.unit}", "dim")
        line.truncate(self._console.width, overflow="ellipsis")
        return line

    def _evaluation(self, step: Step) -> RenderableType:
        from rich.text import Text

        sign = ("*" if self._console.options.ascii_only else "★") if step.is_best else " "
        line = Text.assemble((f"{sign} ", "green"), (f"step {words.count(step.step):<8}", "dim"))
        line.append(f"epoch {step.epoch:<5.2f} loss {step.loss:<7.4g} ", "dim")
        line.append(_scores(step, self._console.width - line.cell_len), "bold" if step.is_best else "")
        line.truncate(self._console.width, overflow="ellipsis")
        return line

    def draw(self) -> RenderableType:
        """Return what moves at the foot of the terminal now: a bar with rate and time left, and a line beneath."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self._now
        if now is None:
            return Text("")
        head = Table.grid(padding=(0, 1, 0, 0))
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True, style="bold", min_width=6)
        cells: list[RenderableType] = [self._spinner, now.stage]
        if now.total and self._console.width >= 60:
            head.add_column(ratio=1)
            head.expand = True
            cells.append(ProgressBar(total=now.total, completed=now.done, width=None, complete_style="cyan"))
        for part in _amounts(now) or [f"{words.seconds(self._clock() - self._began_s)}"]:
            head.add_column(no_wrap=True, justify="right", overflow="ellipsis")
            cells.append(part)
        head.add_row(*cells)
        below = [message] if (message := _message(now)) else []
        if now.step is not None:
            below += _training(now.step)
            if self._best is not None:
                below.append(f"best {_scores(self._best, n=1)}")
        if not below:
            return head
        second = Text("  " + " · ".join(below), style="dim")
        second.truncate(self._console.width, overflow="ellipsis")
        return Group(head, second)


def _message(progress: Progress) -> str:
    """Return what a stage says it is at; of a training step the figures say it."""
    return "" if progress.step is not None else words.safe(progress.message)


def _amounts(progress: Progress) -> list[str]:
    """Return how much is done, at which rate, and what time is left."""
    parts = []
    if progress.total:
        share = words.percent(min(progress.done / progress.total, 1.0))
        parts.append(f"{words.count(progress.done)}/{words.count(progress.total)} {progress.unit} {share}")
    elif progress.done:
        parts.append(f"{words.count(progress.done)} {progress.unit}")
    if progress.rate > 0 and progress.step is None:
        parts.append(f"{words.rate(progress.rate)} {progress.unit}/s")
    left_s = progress.step.left_s if progress.left_s is None and progress.step is not None else progress.left_s
    if left_s is not None and progress.done < (progress.total or progress.done + 1):
        parts.append(words.left(left_s))
    return parts


def _training(step: Step) -> list[str]:
    return [f"loss {step.loss:.4g}", f"lr {step.learning_rate:.2g}", f"{words.rate(step.examples_per_s)} examples/s"]


def _scores(step: Step, width: int = words.UNWRAPPED, *, n: int = N_SCORES) -> str:
    """Return the first scores of an evaluation, as many as there is room for, and always the first."""
    scores = [f"{name} {value:.4f}" for name, value in list((step.scores or {}).items())[:n]]
    while len(scores) > 1 and len("  ".join(scores)) > width:
        scores.pop()
    return "  ".join(scores)


def _measured(step: Step) -> str:
    return f"validation {_scores(step).replace('  ', ', ')}{' (best so far)' if step.is_best else ''}"
