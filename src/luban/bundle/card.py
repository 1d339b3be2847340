"""The model card: what a bundle is for, what it was made from, how good it is and where it is not, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.records import Calibration, Report, Score

_TEMPLATES = Path(__file__).parent / "templates"
_WORST = 5
_FEW_ROWS = 20
"""A label with fewer test rows has scores that say little."""
_LANGUAGES = {"en": {"en": "English", "zh": "Chinese"}, "zh": {"en": "英语", "zh": "中文"}}
_LIMITS = ("Limits", "局限")
"""How the section of limits is headed in the languages that there are."""
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_TRAINING = ("epochs", "learning_rate", "batch_size", "optimizer", "schedule", "seed")


def card(facts: Mapping[str, Any], report: Report, calibration: Calibration, project: Mapping[str, Any]) -> str:
    """Return the card of a bundle, in the language of the project's report.

    Args:
        facts: what `bundle.json` says.
        report: scores on the test rows.
        calibration: temperature and thresholds.
        project: every setting, resolved.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    language = project["evaluate"]["language"]
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["plain"] = _plain
    environment.filters["translate"] = lambda word, names: names[word]
    task, data = facts["task"], project["data"]
    text = environment.get_template(f"card.{language}.md").render(
        facts=facts,
        task=task,
        multi_label=task["options"].get("multi_label", False),
        long_text=task["options"].get("long_text", "truncate"),
        languages=[_LANGUAGES[language].get(one, one) for one in facts["languages"]],
        project=project,
        abstain_below=calibration.abstain_below,
        report=report,
        n_rows=max((score.n for score in report.scores.values()), default=0),
        baselines={
            baseline: [scores.get(name, "") for name in report.scores] for baseline, scores in report.baselines.items()
        },
        few=sorted(label for label, scores in report.per_label.items() if _rows(scores) < _FEW_ROWS),
        few_rows=_FEW_ROWS,
        weakest=_weakest(report),
        files={what: data[what] for what in ("train", "validation", "test") if data[what]},
        split_off=[what for what in ("validation", "test") if not data[what]],
        base=dict.fromkeys(("what", "revision", "licence", "parameters")) | dict(facts["base"]),
        training=_TRAINING,
    )
    return text.rstrip() + "\n"


def use_and_limits(text: str) -> tuple[str, str]:
    """Return what a card says of use, and of limits; each is empty where it says nothing."""
    opening, *pieces = _SECTION.split(text)
    sections = {heading.strip(): body.strip() for heading, body in zip(pieces[::2], pieces[1::2], strict=True)}
    use = opening.partition("\n")[2] if opening.startswith("# ") else opening
    return _FENCED.sub("", use).strip(), next((sections[name] for name in _LIMITS if name in sections), "")


def _weakest(report: Report) -> list[tuple[str, Mapping[str, Any], int]]:
    """Return the labels with the lowest F1, their scores, and how many test rows they have."""
    scored = [(label, scores) for label, scores in report.per_label.items() if "f1" in scores]
    worst = sorted(scored, key=lambda item: (item[1]["f1"].value, item[0]))[:_WORST]
    nothing = dict.fromkeys(("precision", "recall"), "")
    return [(label, {**nothing, **scores}, _rows(scores)) for label, scores in worst]


def _rows(scores: Mapping[str, Score]) -> int:
    return max((scores[key].n for key in ("recall", "f1") if key in scores), default=0)


def _plain(text: str) -> str:
    """Return a text that stays on its line and in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
