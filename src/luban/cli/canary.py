"""`luban canary`: a version answers a share of the requests, and goes back by itself where it is worse."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("canary")
@click.argument("version", required=False)
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.05, show_default=True,
              help="Of the requests that VERSION answers.")  # fmt: skip
@click.option("--by", default="", metavar="key|header:NAME",
              help="The same caller gets the same version: by its access key, or by a header's value.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
              help="After so long without a reason against it, it has passed.")  # fmt: skip
@click.option("--then", type=click.Choice(["hold", "promote"]), default="hold", show_default=True,
              help="What is done when it has passed.")  # fmt: skip
@click.option("--shadow", is_flag=True, help="It gets copies of the requests instead, and nobody gets its answers.")
@click.option("--disagree-at-most", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
              help="Of texts that it may answer otherwise than the champion; else the test rows say.")  # fmt: skip
@click.option("--slower-at-most", type=click.FloatRange(1), default=2.0, show_default=True, metavar="TIMES",
              help="How many times the champion's 99th percentile its own may be.")  # fmt: skip
@click.option("--errs-at-most", type=click.FloatRange(1), default=1.2, show_default=True, metavar="TIMES",
              help="How many times the champion's wrong answers it may give, as feedback tells of them.")  # fmt: skip
@click.option("--beside", "alias", default="champion", show_default=True, metavar="ALIAS", help="Whose requests.")
@click.option("--status", is_flag=True, help="Show how it stands; VERSION may be a model's name, or left out.")
@click.option("--stop", is_flag=True, help="End it now; VERSION may be a model's name.")
@click.option("--why", default="", help="The reason, for the audit.")
@options.registry
@options.who
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    version: str | None,
    share: float,
    by: str,
    minutes: float,
    then: str,
    shadow: bool,
    disagree_at_most: float | None,
    slower_at_most: float,
    errs_at_most: float,
    alias: str,
    status: bool,
    stop: bool,
    why: str,
    registry: str | None,
    who: str | None,
) -> int:
    """Try VERSION, e.g. bank@4, on a share of what the champion is asked.

    Every server that serves bank=champion takes part within seconds. Where VERSION fails more often, is slower, answers
    otherwise than its test rows led to expect, or is wrong more often by what callers say, it goes back by itself; the
    audit keeps why. With --status the exit code is 1 where the last trial was rolled back.
    """
    from luban.cli.show import trials as drawn
    from luban.stages import trying

    if version is None and not status:
        ctx.fail("name a version, e.g. bank@4, or say --status")
    if status and stop:
        ctx.fail("--status and --stop exclude each other")
    if status:
        found = trying.status(version, alias=alias, registry=registry)
        show.give("canary", {"trials": [vars(one) for one in found]}, lambda: drawn.standings(found))
        return int(bool(version) and bool(found) and found[-1].rollout.state == "rolled_back")
    assert version is not None
    if stop:
        ended = trying.stop(version, alias=alias, registry=registry, why=why, who=who)
        show.give("canary", {"trial": ended}, lambda: drawn.ended(ended))
        return 0
    begun = trying.begin(
        version, share=share, by=by, minutes=minutes, then=then, shadow=shadow, disagree_at_most=disagree_at_most,
        slower_at_most=slower_at_most, errs_at_most=errs_at_most, alias=alias, registry=registry, why=why, who=who,
    )  # fmt: skip
    show.give("canary", {"trial": begun}, lambda: drawn.begun(begun))
    show.hint(f"luban canary {begun.name} --status")
    return 0
