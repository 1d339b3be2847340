"""`luban export`: everything up to the exported graph; or a finished bundle, packaged for other people's tools."""

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
@click.option(
    "--for", "kind", metavar="KIND",
    help="Package a finished bundle instead: docker, kserve, mlflow, onnx, openvino, sagemaker or tensorflow.",
)  # fmt: skip
@click.option("--bundle", help="With --for: the bundle, or a version such as bank@3; else the newest of the project.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --for: folder of the package, to be made.")
@click.option(
    "--rows", type=click.Path(path_type=Path),
    help="With --for: a file of texts to compare answers on; else the run's validation rows.",
)  # fmt: skip
@click.option("--column", help="With --rows: column that holds the text, if it is called otherwise there.")
@click.option(
    "--max-difference", type=click.FloatRange(0, min_open=True),
    help="With --for: largest difference of a logit; else `export.max_difference` of the bundle's project.",
)  # fmt: skip
@options.registry
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    project: Path,
    overrides: tuple[str, ...],
    force: tuple[str, ...],
    fastest: bool,
    kind: str | None,
    bundle: str | None,
    output: Path | None,
    rows: Path | None,
    column: str | None,
    max_difference: float | None,
    registry: str | None,
) -> None:
    """Run up to the exported graph, and prove that it answers as the checkpoint does.

    `luban run` goes further: it judges the graph on test rows and seals the bundle. What is done already is not done
    again. Stop it anywhere and type it again: it goes on, to the same result.

    With --for, a finished bundle becomes a folder that others serve with their own tools, with a README.md. It is
    opened with that tool, and its answers are compared with the bundle's: nothing is left where they differ.
    """
    from luban.cli.show import results

    if kind is None:
        if bundle or registry or output or rows or column or max_difference:
            ctx.fail("--bundle, --registry, -o, --rows, --column and --max-difference go with --for")
        from luban.project.load import load

        loaded = load(project, overrides)
        with show.progress(goes_on=True) as on_progress:
            if fastest:
                from luban.stages.fastest import fastest as measure_all

                found = measure_all(loaded, on_progress=on_progress)
                facts, drawn = results.fastest_facts(found), results.fastest(found)
            else:
                from luban.stages.flow import export

                ran = export(loaded, force=force, on_progress=on_progress)
                facts, drawn = results.run_facts(ran), results.run(ran, show.out)
        show.give("export", facts, lambda: drawn)
        show.hint(f"luban run{results.project_option(project, overrides)}")
        return
    if overrides or force or fastest:
        ctx.fail("settings, --fastest and --force go with a project, not with --for")
    if output is None:
        ctx.fail("--for wants -o, the folder of the package")
    if column and not rows:
        ctx.fail("--column goes with --rows")
    from luban.stages.packaging import package
    from luban.stages.predicting import newest_bundle
    from luban.stages.registering import find_bundle

    root = project if project.is_dir() else project.parent
    with show.progress() as on_progress:
        made = package(
            kind, output, bundle=find_bundle(bundle, registry) if bundle else newest_bundle(root), rows=rows,
            column=column, max_difference=max_difference, on_progress=on_progress,
        )  # fmt: skip
    show.give("export", results.packaged_facts(made), lambda: results.packaged(made))
