"""`luban mask`: a file without personal data, to be shared."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("mask")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="Where to write: .jsonl, .csv, .tsv or .parquet.")  # fmt: skip
@click.option(
    "--column", "columns", multiple=True, help="A column to mask; all without it. May be given several times."
)
@click.option("--kinds", help="What to mask, with commas, as email,phone; all kinds without it.")
@click.option("--key", type=click.Path(path_type=Path), help="File with a key: tokens that it can turn back.")
@click.option("--names-by", multiple=True, metavar="BUNDLE",
              help="A bundle, or version as names@champion, that tags names: finds more; or several.")  # fmt: skip
@click.option("--label", "labels", multiple=True, metavar="LABEL=KIND",
              help="A label of it that counts, and as what, as PER=name; without it those that are known.")  # fmt: skip
@click.option("--reverse", is_flag=True, help="Turn tokens back, with --key.")
@options.registry
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    file: Path,
    output: Path,
    columns: tuple[str, ...],
    kinds: str | None,
    key: Path | None,
    names_by: tuple[str, ...],
    labels: tuple[str, ...],
    reverse: bool,
    registry: str | None,
) -> None:
    """Write FILE without personal data: each becomes the name of its kind, as <PHONE>.

    Found are mail addresses, telephone, identity, passport, account and card numbers, number plates, network
    addresses, passwords, addresses and names, English and Chinese. Not all of them: look before you share.
    """
    from luban.stages.masking import mask_file

    if reverse and key is None:
        ctx.fail("--reverse goes with --key")
    if reverse and (kinds or names_by):
        ctx.fail("--kinds and --names-by look for what is to be masked: they do not go with --reverse")
    pairs_given = [one.partition("=") for one in labels]
    if wrong := [label for label, _, kind in pairs_given if not label or not kind]:
        ctx.fail(f"--label {wrong[0]}: wanted LABEL=KIND, as PER=name")
    if labels and not names_by:
        ctx.fail("--label goes with --names-by")
    wanted = [one.strip() for one in (kinds or "").split(",") if one.strip()]
    with show.progress() as on_progress:
        done = mask_file(
            file, output, columns=columns, kinds=wanted, key=key, names_by=names_by, reverse=reverse,
            labels={label: kind for label, _, kind in pairs_given} or None, registry=registry, on_progress=on_progress,
        )  # fmt: skip
    from luban.cli.show.results import pairs

    found = ", ".join(f"{n:,} {kind}" for kind, n in sorted(done.counts.items(), key=lambda one: -one[1])) or "none"
    told = {"rows": f"{done.rows:,}, {done.changed:,} of them changed", "found": found, "written": str(done.output)}
    show.give("mask", vars(done), lambda: pairs(told))
