"""`luban bases`: list and describe the pretrained bases that can be had here."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("bases")
@click.argument("name", required=False)
@options.output
def command(show: Show, name: str | None) -> None:
    """List the pretrained bases that can be had here, or describe the one called NAME."""
    from luban.cli.show import results
    from luban.errors import NotFound, did_you_mean
    from luban.stages import machine

    listed = [base for base in machine.bases() if name in (None, base.name)]
    if name is not None and not listed:
        names = [base.name for base in machine.bases()]
        raise NotFound(f"no base is called {name!r}", hint=did_you_mean(name, names))
    show.give("bases", {"bases": listed}, lambda: results.bases(listed, show.out, whole=name is not None))
