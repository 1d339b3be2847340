"""`luban diff`: what changed from one version to another."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("diff")
@click.argument("before")
@click.argument("after")
@click.option("--all", "everything", is_flag=True, help="Show every score, slice and setting.")
@options.registry
@options.output
def command(show: Show, before: str, after: str, everything: bool, registry: str | None) -> None:
    """Show what changed from BEFORE to AFTER: data, settings, scores, slices, size and speed.

    Scores are compared pairwise, row by row, where both were judged on the same test rows. Beside bank@3, @champion
    is bank's.
    """
    from luban.cli.show import registry_diff as drawn
    from luban.stages import registering

    found = registering.diff(before, after, registry)
    show.give("diff", drawn.facts(found), lambda: drawn.draw(found, show.out, everything=everything))
