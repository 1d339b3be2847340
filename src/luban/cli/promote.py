"""`luban promote`: an alias comes to name a version."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("promote")
@click.argument("version")
@click.option("--to", "alias", default="champion", show_default=True, metavar="ALIAS", help="The alias.")
@click.option("--why", default="", help="The reason, for the audit.")
@click.option(
    "--force", is_flag=True, help="Overrule what speaks against it; --why must be given, and all is recorded."
)
@click.option("--lose-at-most", type=click.FloatRange(0, 1), help="How much of the main score may be lost.")
@options.once
@options.registry
@options.who
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    version: str,
    alias: str,
    why: str,
    force: bool,
    lose_at_most: float | None,
    once: str,
    registry: str | None,
    who: str | None,
) -> None:
    """Let an alias name VERSION, e.g. bank@3.

    What becomes champion must reach its project's gates, have a complete card, and not be surely worse than the
    champion on the same test rows. Other aliases may name anything.
    """
    from luban.cli.show import registry as drawn
    from luban.stages import registering

    if force and not why.strip():
        ctx.fail('--force goes with --why "..."')
    move = registering.promote(
        version, to=alias, registry=registry, why=why, force=force, lose_at_most=lose_at_most, once=once, who=who
    )
    show.give("promote", {"move": move}, lambda: drawn.moved(move))
