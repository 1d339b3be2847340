"""`luban dashboard`: what a server is watched with."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("dashboard")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("watching"))
@click.option("--force", is_flag=True, help="Write over what is there.")
@options.output
def command(show: Show, folder: Path, force: bool) -> None:
    """Write a Grafana dashboard, Prometheus alert rules and a scrape configuration into FOLDER.

    FOLDER is `watching` where none is named.
    """
    from luban.cli.show import registry as drawn
    from luban.serve import watching

    paths = watching.write(folder, force=force)
    show.give("dashboard", {"files": paths}, lambda: drawn.line("written: " + ", ".join(map(str, paths))))
