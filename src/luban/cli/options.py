"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from luban.cli.show import Show

F = TypeVar("F", bound=Callable[..., Any])


def output(function: F) -> F:
    """Add `--json` and `-q/--quiet`, and hand the command its `show`."""
    as_json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_json,
        is_eager=True,
        help="Write results, progress and errors as JSON lines on stdout.",
    )
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_quiet,
        is_eager=True,
        help="Show results and warnings, and no progress.",
    )
    return as_json(quiet(click.pass_obj(function)))  # type: ignore[return-value]


def project(function: F) -> F:
    """Add `-p/--project` and the settings that go before the file's, as `train.epochs=3`."""
    file = click.option(
        "-p",
        "--project",
        type=click.Path(path_type=Path),
        default="luban.yaml",
        show_default=True,
        help="The project file, or its folder.",
    )
    overrides = click.argument("overrides", nargs=-1, metavar="[SETTING=VALUE]...")
    return file(overrides(function))


def force(function: F) -> F:
    """Add `--force STAGE`, as often as wanted."""
    option = click.option(
        "--force",
        multiple=True,
        metavar="STAGE",
        help="Do this stage again, though nothing changed. May be given several times.",
    )
    return option(function)


def threads(function: F) -> F:
    """Add `--threads`."""
    option = click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to use; 0 uses every core.")
    return option(function)


def registry(function: F) -> F:
    """Add `--registry`."""
    option = click.option(
        "--registry",
        metavar="PLACE",
        help="A folder or postgresql://USER@HOST/NAME; else LUBAN_REGISTRY, or the nearest .luban/registry upwards.",
    )
    return option(function)


def who(function: F) -> F:
    """Add `--who`."""
    option = click.option("--who", help="Who does it, for the audit; else LUBAN_WHO, or user and host.")
    return option(function)


def once(function: F) -> F:
    """Add `--once`."""
    option = click.option("--once", default="", metavar="KEY", help="What was done under KEY is not done again.")
    return option(function)


def _json(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    ctx.ensure_object(Show).json |= wanted


def _quiet(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    ctx.ensure_object(Show).quiet |= wanted
