"""The model card: what a bundle is for, what it was made from, how good it is and where it is not, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.records import Calibration, Report, Score

_WORST = 5
_FEW_ROWS = 20
"""A label with fewer test rows has scores that say little."""
_TASKS = {
    "classify": "Gives a text one of its labels",
    "tag": "Finds stretches of a text and names them",
}
_DIGESTS = {"data": "the rows of training, validation and test"}
_LANGUAGES = {"en": "English", "zh": "Chinese"}


def card(facts: Mapping[str, Any], report: Report, calibration: Calibration, project: Mapping[str, Any]) -> str:
    """Return the card of a bundle.

    Args:
        facts: what `bundle.json` says.
        report: scores on the test rows.
        calibration: temperature and thresholds.
        project: every setting, resolved.
    """
    sections = [
        f"# {facts['name']}",
        _use(facts),
        _limits(facts, report, calibration, project),
        _scores(report),
        _labels(report),
        _data(report, project),
        _base(facts),
        _how(project),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _use(facts: Mapping[str, Any]) -> str:
    task = facts["task"]
    what = _TASKS.get(task["kind"], f"Does the task `{task['kind']}`")
    if task["options"].get("multi_label"):
        what = "Gives a text any number of its labels"
    languages = [_LANGUAGES.get(language, language) for language in facts["languages"]]
    for_whom = f" Made for {' and '.join(languages)}." if languages else ""
    return (
        f"{what}; {len(task['labels'])} labels are known.{for_whom}\n\n"
        "Meant for texts like those it was trained on, and for use with a person who can be asked where an answer "
        "matters. Not meant to decide alone about people: nobody has tested it for that.\n\n"
        f'```python\nimport luban\n\nengine = luban.load("bundle")\nengine.predict(["..."])\n```'
    )


def _limits(facts: Mapping[str, Any], report: Report, calibration: Calibration, project: Mapping[str, Any]) -> str:
    lines = [f"- Sees at most {project['max_length']} tokens at once; {_long_text(facts['task'])}."]
    lines.append("- Knows its own labels only: a text that belongs to none of them is answered with one all the same"
                 + (f", unless its probability is below {calibration.abstain_below:.3f}, where it abstains."
                    if calibration.abstain_below else "."))  # fmt: skip
    if few := sorted(label for label, scores in report.per_label.items() if _rows(scores) < _FEW_ROWS):
        lines.append(f"- Tested on fewer than {_FEW_ROWS} rows for: {', '.join(map(_plain, few[:20]))}"
                     + (f" and {len(few) - 20} more." if len(few) > 20 else "."))  # fmt: skip
    if len(facts["languages"]) == 1:
        lines.append("- Other languages than the one it was made for were not tested.")
    return "## Limits\n\n" + "\n".join(lines)


def _long_text(task: Mapping[str, Any]) -> str:
    if task["kind"] == "tag":
        return "longer texts are read in overlapping windows"
    return {
        "head_tail": "of longer texts the beginning and the end are read",
        "chunk": "longer texts are read in several windows, whose answers are averaged",
    }.get(task["options"].get("long_text", "truncate"), "what follows is not read")


def _scores(report: Report) -> str:
    names = list(report.scores)
    rows = [["this model", *(str(report.scores[name]) for name in names)]]
    for baseline, scores in report.baselines.items():
        rows.append([f"baseline: {baseline}", *(str(scores[name]) if name in scores else "" for name in names)])
    n = max((score.n for score in report.scores.values()), default=0)
    heading = f"## Scores\n\nOn {n} test rows (or entities), with 95% intervals.\n\n"
    return heading + _table(["", *names], rows)


def _labels(report: Report) -> str:
    scored = [(label, scores) for label, scores in report.per_label.items() if "f1" in scores]
    worst = sorted(scored, key=lambda item: (item[1]["f1"].value, item[0]))[:_WORST]
    if not worst:
        return ""
    rows = [[_plain(label), *(str(scores[key]) if key in scores else "" for key in ("f1", "precision", "recall")),
             str(_rows(scores))] for label, scores in worst]  # fmt: skip
    return "## Weakest labels\n\n" + _table(["label", "f1", "precision", "recall", "rows"], rows)


def _data(report: Report, project: Mapping[str, Any]) -> str:
    data = project["data"]
    lines = [f"- {what}: `{data[what]}`" for what in ("train", "validation", "test") if data.get(what)]
    missing = [what for what in ("validation", "test") if not data.get(what)]
    if missing:
        split = data["split"]
        lines.append(f"- {' and '.join(missing)} rows are split off ({split['by']}, seed {split['seed']})")
    lines.append(f"- cleaning: {', '.join(data['clean']) or 'none'}")
    lines += [f"- digest of {_DIGESTS.get(what, what)}: `{digest}`" for what, digest in sorted(report.digests.items())]
    return "## Data\n\n" + "\n".join(lines)


def _base(facts: Mapping[str, Any]) -> str:
    base = facts["base"]
    lines = [f"- name: {_plain(base['name'])}"]
    lines += [f"- {key}: {_plain(str(base[key]))}" for key in ("what", "revision", "licence") if base.get(key)]
    if not base.get("licence"):
        lines.append("- licence: not stated; find out before you pass this on")
    if base.get("parameters"):
        lines.append(f"- parameters: {base['parameters'] / 1e6:.1f} million")
    return "## Base\n\n" + "\n".join(lines)


def _how(project: Mapping[str, Any]) -> str:
    train = project["train"]
    keys = ("epochs", "learning_rate", "batch_size", "optimizer", "schedule", "seed")
    lines = [f"- adapter: {train['adapter']['kind']}"]
    lines += [f"- {key.replace('_', ' ')}: {train[key]}" for key in keys if key in train]
    return "## Training\n\n" + "\n".join([*lines, "- all settings: `project.json`"])


def _rows(scores: Mapping[str, Score]) -> int:
    return max((scores[key].n for key in ("recall", "f1") if key in scores), default=0)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Return a text that stays on its line and in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
