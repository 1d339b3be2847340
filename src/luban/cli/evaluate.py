"""`luban evaluate`: the project's report, or a bundle's scores on a labelled file."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("evaluate")
@options.project
@click.option("--data", type=click.Path(path_type=Path), help="Labelled rows to judge a finished bundle on.")
@click.option("--bundle", help="With --data: the bundle, or a version such as bank@3; else the newest under ./runs.")
@click.option("--text", help="With --data: column that holds the text, if it is called otherwise there.")
@click.option("--label", help="With --data: column that holds the label, if it is called otherwise there.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="With --data: folder to write the report to.")
@options.threads
@options.force
@options.registry
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    project: Path,
    overrides: tuple[str, ...],
    data: Path | None,
    bundle: str | None,
    text: str | None,
    label: str | None,
    out: Path | None,
    threads: int,
    force: tuple[str, ...],
    registry: str | None,
) -> None:
    """Measure the model on the project's test rows, or a bundle on the rows of --data.

    For a project all stages up to the report are run, those that are done already excepted. With --data nothing is
    trained or changed: the bundle answers, and its answers are compared with the labels.
    """
    from luban.cli.show import results

    if data is None:
        if bundle or text or label or out or threads or registry:
            ctx.fail("--bundle, --registry, --text, --label, --out and --threads go with --data")
        from luban.project.load import load

        loaded = load(project, overrides)  # before what imports torch: a mistake is told at once
        from luban.stages.flow import run

        with show.progress(goes_on=True) as on_progress:
            ran = run(loaded, force=force, on_progress=on_progress)
        show.give("evaluate", results.run_facts(ran), lambda: results.run(ran, show.out))
        return
    if overrides or force:
        ctx.fail("settings and --force go with a project, not with --data")
    from luban.stages.judge import judge
    from luban.stages.predicting import newest_bundle
    from luban.stages.registering import find_bundle

    folder = find_bundle(bundle, registry) if bundle else newest_bundle(Path.cwd())
    with show.progress() as on_progress:
        report = judge(folder, data, text=text, label=label, out=out, threads=threads, on_progress=on_progress)
    facts = {**results.report_facts(report), "bundle": folder, "out": out}
    show.give("evaluate", facts, lambda: results.judged(report, folder, out, show.out))
