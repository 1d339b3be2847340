"""`luban check`: everything wrong with data or project, before any training."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show
from luban.errors import DataError, codes


@click.command("check")
@options.project
@click.option("--quick", is_flag=True, help="Leave out what needs the base: suspect labels and the time needed.")
@options.output
def command(show: Show, project: Path, overrides: tuple[str, ...], quick: bool) -> int:
    """Look for everything wrong with data or project, before any training.

    Each finding is PASS, WARN or FAIL, with example rows and the mend. Settings may be given beside the file's, e.g.
    `train.epochs=3`.
    """
    from luban.cli.show import findings as drawn
    from luban.cli.show import results
    from luban.project.load import load

    loaded = load(project, overrides)  # before what imports torch: a mistake is told at once
    from luban.stages.flow import check

    with show.progress() as on_progress:
        findings = check(loaded, quick=quick, on_progress=on_progress)
    show.give("check", {"findings": findings}, lambda: drawn.draw(findings, show.out))
    if drawn.failed(findings):
        return codes(DataError).exit
    show.hint(f"luban run{results.project_option(project, overrides)}")
    return 0
