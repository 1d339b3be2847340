"""`luban feedback`: what callers say of answers."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show

_ONLY = {
    "output": ("export",), "last": ("list",), "state": ("list", "export"), "older": ("delete",), "why": ("delete",),
    "who": ("delete",),
}  # fmt: skip


@click.command("feedback")
@click.argument("action", type=click.Choice(["list", "export", "delete"]))
@click.argument("model", required=False, metavar="[MODEL|MODEL@NUMBER]")
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="export: where to write: .jsonl, .csv, .tsv or .parquet.")  # fmt: skip
@click.option("--source", help="What comes from this source alone, e.g. a user's id.")
@click.option("--caller", metavar="KEY", help="What came with this access key alone.")
@click.option("--tenant", help="What comes from this tenant alone.")
@click.option("--state", type=click.Choice(["quarantined", "approved", "rejected"]),
              help="list, export: what is in this state alone.")  # fmt: skip
@click.option("--last", type=click.IntRange(min=0), metavar="N",
              help="list: so many at most, the newest; 20 without it, 0 is all.")  # fmt: skip
@click.option("--older", metavar="TIME", help="delete: what was kept longer ago than that, as 90d.")
@click.option("--why", help="delete: the reason, for the audit.")
@options.registry
@options.who
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    action: str,
    model: str | None,
    output: Path | None,
    source: str | None,
    caller: str | None,
    tenant: str | None,
    state: str | None,
    last: int | None,
    older: str | None,
    why: str | None,
    registry: str | None,
    who: str | None,
) -> None:
    """List, export or delete what callers said of the answers of MODEL.

    `export` writes texts with what is right for them, as a file that `luban train` reads: look at it first, anybody
    with a key can have said it. `delete` forgets what came from a source, a key or a tenant, or is older than a time;
    that it was done stays in the audit.
    """
    from luban.cli.show import feedback as drawn
    from luban.stages import feedback

    given = [option for option in _ONLY if ctx.params[option] not in (None, False)]
    if wrong := [option for option in given if action not in _ONLY[option]]:
        ctx.fail(f"--{wrong[0]} goes with {' or '.join(f'`{one}`' for one in _ONLY[wrong[0]])}")
    which = {"source": source or "", "caller": caller or "", "tenant": tenant or ""}
    if action == "list":
        n_last = 20 if last is None else last
        found = feedback.list_feedback(model or "", state=state or "", last=n_last, registry=registry, **which)
        show.give("feedback", {"feedback": found}, lambda: drawn.table(found, show.out))
    elif action == "export":
        if model is None or output is None:
            ctx.fail("name the model and the file: luban feedback export bank -o said.jsonl")
        done = feedback.export_feedback(model, output, state=state or "", registry=registry, **which)
        show.give("export", vars(done), lambda: drawn.exported(done))
    else:
        n_rows = feedback.delete_feedback(
            model or "", older=older or "", who=who, why=why or "", registry=registry, **which
        )
        show.give("delete", {"deleted": n_rows}, lambda: drawn.deleted(n_rows))
