"""`luban registry`: where the registry is, and what keeps it in order."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("registry")
@click.argument("action", type=click.Choice(["info", "collect", "upgrade"]), default="info")
@options.registry
@options.output
def command(show: Show, action: str, registry: str | None) -> None:
    """Tell where the registry is and what it holds; or keep it in order.

    `collect` removes bundles that no version needs, which killed commands left behind more than an hour ago.
    `upgrade` brings the database of an older Luban up to date.
    """
    from luban.cli.show import registry as drawn
    from luban.stages import registering

    if action == "info":
        found = registering.registry_info(registry)
        show.give("registry", {"registry": found}, lambda: drawn.place(found))
    elif action == "collect":
        gone = registering.registry_collect(registry)
        show.give("collect", {"collected": gone}, lambda: drawn.collected(gone))
    else:
        schema = registering.registry_upgrade(registry)
        show.give("upgrade", {"schema": schema}, lambda: drawn.line(f"schema {schema}"))
