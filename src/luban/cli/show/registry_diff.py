"""What changed from one version to another, as a person reads it: what matters first, what is equal left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luban.cli.show import words
from luban.cli.show.results import grid, pairs
from luban.project.across import LOWER_IS_BETTER

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text as Line

    from luban.metrics.interval import Difference
    from luban.registry.compare import Diff

_SCORES = 4
_SETTINGS = 12
_SLICES = 8


def facts(found: Diff) -> dict[str, Any]:
    """Return what `luban diff` says to a program."""
    return {
        "before": found.before, "after": found.after, "same_data": found.same_data,
        "same_test_rows": found.same_test_rows,
        "settings": [{"path": one.path, "before": one.before, "after": one.after} for one in found.settings],
        "labels_added": found.labels_added, "labels_removed": found.labels_removed,
        "scores": [
            {"name": one.name, "before": one.before, "after": one.after, "difference": _difference(one.difference)}
            for one in found.scores
        ],
        "only_before": found.only_before, "only_after": found.only_after,
        "slices": [
            {
                "by": one.by, "value": one.value, "before": one.other, "after": one.one,
                "difference": one.difference.to_json(),
            }
            for one in found.slices
        ],
        "card": found.card,
    }  # fmt: skip


def draw(found: Diff, console: Console, *, everything: bool = False) -> RenderableType:
    """Return the differences: what they are, scores, slices, settings."""
    from rich.console import Group
    from rich.text import Text

    before, after = found.before, found.after
    parts: list[RenderableType] = [_heads(found), Text(), _scores(found, everything)]
    if found.same_test_rows:
        n = next((one.difference.n for one in found.scores if one.difference is not None), 0)
        told = (
            f"on the same {words.count(n)} test rows: only {before} is right on {words.count(found.only_before)}, "
            f"only {after} on {words.count(found.only_after)}"
        )
    else:
        told = "not compared row by row: they were judged on different test rows, or an older Luban made one of them"
    parts.append(Text(told, style="dim"))
    if found.slices:
        parts += [Text(), _slices(found, everything)]
    if found.settings:
        parts += [Text(), _settings(found, everything)]
    return Group(*parts)


def _heads(found: Diff) -> RenderableType:
    before, after = found.before, found.after
    stated = {what: f"{old or 'not stated'} -> {new or 'not stated'}" for what, (old, new) in found.card.items()}
    sizes = [words.megabytes(version.size_bytes / 1e6) for version in (before, after)]
    smaller = before.size_bytes / max(after.size_bytes, 1)
    lines = {
        "from": f"{before} -> {after}",
        "data": "the same rows" if found.same_data else f"{before.data_digest[:12]} -> {after.data_digest[:12]}",
        "labels": "; ".join(_labels("added", found.labels_added) + _labels("removed", found.labels_removed)),
        "size": " -> ".join(sizes) + (f" ({smaller:.1f}x smaller)" if smaller > 1.05 else ""),
        "latency": _latency(found),
        **stated,
    }
    return pairs({name: text for name, text in lines.items() if text})


def _latency(found: Diff) -> str:
    old, new = found.before.latency_ms, found.after.latency_ms
    if old is None or new is None:
        return ""
    return f"{old:.2f} ms -> {new:.2f} ms, each as it was registered"


def _labels(what: str, labels: Sequence[str]) -> list[str]:
    shown = ", ".join(labels[:6]) + (f" and {len(labels) - 6} more" if len(labels) > 6 else "")
    return [f"{len(labels)} {what}: {shown}"] if labels else []


def _scores(found: Diff, everything: bool) -> RenderableType:
    table = _columns("score", str(found.before), str(found.after))
    for one in found.scores if everything else found.scores[:_SCORES]:
        old, new = one.before, one.after
        cells = ["" if score is None else f"{score.value:.4f}" for score in (old, new)]
        difference, interval = _change(one.difference, lower_is_better=one.name in LOWER_IS_BETTER)
        if one.difference is None and old is not None and new is not None:
            difference = _plain(f"{new.value - old.value:+.4f}")
        table.add_row(one.name, *cells, difference, interval)
    return table


def _slices(found: Diff, everything: bool) -> RenderableType:
    table = _columns("slice", str(found.before), str(found.after), "rows")
    shown = list(found.slices)
    if not everything:
        # The largest changes, in the order in which slices stand.
        largest = sorted(shown, key=lambda one: -abs(one.difference.value))[:_SLICES]
        shown = [one for one in shown if one in largest]
    for one in shown:
        difference, interval = _change(one.difference)
        table.add_row(
            words.safe(f"{one.by} {one.value or '(empty)'}"), f"{one.other:.4f}", f"{one.one:.4f}", difference,
            interval, words.count(one.difference.n),
        )  # fmt: skip
    return table


def _settings(found: Diff, everything: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    table = grid(header=True)
    table.add_column(header="setting", header_style="dim", no_wrap=True)
    table.add_column(header=str(found.before), header_style="dim", overflow="fold")
    table.add_column(header=str(found.after), header_style="dim", overflow="fold")
    shown = found.settings if everything else found.settings[:_SETTINGS]
    for one in shown:
        cells = [Text(words.safe(_value(value))) for value in (one.before, one.after)]
        table.add_row(one.path, *cells)
    more = len(found.settings) - len(shown)
    return Group(table, Text(f"and {more} more: --all", style="dim")) if more else table


def _columns(first: str, before: str, after: str, *more: str) -> Table:
    table = grid(header=True)
    table.add_column(header=first, header_style="dim", overflow="fold")
    for column in (before, after, "change", "95% interval", *more):
        table.add_column(header=column, header_style="dim", no_wrap=True, justify="right")
    return table


def _change(found: Difference | None, *, lower_is_better: bool = False) -> tuple[Line, str]:
    """Return a change and its interval; what is surely no chance has a colour."""
    if found is None:
        return _plain(""), ""
    style = ("green" if (found.value > 0) != lower_is_better else "red") if found.is_clear else ""
    return _plain(f"{found.value:+.4f}", style), f"{found.low:+.4f} to {found.high:+.4f}"


def _plain(text: str, style: str = "") -> Line:
    from rich.text import Text

    return Text(text, style=style)


def _difference(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else found.to_json()


def _value(value: Any) -> str:
    import json

    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
