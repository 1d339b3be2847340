"""`luban predict`: answers for a file, for texts, or for lines as they come."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("predict")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write: .jsonl, .csv, .tsv or .parquet.")
@click.option("--text", "texts", multiple=True, help="A text to answer. May be given several times.")
@click.option("--column", help="Column of FILE that holds the text; without it the one the model was trained with.")
@click.option("--bundle", help="The bundle, or a version such as bank@champion; without it the newest under ./runs.")
@click.option("--scores", is_flag=True, help="Give the probability of every label.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on where a stopped call with -o was.")
@options.threads
@options.registry
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    file: Path | None,
    output: Path | None,
    texts: tuple[str, ...],
    column: str | None,
    bundle: str | None,
    scores: bool,
    resume: bool,
    threads: int,
    registry: str | None,
) -> None:
    """Answer texts through a bundle.

    FILE may be csv, tsv, jsonl, json, parquet, xlsx, or a .txt with one text a line. With -o the answers are written
    beside the file's own columns, in its order, and a stopped call goes on where it was. Without it they go to stdout
    as JSON lines, as they are made. Without FILE and --text, each line of stdin is a text.
    """
    from luban.cli.show import answers
    from luban.stages.predicting import answer_file, newest_bundle, predict_file
    from luban.stages.registering import find_bundle

    piped = file is None and not texts
    if texts and file is not None:
        ctx.fail("give FILE or --text, not both")
    if output is not None and file is None:
        ctx.fail("-o goes with FILE; else write `> answers.jsonl`")
    if column is not None and file is None:
        ctx.fail("--column goes with FILE")
    if piped and answers.nobody_writes_stdin():
        ctx.fail("give FILE, --text, or lines on stdin")
    folder = find_bundle(bundle, registry) if bundle else newest_bundle(Path.cwd())
    if file is None:
        answers.write(show, folder, texts if texts else answers.stdin_blocks(), scores=scores, threads=threads)
        return
    if output is None:
        with show.progress(beside_answers=True) as on_progress:
            blocks = answer_file(folder, file, text=column, scores=scores, threads=threads, on_progress=on_progress)
            answers.write_rows(blocks)
        return
    with show.progress(goes_on=resume) as on_progress:
        done = predict_file(
            folder, file, output, text=column, scores=scores, resume=resume, threads=threads, on_progress=on_progress
        )
    show.give("predict", answers.summary_facts(done), lambda: answers.summary(done))
