"""Errors as a person reads them: what is wrong, where, how to mend it; never a stack of calls."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.cli.show import words
from luban.errors import GateError, LubanError, MissingExtra, Problem, codes, install, system_mend

if TYPE_CHECKING:
    import click

    from luban.cli.show import Show

USAGE = 2
INTERRUPTED = 130
UNEXPECTED = 1


def tell(show: Show, error: LubanError) -> int:
    """Tell of an error that a user can mend, and return the exit code of its kind."""
    exit_code = codes(error).exit
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if show.json:
        facts: dict[str, Any] = {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit": exit_code,
        }
        if problems:
            facts |= {"problems": problems, "total": getattr(error, "total", len(problems))}
        if isinstance(error, GateError):
            facts |= {"measured": error.measured, "allowed": error.allowed}
        show.emit("error", facts)
        return exit_code
    from rich.text import Text

    if problems:
        total = max(len(problems), getattr(error, "total", 0))
        count = f"{total} problem{'' if total == 1 else 's'}"
        source = getattr(error, "source", "")
        _say(show, f"{count} in {source}" if source else count)
        for problem in problems:
            _problem(show, problem)
        if total > len(problems):
            show.tell(Text(f"  ... and {total - len(problems)} more"))
    else:
        _say(show, error.message)
    if error.hint:
        show.tell(Text.assemble(("  fix: ", "cyan"), words.safe(error.hint, lines=True)))
    return exit_code


def tell_usage(show: Show, error: click.ClickException) -> int:
    """Tell of an option or argument that is wrong, and how the command is called."""
    from rich.text import Text

    said = error.format_message()
    context = getattr(error, "ctx", None)
    if show.json:
        show.emit("error", {"kind": "Usage", "message": said, "hint": "", "exit": USAGE})
        return USAGE
    _say(show, said)
    if context is not None:
        show.tell(Text.assemble(("  see: ", "cyan"), f"{context.command_path} --help"))
    return USAGE


def tell_system(show: Show, error: OSError) -> int:
    """Tell what the system refused: a full disk, a file without rights."""
    said = error.strerror or str(error)
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return tell(show, LubanError(f"{place}{said}", hint=system_mend(error)))


def tell_missing(show: Show, error: ModuleNotFoundError, arguments: Sequence[str]) -> int:
    """Tell which package is not installed, and the command that mends it."""
    missing = (error.name or "").split(".")[0]
    if missing in ("", "luban"):
        return tell_unexpected(show, error, arguments)
    said = f"this needs the package {missing!r}, which is not installed"
    return tell(show, MissingExtra(said, hint=install("train")))


def tell_interrupted(show: Show, goes_on: bool) -> int:
    """Tell that the user stopped it, and what becomes of what was done."""
    said = "stopped. Run the same command again: it goes on from here" if goes_on else "stopped"
    from rich.text import Text

    if show.json:
        show.emit("error", {"kind": "Interrupted", "message": said, "hint": "", "exit": INTERRUPTED})
    else:
        show.tell(Text(said, style="yellow"))
    return INTERRUPTED


def tell_unexpected(show: Show, error: Exception, arguments: Sequence[str]) -> int:
    """Tell of an error that Luban did not foresee, and where the whole of it was written for a report."""
    said = f"{type(error).__name__}: {error}".split("\n")[0]
    hint = "this is a mistake in Luban"
    try:
        hint += f": please report it with {_written_down(error, arguments)}"
    except OSError:
        hint += ", and there was no place to write its details to"
    return tell(show, LubanError(f"something unforeseen went wrong: {said}", hint=hint)) and UNEXPECTED


def _written_down(error: Exception, arguments: Sequence[str]) -> Path:
    """Write a traceback to a file that only this user can read, for its arguments may hold texts."""
    from importlib.metadata import version

    trace = "".join(traceback.format_exception(error))
    system = f"luban {version('luban')}, Python {platform.python_version()}, {platform.platform()}"
    handle, name = tempfile.mkstemp(prefix="luban-error-", suffix=".txt")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{system}\n{sys.executable}\narguments: {list(arguments)!r}\n\n{trace}")
    return Path(name)


def _say(show: Show, text: str) -> None:
    from rich.text import Text

    show.tell(Text.assemble(("error: ", "bold red"), words.safe(text, lines=True)))


def _problem(show: Show, problem: Problem) -> None:
    """Print one problem: the place, then what was found and wanted, then the mend, and what the setting means."""
    from rich.padding import Padding
    from rich.text import Text

    place = Text(words.safe(problem.where), style="bold")
    if problem.line is not None:
        place.append(f"  line {problem.line}", "not bold dim")
    said = Text.assemble(("got ", "dim"), words.safe(problem.got), (", wanted ", "dim"), words.safe(problem.wanted))
    show.tell(Padding(place, (0, 0, 0, 2)))
    show.tell(Padding(said, (0, 0, 0, 4)))
    if problem.hint:
        show.tell(Padding(Text.assemble(("fix: ", "cyan"), words.safe(problem.hint)), (0, 0, 0, 4)))
    if problem.means:
        show.tell(Padding(Text.assemble(("means: ", "dim"), words.safe(problem.means)), (0, 0, 0, 4)))
