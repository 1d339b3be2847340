"""`luban train`: up to the trained checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("train")
@options.project
@options.force
@options.output
def command(show: Show, project: Path, overrides: tuple[str, ...], force: tuple[str, ...]) -> None:
    """Run up to the trained checkpoint: check, then train.

    What is done already is not done again. Stop it anywhere and type it again: it goes on, to the same result.
    """
    from luban.cli.show import results
    from luban.project.load import load

    loaded = load(project, overrides)  # before what imports torch: a mistake is told at once
    from luban.stages.flow import train

    with show.progress(goes_on=True) as on_progress:
        ran = train(loaded, force=force, on_progress=on_progress)
    show.give("train", results.run_facts(ran), lambda: results.run(ran, show.out))
    show.hint(f"luban run{results.project_option(project, overrides)}")
