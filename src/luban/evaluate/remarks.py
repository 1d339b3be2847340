"""What a reader of a report should not overlook, found by rule and without words, so that any language can say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luban.records import Report

WIDE = 0.05
"""An interval this wide makes a score uncertain."""
FAR_OFF = 0.03
"""A calibration error from which probabilities mislead."""
RARE = 10
"""Test rows of a label, without which its own scores say little."""
_MOST_NAMES = 8

Remark = tuple[str, Mapping[str, Any]]
"""What is remarked, and the values that belong in the sentence."""


def best_baseline(report: Report) -> str | None:
    """Return the name of the baseline with the highest main score; None where none was measured."""
    main = report.details["main_score"]
    measured = [name for name, scores in report.baselines.items() if main in scores]
    return max(measured, key=lambda name: report.baselines[name][main].value, default=None)


def remarks(report: Report) -> list[Remark]:
    """Return what stands out, the most important first."""
    rules = (_of_what_is_held_back, _of_size, _of_probabilities, _of_slices, _of_labels)
    return [remark for rule in rules for remark in rule(report)]


def _of_what_is_held_back(report: Report) -> list[Remark]:
    unheld = report.details.get("unheld")
    if unheld is None or "coverage" not in report.scores:
        return []
    share, right = 1 - report.scores["coverage"].value, report.scores["selective_accuracy"].value
    return [("held_back", {"share": share, "right": right, "unheld": unheld["value"]})]


def _of_size(report: Report) -> list[Remark]:
    main = report.scores[report.details["main_score"]]
    if main.high - main.low <= WIDE:
        return []
    return [("few_rows", {"n": report.details["n_rows"], "width": main.high - main.low})]


def _of_probabilities(report: Report) -> list[Remark]:
    ece = report.scores.get("ece")
    if ece is None or ece.low < FAR_OFF:
        return []
    bins = report.details["reliability"]
    gap = sum((part["confidence"] - part["accuracy"]) * part["n"] for part in bins)
    return [("overconfident" if gap > 0 else "underconfident", {"ece": ece.value})]


def _of_slices(report: Report) -> list[Remark]:
    return [
        ("slice", {"by": part["by"], "value": part["value"], "score": part["score"]["value"], "rest": part["rest"]})
        for part in report.details["slices"]
        if part["is_below"]
    ]


def _of_labels(report: Report) -> list[Remark]:
    found: list[Remark] = []
    known = set(report.details["labels"])
    support = {label: int(scores["recall"].n) for label, scores in report.per_label.items()}
    unseen = [label for label, n in support.items() if label not in known and n]
    if unseen:
        found.append(("unseen", {"labels": _names(unseen)}))
    never = [
        label for label, n in support.items() if n and label in known and not report.per_label[label]["precision"].n
    ]
    if never:
        found.append(("never", {"labels": _names(never)}))
    if (n := report.details["suspects"].get("n", 0)) > 0:
        found.append(("suspects", {"n": n}))
    rare = [label for label in report.details["labels"] if support.get(label, 0) < RARE]
    if rare and len(rare) < len(known):
        found.append(("rare", {"n": len(rare), "of": len(known), "least": RARE, "labels": _names(rare)}))
    return found


def _names(labels: list[str]) -> list[str]:
    return labels if len(labels) <= _MOST_NAMES else [*labels[:_MOST_NAMES], "…"]
