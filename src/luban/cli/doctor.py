"""`luban doctor`: what this machine can do, what is missing, and which command mends it."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show
from luban.errors import PluginError, codes


@click.command("doctor")
@options.output
def command(show: Show) -> int:
    """Tell what this machine can do, what is missing, and which pip command mends it."""
    from luban.cli.show import findings as drawn
    from luban.records import Progress
    from luban.stages.machine import doctor

    with show.progress() as on_progress:
        on_progress(Progress("doctor", "measuring this machine"))
        findings = doctor()
    show.give("doctor", {"findings": findings}, lambda: drawn.draw(findings, show.out))
    return codes(PluginError).exit if drawn.failed(findings) else 0
