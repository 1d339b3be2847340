"""`luban rollback`: an alias names again what it named before."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("rollback")
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The alias.")
@click.option("--from", "expected", type=click.IntRange(min=1), metavar="NUMBER",
              help="The version to take back: where it was taken back already, nothing is changed.")  # fmt: skip
@click.option("--why", default="", help="The reason, for the audit.")
@options.once
@options.registry
@options.who
@options.output
def command(
    show: Show,
    name: str,
    alias: str,
    expected: int | None,
    why: str,
    once: str,
    registry: str | None,
    who: str | None,
) -> None:
    """Let the champion of NAME be the version that it was before.

    Nothing is judged. With --from, or --once, the command may be repeated safely.
    """
    from luban.cli.show import registry as drawn
    from luban.stages import registering

    move = registering.rollback(name, alias=alias, registry=registry, why=why, expected=expected, once=once, who=who)
    show.give("rollback", {"move": move}, lambda: drawn.moved(move))
