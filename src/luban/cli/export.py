"""`luban export`: up to the exported graph."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("export")
@options.project
@options.force
@click.option(
    "--fastest", is_flag=True,
    help="Measure every runtime, precision and number of threads here, and write the best into the project file.",
)  # fmt: skip
@options.output
def command(show: Show, project: Path, overrides: tuple[str, ...], force: tuple[str, ...], fastest: bool) -> None:
    """Run up to the exported graph, and prove that it answers as the checkpoint does.

    `luban run` goes further: it judges the graph on test rows and seals the bundle. What is done already is not done
    again. Stop it anywhere and type it again: it goes on, to the same result.
    """
    from luban.cli.show import results
    from luban.project.load import load
    from luban.stages.flow import export

    loaded = load(project, overrides)
    if fastest:
        from luban.stages.fastest import fastest as measure_all

        with show.progress(goes_on=True) as on_progress:
            found = measure_all(loaded, on_progress=on_progress)
        show.give("export", results.fastest_facts(found), lambda: results.fastest(found))
        show.hint(f"luban run{results.project_option(project)}")
        return
    with show.progress(goes_on=True) as on_progress:
        ran = export(loaded, force=force, on_progress=on_progress)
    show.give("export", results.run_facts(ran), lambda: results.run(ran, show.out))
    show.hint(f"luban run{results.project_option(project)}")
