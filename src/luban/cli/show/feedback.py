"""What callers say of answers, as a table and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luban.cli.show import words
from luban.cli.show.results import grid, pairs

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from luban.registry.feedback import Kept
    from luban.stages.feedback import Exported

_TEXT = 60


def table(found: Sequence[Kept], console: Console) -> RenderableType:
    """Return a table of what was said, the oldest first."""
    from rich.text import Text

    if not found:
        return Text("nothing was said yet, or nothing of the kind")
    drawn = grid(header=True)
    for header in ("when (UTC)", "of", "answer", "right"):
        drawn.add_column(header=header, header_style="dim", overflow="fold")
    drawn.add_column(header="text", header_style="dim", max_width=_TEXT, no_wrap=console.width >= 120)
    drawn.add_column(header="from", header_style="dim", overflow="fold")
    drawn.add_column(header="state", header_style="dim", no_wrap=True)
    for one in found:
        of = f"{one.model}@{one.version}" if one.version else one.model
        word, style = {True: ("wrong", "red"), False: ("right", "green"), None: ("", "")}[one.wrong]
        said = " ".join(part for part in (word, _told(one.said) if one.wrong else "") if part)
        whence = " ".join(part for part in (one.caller, one.source) if part)
        drawn.add_row(
            one.at[:16].replace("T", " "), of, Text(words.safe(said), style), words.safe(_told(one.truth)),
            words.safe(one.text or ""), words.safe(whence), one.state,
        )  # fmt: skip
    return drawn


def exported(done: Exported) -> RenderableType:
    """Return what was written."""
    each = sorted(done.labels.items(), key=lambda one: -one[1])
    labels = ", ".join(f"{words.safe(label)} {n:,}" for label, n in each[:8])
    told = {
        "rows": f"{done.rows:,}", "labels": labels + (f" and {len(each) - 8} more" if len(each) > 8 else ""),
        "left out": f"{done.without:,} without a text or what is right, {done.replaced:,} replaced by later ones",
        "written": str(done.output),
    }  # fmt: skip
    return pairs(told)


def deleted(n_rows: int) -> RenderableType:
    """Return how much was deleted."""
    from rich.text import Text

    return Text(f"deleted: {n_rows:,} rows" if n_rows else "nothing was deleted: there is nothing of the kind")


def _told(what: Mapping[str, Any] | None) -> str:
    """Return an answer, or what is right, in a few words."""
    if what is None:
        return ""
    if "spans" in what:
        return ", ".join(f"{one['label']} {one['start']}-{one['end']}" for one in what["spans"]) or "(none)"
    return ", ".join(what["labels"]) if "labels" in what else str(what["label"] or "(none)")
