"""`luban init`: look at a data file and write a project."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("init")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default="luban.yaml",
    show_default=True,
    help="Where to write the project file.",
)
@click.option("--name", help="Name of the project; without it that of the data file.")
@click.option("--text", help="Column that holds the text.")
@click.option("--label", help="Column that holds the label, the labels, the tags or the spans.")
@click.option("--separator", help="What stands between the labels of a row with several, e.g. '|'.")
@click.option("--task", help="What is to be predicted: classify or tag.")
@click.option("--base", help="Pretrained base: a name that `luban bases` lists, a folder or a hub id.")
@click.option("--test", type=click.Path(path_type=Path), help="Labelled rows for the final scores.")
@click.option("--validation", type=click.Path(path_type=Path), help="Labelled rows to choose the best checkpoint by.")
@click.option(
    "--probe/--no-probe",
    default=True,
    show_default=True,
    help="Measure a linear probe on the frozen base: a first score within a minute or so.",
)
@click.option("--force", is_flag=True, help="Replace a project file that is there already.")
@options.output
def command(
    show: Show,
    data: Path,
    out: Path,
    name: str | None,
    text: str | None,
    label: str | None,
    separator: str | None,
    task: str | None,
    base: str | None,
    test: Path | None,
    validation: Path | None,
    probe: bool,
    force: bool,
) -> None:
    """Look at DATA, measure it, and write a project file.

    Every value in the file is explicit, with the reason for it beside it in a comment.
    """
    from luban.cli.show import results
    from luban.stages.beginning import init

    with show.progress() as on_progress:
        made = init(
            data,
            out=out,
            name=name,
            text=text,
            label=label,
            separator=separator,
            task=task,
            base=base,
            test=test,
            validation=validation,
            probe=probe,
            force=force,
            on_progress=on_progress,
        )
    show.give("init", results.init_facts(made), lambda: results.init(made, show.out))
    show.hint(f"luban check{results.project_option(made.path)}")
