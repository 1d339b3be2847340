"""`luban register`: a bundle becomes a version."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("register")
@click.argument("bundle", required=False)
@click.option("--name", help="The model's name; without it the bundle's own.")
@click.option("--note", default="", help="Anything worth knowing.")
@click.option("--parent", default="", metavar="NAME@N", help="The version that it was made from.")
@click.option("--licence", default="", help="For its card: the terms under which base and data may be used.")
@click.option("--use", default="", help="For its card: what it is for, and what not.")
@click.option("--limits", default="", help="For its card: where it is wrong, or was not tested.")
@click.option("--objects", metavar="PLACE", help="Where bundles are kept: a folder or s3://BUCKET/PREFIX. Said once.")
@click.option("--measure/--no-measure", default=True, show_default=True, help="Open it, and time its answers.")
@options.registry
@options.who
@options.output
def command(
    show: Show,
    bundle: str | None,
    name: str | None,
    note: str,
    parent: str,
    licence: str,
    use: str,
    limits: str,
    objects: str | None,
    measure: bool,
    registry: str | None,
    who: str | None,
) -> None:
    """Make a bundle a version, numbered and never changed.

    BUNDLE is the sealed folder, or a version such as bank@3; without it the newest under ./runs. It is verified,
    copied and verified again. A bundle that is registered already stays the version that it is; what --licence, --use
    and --limits state then stands on its card in the place of what they stated before.
    """
    from luban.cli.show import registry as drawn
    from luban.stages import registering

    stated = {"licence": licence, "use": use, "limits": limits}
    with show.progress() as on_progress:
        done = registering.register(
            bundle, name=name, registry=registry, objects=objects, note=note, parent=parent, stated=stated,
            measure=measure, who=who, on_progress=on_progress,
        )  # fmt: skip
    show.give("register", {"version": done.version, "is_new": done.is_new}, lambda: drawn.registered(done))
    if "champion" not in done.version.aliases:
        show.hint(f"luban promote {done.version}")
