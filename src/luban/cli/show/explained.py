"""An explanation: the text with what speaks for and against its answer, and the words that moved it most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luban.cli.show import machine, words
from luban.cli.show.answers import DECIMALS

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from luban.records import Explanation, Reason

N_LISTED = 8
"""How many parts are listed for a person; JSON has them all."""
_BAR = 24
"""Columns of the longest bar."""
_WIDE = 40
"""Characters of a part that are listed, at most."""
_FAINT = 0.15
"""Share of the greatest weight below which a part stays uncoloured."""
_STRONG = 0.5


def facts(found: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values, as a server gives it."""
    return {
        "text": found.text, "method": found.method, "rows": found.n_rows,
        "reasons": [_reason(reason) for reason in found.reasons],
    }  # fmt: skip


def draw(found: Explanation) -> RenderableType:
    """Return a paragraph for each reason."""
    from rich.console import Group
    from rich.text import Text

    if not found.reasons:
        return Text.assemble(words.safe(found.text), ("  no entities", "dim"))
    shown: list[Text] = []
    for reason in found.reasons:
        shown += [Text(), *_drawn(found.text, reason)] if shown else _drawn(found.text, reason)
    return Group(*shown)


def _reason(reason: Reason) -> dict[str, Any]:
    told: dict[str, Any] = {
        "label": reason.label, "score": round(reason.score, DECIMALS), "log_odds": round(reason.log_odds, DECIMALS),
        "rest": None if reason.rest is None else round(reason.rest, DECIMALS),
    }  # fmt: skip
    if reason.span is not None:
        told["span"] = {**machine.plain(reason.span), "score": round(reason.span.score, DECIMALS)}
    told["parts"] = [{**machine.plain(part), "weight": round(part.weight, DECIMALS)} for part in reason.parts]
    return told


def _drawn(text: str, reason: Reason) -> list[Text]:
    from rich.text import Text

    of = "" if reason.span is None else f"  {words.safe(reason.span.text)}"
    head = Text.assemble((words.safe(reason.label), "bold"), f" {reason.score:.2f}", of)
    most = max((abs(part.weight) for part in reason.parts), default=0.0)
    line, at = Text(), 0
    for part in reason.parts:
        line.append(words.safe(text[at : part.start]))
        line.append(words.safe(part.text), _style(part.weight, most))
        at = part.end
    line.append(words.safe(text[at:]))
    listed = [
        Text.assemble(
            (f"  {part.weight:+6.2f} ", _style(part.weight, most)),
            ("█" * max(1, round(_BAR * abs(part.weight) / most)), "green" if part.weight > 0 else "red"),
            f" {_short(part.text)}",
        )
        for part in reason.strongest[:N_LISTED] if part.weight
    ]  # fmt: skip
    if len(reason.parts) > len(listed):
        listed.append(Text(f"  and {len(reason.parts) - len(listed)} more", "dim"))
    return [head, line, *listed]


def _style(weight: float, most: float) -> str:
    if abs(weight) < _FAINT * most or not weight:
        return ""
    return ("bold " if abs(weight) >= _STRONG * most else "") + ("green" if weight > 0 else "red")


def _short(text: str) -> str:
    safe = words.safe(text)
    return safe if len(safe) <= _WIDE else f"{safe[: _WIDE - 1]}…"
