"""The command `luban`: finds the one command that is asked for, imports it alone, and tells of every error clearly.

click, not typer: typer imports pydantic for any option, a tenth of a second that `luban predict` would wait for.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from luban.cli.show import Show
from luban.errors import LubanError, did_you_mean

COMMANDS = {
    "init": "Look at a data file and write a project with advice.",
    "check": "Look for everything wrong with data or project, before any training.",
    "run": "Check, train, export and evaluate; goes on where it was stopped.",
    "train": "Run up to the trained checkpoint.",
    "evaluate": "Measure the model on its test rows, or a bundle on other rows.",
    "export": "Run up to the exported graph, proven to answer as the checkpoint.",
    "compress": "Make the model smaller and faster, to a budget of cost and loss.",
    "predict": "Answer texts through a bundle.",
    "explain": "Tell what each word of a text adds to its answer.",
    "mask": "Write a file without personal data, to be shared.",
    "serve": "Answer over HTTP, with one version or many.",
    "dashboard": "Write what a server is watched with: Grafana, Prometheus, alerts.",
    "register": "Make a bundle a version in the registry.",
    "versions": "List what is registered: scores, size, who, when, aliases.",
    "diff": "Show what changed from one version to another.",
    "promote": "Let an alias name a version, if it is good enough.",
    "canary": "Try a version on a share of the requests; it goes back by itself.",
    "feedback": "List, export or delete what callers say of answers.",
    "rollback": "Let an alias name again what it named before.",
    "audit": "Check or list who changed what in the registry.",
    "keys": "Make, list, rotate or revoke the keys of those who call a server.",
    "registry": "Tell where the registry is, and keep it in order.",
    "bases": "List the pretrained bases that can be had here.",
    "doctor": "Tell what this machine can do and what is missing.",
}
"""Name -> one line of help, in the order of use. A command's module is imported when it is asked for."""


# click keeps the lines of a paragraph apart where it begins with a backspace.
_HELP = """Luban takes a labelled file to a small, fast, sealed model that answers.

\b
luban init reviews.csv --label sentiment
luban check
luban run
luban predict new.jsonl -o answers.jsonl
"""


class _ReaderLeftError(Exception):
    """Nobody reads stdout any more; of a BrokenPipeError click would make exit code 1 by itself."""


class Commands(click.Group):
    """The group of all commands, none of them imported before it is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            _ReaderLeftError: in place of BrokenPipeError.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderLeftError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"luban.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; {did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"luban {version('luban')}")
        ctx.exit()


@click.group(
    cls=Commands,
    help=_HELP,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`luban COMMAND --help` tells of one command.",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Show the help where no command is given."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `luban.errors.CODES` for those of errors."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _prepare()
    show = Show()
    try:
        exit_code = _guarded(show, arguments)
        sys.stdout.flush()
    except (BrokenPipeError, _ReaderLeftError):
        # Whoever read the answers has had enough, and that is no failure, unless work was cut short that leaves
        # something on disk. What is still buffered must not fail at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_code = 1 if show.at_work else 0
    return exit_code


def _guarded(show: Show, arguments: list[str]) -> int:
    from luban.cli.show import errors

    try:
        result: Any = group.main(arguments, prog_name="luban", standalone_mode=False, obj=show)
    except click.ClickException as error:
        return errors.tell_usage(show, error)
    except (click.Abort, KeyboardInterrupt):
        return errors.tell_interrupted(show, goes_on=show.goes_on)
    except LubanError as error:
        return errors.tell(show, error)
    except (BrokenPipeError, _ReaderLeftError):
        raise
    except OSError as error:
        return errors.tell_system(show, error)
    except ModuleNotFoundError as error:
        return errors.tell_missing(show, error, arguments)
    except Exception as error:
        return errors.tell_unexpected(show, error, arguments)
    return result if isinstance(result, int) else 0


def _prepare() -> None:
    """Make the streams take any text, keep other packages from writing between our lines, and let threads sleep."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Answers are UTF-8 wherever a program reads them; a lone surrogate becomes an escape that JSON knows.
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Training's threads wait asleep. Spinning is a fifth faster on an idle machine, but beside one other busy process
    # half as fast as this, and at times twenty times slower. OMP_WAIT_POLICY=active brings it back.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    sys.exit(main())
