"""`luban audit`: who changed what, and proof that nobody changed that afterwards."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show
from luban.errors import RegistryError, codes


@click.command("audit")
@click.argument("action", type=click.Choice(["verify", "list"]))
@click.argument("subject", required=False, default="")
@click.option(
    "--last", type=click.IntRange(min=0), default=0, help="list: no more than so many, the newest; 0 for all."
)
@click.option("--noted", default="", metavar="SEQ:HASH", help="verify: an entry as an earlier check told it.")
@options.registry
@options.output
@click.pass_context
def command(
    ctx: click.Context, show: Show, action: str, subject: str, last: int, noted: str, registry: str | None
) -> int:
    """Check the audit's chain of hashes, or list its entries, of SUBJECT alone if one is named.

    `verify` names the first entry that was changed, removed or put elsewhere, and exits with 7 then. It tells the
    newest entry as SEQ:HASH: note that elsewhere, and give it as --noted later.
    """
    from luban.cli.show import registry as drawn
    from luban.stages import registering

    if action == "list":
        if noted:
            ctx.fail("--noted goes with `verify`")
        entries = registering.audit_list(subject, last=last, registry=registry)
        show.give("audit", {"entries": entries}, lambda: drawn.entries(entries, show.out))
        return 0
    if subject or last:
        ctx.fail("`verify` checks all entries: SUBJECT and --last go with `list`")
    found = registering.audit_verify(noted, registry)
    show.give("audit", {"verified": found, "holds": found.broken is None}, lambda: drawn.verified(found))
    return 0 if found.broken is None else codes(RegistryError).exit
