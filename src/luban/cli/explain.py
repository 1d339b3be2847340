"""`luban explain`: what each word of a text adds to its answer."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("explain")
@click.argument("given", nargs=-1, required=True, metavar="[BUNDLE] TEXT")
@click.option("--label", help="Explain this label, given or not; else every label, or entity, that the text gets.")
@click.option("--rows", type=int, help="Shortened texts that are answered for it, at most: more is finer, and slower.")
@options.threads
@options.registry
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    given: tuple[str, ...],
    label: str | None,
    rows: int | None,
    threads: int,
    registry: str | None,
) -> None:
    """Tell why TEXT gets its answer: what each of its words adds to it.

    BUNDLE is a bundle's folder, or a version such as bank@champion; without it the newest under ./runs. Parts of the
    text are left out, and the model itself says what that changes. A weight of +0.7 doubles the odds of the label, and
    one of -0.7 halves them.
    """
    from luban.bundle.engine import Engine
    from luban.bundle.explain import ROWS
    from luban.cli.show import explained
    from luban.stages.predicting import newest_bundle
    from luban.stages.registering import find_bundle

    if len(given) > 2:
        ctx.fail("give one text, in quotation marks")
    folder = find_bundle(given[0], registry) if len(given) == 2 else newest_bundle(Path.cwd())
    found = Engine.open(folder, threads=threads).explain(given[-1], label, rows=ROWS if rows is None else rows)
    show.give("explain", explained.facts(found), lambda: explained.draw(found))
