"""A Report as files: `report.html` for people, `report.md` for reviews, `report.json` for programs.

The page stands alone: no scripts, no fonts or images from elsewhere, and a content policy that forbids them. All text
from data is escaped by the templates. The same report gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luban import files
from luban.evaluate import plots
from luban.evaluate.remarks import Remark, best_baseline, remarks
from luban.evaluate.words import HTML_LANGUAGES, Words, number, percent, points, printable
from luban.records import Report, Score

FORMAT = 1
"""Version of report.json's form; a new one means that a reader must change."""
_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~$])")


def write(report: Report, folder: Path, language: str = "en") -> None:
    """Write report.html, report.md and report.json into a folder, each whole or not at all.

    Args:
        report: what was found.
        folder: where to; it is made where it is not there.
        language: language of the headings, `en` or `zh`.
    """
    files.write_text(folder / "report.html", to_html(report, language))
    files.write_text(folder / "report.md", to_markdown(report, language))
    files.write_json(folder / "report.json", to_json(report))


def to_json(report: Report) -> dict[str, Any]:
    """Return the JSON value of a report: scores as {value, low, high, n}, baselines in the same form."""

    def scored(scores: Mapping[str, Score]) -> dict[str, Any]:
        return {name: score.to_json() for name, score in scores.items()}

    return {
        "format": FORMAT,
        "name": report.name,
        "task": report.task,
        "scores": scored(report.scores),
        "baselines": {name: scored(scores) for name, scores in report.baselines.items()},
        "per_label": {label: scored(scores) for label, scores in report.per_label.items()},
        "digests": dict(report.digests),
        "details": dict(report.details),
    }


def from_json(value: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` gave."""

    def scored(scores: Mapping[str, Any]) -> dict[str, Score]:
        return {name: Score(**score) for name, score in scores.items()}

    return Report(
        name=value["name"],
        task=value["task"],
        scores=scored(value["scores"]),
        baselines={name: scored(scores) for name, scores in value["baselines"].items()},
        per_label={label: scored(scores) for label, scores in value["per_label"].items()},
        digests=value["digests"],
        details=value["details"],
    )


def to_html(report: Report, language: str = "en") -> str:
    """Return the page of a report."""
    return _render(environment(escape=True), "report.html", report, Words(language))


def to_markdown(report: Report, language: str = "en") -> str:
    """Return the report as Markdown: tables instead of plots."""
    return _render(environment(escape=False), "report.md", report, Words(language))


def environment(*, escape: bool) -> Any:
    """Return what fills in templates: for pages, with HTML's escapes, or for Markdown, with Markdown's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable if escape else _plain,
    )


def _printable(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def _plain(value: Any) -> Any:
    """Return text that Markdown takes as it is; words of Luban's own come as Markup and pass."""
    if type(value) is not str:
        return value
    text = printable(value).replace("&", "&amp;")
    return " ".join(_MARKDOWN.sub(r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;").split())


def _render(environment: Any, template: str, report: Report, words: Words) -> str:
    from markupsafe import Markup, escape

    is_page = template.endswith(".html")

    def say(key: str, **values: Any) -> Any:
        """The words of a key, already escaped, with each value escaped for the page or for Markdown."""
        guard = (lambda value: escape(_printable(value))) if is_page else _plain
        shown = {name: guard(value) if isinstance(value, str) else value for name, value in values.items()}
        return Markup(words(key, **shown))

    environment.filters.update(breaks=breaks, percent=percent, points=points, number=number, pieces=pieces)
    page = environment.get_template(template)
    text: str = page.render(
        t=say,
        words=words,
        plots=plots,
        report=report,
        d=report.details,
        html_language=HTML_LANGUAGES[words.language],
        **_view(report, words, say),
    )
    return text


def _view(report: Report, words: Words, say: Any) -> dict[str, Any]:
    """Return what templates show that has to be worked out first."""
    details = report.details
    main = details["main_score"]
    names = {name: words.model(name, report.task) for name in report.baselines}
    best = best_baseline(report)
    rows = [plots.Dot(words("model.this"), *_ends(report.scores[main]), is_main=True)]
    ordered = sorted(report.baselines, key=lambda name: -report.baselines[name][main].value)
    rows += [plots.Dot(names[name], *_ends(report.baselines[name][main])) for name in ordered]
    kind = "task.classify.multi" if report.task == "classify" and details["multi_label"] else f"task.{report.task}"
    return {
        "main": main,
        "kind": words.get(kind, report.task),
        "names": names,
        "order": ordered,
        "dots": rows,
        "gain": _gain(report, best, names, say),
        "remarks": [_remark(remark, words, say) for remark in remarks(report)],
        "labels": label_rows(report),
        "hidden": _repeated(report),
        "label_span": _span([scores["f1"] for scores in report.per_label.values()]),
        "slice_span": _span([Score(**part["score"]) for part in details["slices"]]),
        "settings": list(flatten(details["lock"])),
        "costs": [words.cost(name, value) for name, value in details["costs"].items()],
        "calibration": {
            name: value
            for name, value in details["calibration"].items()
            if name != "thresholds" and (name, value) != ("abstain_below", 0.0)
        },
        "thresholds": details["calibration"].get("thresholds") or {},
        "confusion": _matrix(details["confusion"], words),
        "agreeing": comma(words).join(names.get(name, name) for name in details["suspects"].get("agreeing", ())),
    }


def _repeated(report: Report) -> set[str]:
    """Return scores that say what another says: with one answer a row, micro F1 is accuracy."""
    single, micro = report.scores.get("accuracy"), report.scores.get("micro_f1")
    return {"micro_f1"} if single and micro and abs(single.value - micro.value) < 1e-12 else set()


def comma(words: Words) -> str:
    """Return what stands between the items of a list."""
    return "、" if words.language == "zh" else ", "


def _matrix(confusion: Mapping[str, Any], words: Words) -> tuple[list[str], list[list[int]]] | None:
    """Return the labels and the confusion matrix, without the row and column of "none" where they are empty."""
    if "matrix" not in confusion:
        return None
    matrix = confusion["matrix"]
    keep = [
        place
        for place, label in enumerate(confusion["labels"])
        if label or sum(matrix[place]) or sum(row[place] for row in matrix)
    ]
    return (
        [words.label(confusion["labels"][place]) for place in keep],
        [[matrix[row][column] for column in keep] for row in keep],
    )


def _ends(score: Score) -> tuple[float, float, float]:
    return score.value, score.low, score.high


def _span(scores: Sequence[Score]) -> tuple[float, float]:
    """Return the range that small plots of these scores share."""
    known = [score for score in scores if score.n]
    low = min((score.low for score in known), default=0.0)
    return (max(0.0, low - 0.02), 1.0)


def _gain(report: Report, best: str | None, names: Mapping[str, str], say: Any) -> list[Any]:
    """Return the sentences on what fine-tuning bought."""
    if best is None:
        return [say("gain.none")]
    found = report.details["gains"][best]
    difference = found["differences"][report.details["main_score"]]
    verdict = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "unclear"
    ends = [difference["low"], difference["high"]]
    if verdict == "unclear":
        low, high = map(points, ends)
    else:
        low, high = (points(end).lstrip("+−") for end in sorted(ends, key=abs))
    value = points(difference["value"]) if verdict == "unclear" else points(abs(difference["value"])).lstrip("+")
    sentences = [say(f"gain.{verdict}", name=names[best], difference=value, low=low, high=high)]
    sentences.append(
        say(
            "gain.rows",
            n=f"{report.details['n_rows']:,}",
            mine=f"{found['only_one']:,}",
            others=f"{found['only_other']:,}",
        )
    )
    return sentences


def _remark(remark: Remark, words: Words, say: Any) -> Any:
    """Return a remark in words, its values written out."""
    key, values = remark
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            shown[name] = comma(words).join(value).replace(f"{comma(words)}…", " …")
        elif isinstance(value, float):
            shown[name] = f"{100 * value:.1f}" if name == "width" else percent(value)
        else:
            shown[name] = f"{value:,}" if isinstance(value, int) else value
    if key == "slice":
        shown["value"] = words.slice_value(values["by"], values["value"])
        shown["by"] = words.get(f"slices.{values['by']}", values["by"])
    return say(f"remark.{key}", **shown)


def label_rows(report: Report) -> list[dict[str, Any]]:
    """Return the labels with their scores, the lowest F1 first; each with its place in every other order.

    A label that does not occur in the test rows comes last: nothing is known of it.
    """
    rows: list[dict[str, Any]] = [
        {
            "label": label,
            "precision": scores["precision"],
            "recall": scores["recall"],
            "f1": scores["f1"],
            "support": scores["recall"].n,
        }
        for label, scores in report.per_label.items()
    ]
    orders: dict[str, Callable[[dict[str, Any]], Any]] = {
        "f1": lambda row: (not row["support"], row["f1"].value, row["label"]),
        "precision": lambda row: (not row["precision"].n, row["precision"].value, row["label"]),
        "recall": lambda row: (not row["support"], row["recall"].value, row["label"]),
        "support": lambda row: (-row["support"], row["label"]),
        "name": lambda row: _natural(row["label"]),
    }
    for name, key in orders.items():
        for place, row in enumerate(sorted(rows, key=key)):
            row[f"by_{name}"] = place
    return sorted(rows, key=lambda row: int(row["by_f1"]))


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Return a key that puts `label 9` before `label 10`."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]


def flatten(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return nested facts as (path, value) pairs, such as `train.epochs` and `3`; what is not set is left out.

    The project's settings, under `settings`, have the paths that they have in the project file.
    """
    pairs: list[tuple[str, str]] = []
    for name, inner in value.items():
        path = f"{before}{name}"
        if isinstance(inner, Mapping):
            pairs += flatten(inner, "" if path == "settings" else f"{path}.")
        elif isinstance(inner, bool):
            pairs.append((path, "true" if inner else "false"))
        elif isinstance(inner, float):
            pairs.append((path, f"{inner:.4g}"))
        elif isinstance(inner, list | tuple):
            pairs.append((path, ", ".join(map(str, inner))))
        elif inner is not None:
            pairs.append((path, f"{inner:,}" if isinstance(inner, int) and abs(inner) >= 10_000 else str(inner)))
    return [(path, shown) for path, shown in pairs if shown]


def breaks(text: str) -> Any:
    """Return a name, escaped, that a line may be broken in after `_`, `-`, `/`, `.` and `:`."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_\-/.:])(?=.)", printable(text)))


def pieces(
    text: str, spans: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, bool]]:
    """Return a text cut at its spans: (part, label, whether it is among the right ones); label "" between spans.

    A span that begins inside another is left out.
    """
    parts: list[tuple[str, str, bool]] = []
    position = 0
    for span in spans:
        if span["start"] < position:
            continue
        parts += [
            (text[position : span["start"]], "", True),
            (text[span["start"] : span["end"]], span["label"], span in right),
        ]
        position = span["end"]
    return [part for part in [*parts, (text[position:], "", True)] if part[0]]
