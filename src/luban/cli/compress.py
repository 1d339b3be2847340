"""`luban compress`: the smallest and fastest model that keeps a budget."""

from __future__ import annotations

from pathlib import Path

import click

from luban.cli import options
from luban.cli.show import Show

_BUDGETS = ("size_mb", "latency_ms")


def _amounts(given: tuple[str, ...]) -> dict[str, float]:
    """Read `size_mb=12` and the like.

    Raises:
        click.BadParameter: a name that is no budget, or an amount that is no number above 0.
    """
    found = {}
    for text in given:
        name, _, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0.0
        if name not in _BUDGETS or not 0 < found[name] < float("inf"):
            wanted = " or ".join(f"{budget}=NUMBER" for budget in _BUDGETS)
            raise click.BadParameter(f"got {text!r}, wanted {wanted}, with a number above 0")
    return found


@click.command("compress")
@options.project
@click.option(
    "--at-most", multiple=True, callback=lambda _, __, given: _amounts(given), metavar="BUDGET",
    help="What it may cost: size_mb=12 or latency_ms=3, or both.",
)  # fmt: skip
@click.option(
    "--lose-at-most", type=click.FloatRange(0, 1, max_open=True),
    help="How much of the task's main score may be lost, e.g. 0.005 for half a point.",
)  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="After so many, no further plan is begun.")
@click.option("--frontier", is_flag=True, help="Measure every plan, show what each costs, and choose none.")
@options.output
def command(
    show: Show,
    project: Path,
    overrides: tuple[str, ...],
    at_most: dict[str, float],
    lose_at_most: float | None,
    minutes: float | None,
    frontier: bool,
) -> None:
    """Find the smallest and fastest model that keeps a budget, prove it, and seal it beside the uncompressed one.

    Plans are tried from cheap to dear and measured on this machine. The one chosen is judged on the test rows and
    written into the project file. Stop it anywhere and type it again: what was built is not built again.
    """
    from luban.cli.show import results
    from luban.project.load import load

    # `--at-most size_mb=12 latency_ms=3`: an option takes one word, and no setting is called as the second is.
    amounts = tuple(text for text in overrides if at_most and text.partition("=")[0] in _BUDGETS)
    at_most |= _amounts(amounts)
    # Before what imports torch: a mistake is told at once.
    loaded = load(project, [text for text in overrides if text not in amounts])
    from luban.stages.compressing import compress

    with show.progress(goes_on=True) as on_progress:
        made = compress(
            loaded, size_mb=at_most.get("size_mb"), latency_ms=at_most.get("latency_ms"), lose=lose_at_most,
            minutes=minutes, only_frontier=frontier, on_progress=on_progress,
        )  # fmt: skip
    show.give("compress", results.compressed_facts(made), lambda: results.compressed(made, show.out))
    if made.bundle is not None:
        show.hint(f"luban predict FILE -o answers.jsonl{results.bundle_option(made.bundle.folder)}")
