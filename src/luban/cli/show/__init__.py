"""What a person or a program sees of a command: results on stdout, progress and errors on stderr.

Three ways: a live display where stderr is a terminal, plain lines where it is not, JSON lines on stdout where they
are asked for. rich is imported when something is first drawn, so that `luban predict` need not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from luban.cli.show import words
from luban.records import Progress

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console, RenderableType


@dataclass
class Show:
    """One command's way out."""

    json: bool = False
    """Write results, progress and errors as JSON lines on stdout."""
    quiet: bool = False
    """No progress."""
    goes_on: bool = False
    """Typed again after it was stopped, the command goes on where it was."""
    at_work: bool = False
    """Something is under way, or has failed, that leaves more than what is on stdout."""

    @cached_property
    def out(self) -> Console:
        """The console of results."""
        return _console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """The console of progress and errors."""
        return _console(sys.stderr)

    @contextmanager
    def progress(self, *, goes_on: bool = False, beside_answers: bool = False) -> Iterator[Callable[[Progress], None]]:
        """Yield what a stage calls with its progress, and draw it until the block ends.

        Args:
            goes_on: what is done by then is not lost when the user stops it.
            beside_answers: the command writes answers on stdout meanwhile: nothing else goes there, and nothing is
                drawn over them in a terminal.
        """
        from luban.cli.show import notices, progress

        self.goes_on = goes_on
        self.at_work = not beside_answers
        answers_on_screen = beside_answers and sys.stdout.isatty()
        display: progress.Display
        if self.quiet or answers_on_screen or (self.json and beside_answers):
            display = progress.Silent(self.err)
        elif self.json:
            display = progress.JsonLines(self.emit)
        elif sys.stderr.isatty() and not self.err.is_dumb_terminal:
            display = progress.Live(self.err)
        else:
            display = progress.Lines(self.err)
        with display, notices.heard(display):
            yield display.update
        self.at_work = False

    def give(self, event: str, facts: Mapping[str, Any], draw: Callable[[], RenderableType]) -> None:
        """Give a result: as one JSON line, or drawn for a person."""
        if self.json:
            self.emit(event, facts)
        else:
            self.print(draw())

    def print(self, *drawn: RenderableType) -> None:
        """Print to stdout."""
        _print(self.out, drawn)

    def tell(self, *drawn: RenderableType) -> None:
        """Print to stderr."""
        _print(self.err, drawn)

    def emit(self, event: str, facts: Mapping[str, Any]) -> None:
        """Write one JSON line that says what it is, at once."""
        from luban.cli.show.machine import line

        sys.stdout.write(line({"event": event, **facts}) + "\n")
        sys.stdout.flush()

    def hint(self, text: str) -> None:
        """Tell a person what to type next."""
        if not self.json and not self.quiet:
            from rich.text import Text

            self.out.print(Text.assemble(("next: ", "dim"), (text, "bold")), soft_wrap=True)


def _print(console: Console, drawn: Sequence[RenderableType]) -> None:
    """Print, one below the other; in a file or a pipe lines end where their text ends."""
    if console.is_terminal:
        console.print(*drawn, sep="\n")
        return
    with console.capture() as captured:
        console.print(*drawn, sep="\n")
    console.file.writelines(line.rstrip() + "\n" for line in captured.get().splitlines())
    console.file.flush()


def _console(stream: TextIO) -> Console:
    import os

    from rich.console import Console

    wide = None if stream.isatty() or os.environ.get("COLUMNS") else words.UNWRAPPED
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=wide, soft_wrap=False)
