"""`luban export`: up to the exported graph."""

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
    """Run up to the exported graph, and prove that it answers as the checkpoint does.

    `luban run` goes further: it judges the graph on test rows and seals the bundle. What is done already is not done
    again. Stop it anywhere and type it again: it goes on, to the same result.
    """
    from luban.cli.show import results
    from luban.project.load import load
    from luban.stages.flow import export

    loaded = load(project, overrides)
    with show.progress(goes_on=True) as on_progress:
        ran = export(loaded, force=force, on_progress=on_progress)
    show.give("export", results.run_facts(ran), lambda: results.run(ran, show.out))
    show.hint(f"luban run{results.project_option(project)}")
