"""Answers drawn for a person; for a program they are the same JSON lines that `luban predict FILE` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luban.cli.show import words
from luban.records import Prediction, Span

if TYPE_CHECKING:
    from rich.text import Text

N_SCORES = 10
"""How many labels are listed where all scores are asked for; a file has them all."""


def draw(text: str, prediction: Prediction, *, scores: bool) -> Text:
    """Return one line: labels and probabilities, then the text; or the text with its entities marked.

    Args:
        text: as the user gave it.
        prediction: the engine's answer.
        scores: list the likeliest labels beneath.
    """
    from rich.text import Text

    if not prediction.scores:
        return _marked(text, prediction.spans)
    line = Text()
    for label in prediction.labels:
        line.append(words.safe(label), "bold green").append(f" {prediction.scores[label]:.2f}  ", "green")
    if not prediction.labels:
        line.append(f"no label, the likeliest has {prediction.score:.2f}  ", "yellow")
    line.append(words.safe(text))
    if scores:
        best = sorted(prediction.scores.items(), key=lambda item: -item[1])
        for label, score in best[:N_SCORES]:
            line.append(f"\n  {score:.3f}  {words.safe(label)}", "dim")
        if len(best) > N_SCORES:
            line.append(f"\n  and {len(best) - N_SCORES} more", "dim")
    return line


def _marked(text: str, spans: tuple[Span, ...]) -> Text:
    from rich.text import Text

    line, at = Text(), 0
    for span in sorted(spans, key=lambda span: span.start):
        line.append(words.safe(text[at : span.start]))
        line.append(words.safe(text[span.start : span.end]), "bold green")
        line.append(f"[{words.safe(span.label)} {span.score:.2f}]", "green")
        at = span.end
    line.append(words.safe(text[at:]))
    if not spans:
        line.append("  no entities", "dim")
    return line
