"""`luban export`: up to the sealed bundle."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("export")
@options.project
@options.force
@options.output
def command(show: Show, project: Path, overrides: tuple[str, ...], force: tuple[str, ...]) -> None:
    """Run up to the sealed bundle: a folder that predicts, with everything needed to answer and to judge answers.

    What is done already is not done again. Stop it anywhere and type it again: it goes on, to the same result.
    """
    from luban import stages
    from luban.cli.show import results
    from luban.project.load import load

    loaded = load(project, overrides)
    with show.progress() as on_progress:
        ran = stages.export(loaded, force=force, on_progress=on_progress)
    show.give("export", results.run_facts(ran), lambda: results.run(ran, show.out))
    if ran.bundle is not None:
        show.hint(f"luban predict FILE -o answers.jsonl{results.bundle_option(ran.bundle.folder)}")
