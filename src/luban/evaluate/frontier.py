"""What every plan of compression costs and loses, as a page: `compress.html` for people, `compress.md` for reviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luban import files
from luban.evaluate import plots
from luban.evaluate.render import environment
from luban.evaluate.words import HTML_LANGUAGES, Words, percent


def write(facts: Mapping[str, Any], folder: Path, language: str = "en") -> None:
    """Write `compress.html` and `compress.md`, each whole or not at all.

    Args:
        facts: what `compress.json` holds: `name`, `score` (name of the main score), `points`, `chosen`, `lost_on_test`.
        folder: where to.
        language: `en` or `zh`.
    """
    words = Words(language)
    view = _view(facts, words)
    for template, ending in (("frontier.html", "html"), ("frontier.md", "md")):
        text = (
            environment(escape=ending == "html")
            .get_template(template)
            .render(**view, words=words, html_language=HTML_LANGUAGES[language])
        )
        files.write_text(folder / f"compress.{ending}", text)


def _view(facts: Mapping[str, Any], words: Words) -> dict[str, Any]:
    points = facts["points"]
    chosen = facts["chosen"]["plan"] if facts["chosen"] else None
    heads = ["size", "smaller", "latency", "p99", "faster", "rate"]
    return {
        "name": facts["name"],
        "lead": _lead(facts, words),
        "heads": [*(words(f"frontier.{head}") for head in heads), words.score(facts["score"]), words("frontier.lost")],
        "rows": [
            {
                "plan": _plan(point["plan"], words), "cells": _cells(point),
                "on_frontier": point["on_frontier"], "is_chosen": point["plan"] == chosen,
            }
            for point in points
        ],
        "by_size": _plot(points, "size_mb", chosen, facts["score"], words("frontier.size_axis"), words),
        "by_latency": _plot(points, "latency_ms", chosen, facts["score"], words("frontier.latency_axis"), words),
    }  # fmt: skip


def _lead(facts: Mapping[str, Any], words: Words) -> str:
    if not facts["chosen"]:
        return words("frontier.none")
    chosen, lost = facts["chosen"], facts["lost_on_test"]
    first = words(
        "frontier.chosen", plan=_plan(chosen["plan"], words), smaller=f"{chosen['smaller']:.1f}",
        faster=f"{chosen['faster']:.1f}",
    )  # fmt: skip
    if not lost:
        return first
    ends = {name: f"{lost[key] * 100:.2f}" for name, key in (("lost", "value"), ("low", "low"), ("high", "high"))}
    gap = "" if words.language == "zh" else " "
    return first + gap + words("frontier.on_test", **ends)


def _plan(steps: Sequence[Mapping[str, Any]], words: Words) -> str:
    told = [
        " ".join([step["kind"], *(f"{name}={value}" for name, value in step.items() if name != "kind")])
        for step in steps
    ]
    return ", ".join(told) or words("frontier.uncompressed")


def _cells(point: Mapping[str, Any]) -> list[str]:
    lost = point["lost"]
    return [
        f"{point['size_mb']:.1f}", f"{point['smaller']:.1f}x", f"{point['latency_ms']:.2f}", f"{point['p99_ms']:.2f}",
        f"{point['faster']:.1f}x", f"{point['rows_per_s']:,.0f}", percent(point["score"]["value"]),
        f"{lost['value'] * 100:+.2f} [{lost['low'] * 100:+.2f}, {lost['high'] * 100:+.2f}]",
    ]  # fmt: skip


def _plot(points: Sequence[Mapping[str, Any]], cost: str, chosen: Any, score: str, x_title: str, words: Words) -> Any:
    drawn = [
        (
            point[cost], point["score"]["value"], _plan(point["plan"], words),
            "main" if point["plan"] == chosen else "kept" if point["on_frontier"] else "beaten",
        )
        for point in points
    ]  # fmt: skip
    return plots.scatter(drawn, x_title, x_title, words.score(score))
