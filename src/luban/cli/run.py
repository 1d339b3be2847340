"""`luban run`: check, train, export, evaluate."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("run")
@options.project
@options.force
@options.output
def command(show: Show, project: Path, overrides: tuple[str, ...], force: tuple[str, ...]) -> None:
    """Check, train, export and evaluate: to a report and a sealed bundle.

    What is done already is not done again. Stop it anywhere and type it again: it goes on, to the same result.
    """
    from luban.cli.show import results
    from luban.project.load import load

    loaded = load(project, overrides)  # before what imports torch: a mistake is told at once
    from luban.stages.flow import run

    with show.progress(goes_on=True) as on_progress:
        ran = run(loaded, force=force, on_progress=on_progress)
    show.give("run", results.run_facts(ran), lambda: results.run(ran, show.out))
    if ran.bundle is not None:
        show.hint(f"luban predict FILE -o answers.jsonl{results.bundle_option(ran.bundle.folder)}")
