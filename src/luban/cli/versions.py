"""`luban versions`: what is registered."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("versions")
@click.argument("name", required=False)
@options.registry
@options.output
def command(show: Show, name: str | None, registry: str | None) -> None:
    """List the versions of a model, with scores, size and aliases; or every model; or all of one version.

    NAME is a model, or one version of it: bank, bank@3, bank@champion.
    """
    from luban.cli.show import registry as drawn
    from luban.stages import registering

    if name is not None and "@" in name:
        found = registering.about(name, registry)
        show.give("version", drawn.about_facts(found), lambda: drawn.about(found))
        return
    listed = registering.versions(name, registry)
    show.give("versions", {"models": listed}, lambda: drawn.versions(listed, show.out))
