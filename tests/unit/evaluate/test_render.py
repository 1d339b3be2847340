"""The rendered report: stands alone, says the same in two languages, and lets no text out of its place."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.evaluate import render, words
from luban.evaluate.plots import ticks
from luban.evaluate.remarks import remarks
from luban.evaluate.score import report
from luban.project.schema import EvaluateSection
from luban.records import LabelScores, Prediction, Report, Span

from .conftest import LABELS, classify_table

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg/onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "a|b `c` *d* [e](http://f) <g>",
    "\x00\x1b[31m\u2028\u202e\ufffe",
    "&amp;lt;b&gt;",
    "'\\\"--><!--",
)


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text, and whether tags are balanced."""

    VOID = frozenset({"meta", "br", "wbr", "input", "link", "img", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def made(rows: dict[str, Any], **more: Any) -> Report:
    """Return the report of some rows."""
    facts = {
        "name": "test",
        "digests": {"data": "ab" * 32, "project": "cd" * 32},
        "settings": EvaluateSection(),
        "calibration": {"temperature": 1.25},
        "costs": {"train_s": 312.0, "memory_mb": 900.0, "rows_per_s": 812.5},
        "lock": {"train": {"epochs": 3.0, "objectives": []}},
    }
    return report(**{**facts, **rows, **more})


def hostile(task: str) -> Report:
    """Return a report in which every text that a user can set is an attack."""
    texts = [HOSTILE[number % len(HOSTILE)] for number in range(80)]
    if task == "tag":
        labels = HOSTILE[:3]
        gold = [(Span(0, min(3, len(text)), labels[number % 3]),) for number, text in enumerate(texts)]
        predictions = [
            Prediction(spans=(Span(0, min(4, len(text)), labels[number % 2], score=0.7),))
            for number, text in enumerate(texts)
        ]
        table = classify_table([()] * 80, texts).append_column("tokens", [[[text] for text in texts]])
    else:
        labels = HOSTILE
        gold = [(labels[number % 8],) for number in range(80)]
        shares = np.eye(8)[[(number * 3) % 8 for number in range(80)]] * 0.9 + 0.0125
        predictions = [Prediction((labels[int(row.argmax())],), LabelScores(labels, row)) for row in shares]
        table = classify_table(gold, texts, **{HOSTILE[0]: [HOSTILE[1], HOSTILE[2]] * 40})
    return report(
        name=HOSTILE[0],
        task=task,
        labels=labels,
        gold=gold,
        predictions=predictions,
        table=table,
        baselines={HOSTILE[1]: predictions[1:] + predictions[:1]},
        digests={HOSTILE[2]: HOSTILE[0]},
        settings=EvaluateSection(),
        calibration={HOSTILE[0]: HOSTILE[1], "thresholds": dict.fromkeys(labels, 0.5)},
        costs={HOSTILE[0]: 1.0},
        lock={HOSTILE[0]: {HOSTILE[1]: [HOSTILE[2]]}},
    )


@pytest.mark.parametrize("language", words.LANGUAGES)
@pytest.mark.parametrize("task", ["classify", "tag"])
def test_no_text_becomes_markup(task: str, language: str) -> None:
    page = Page(render.to_html(hostile(task), language))
    assert not page.open, "every element is closed"
    assert not {"script", "img", "iframe", "object", "link", "base", "form", "a"} & {tag for tag, _ in page.elements}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("href", "src", "srcset", "action")}
    shown = "".join(page.text)
    assert "<script>alert(1)</script>" in shown, "the text is still readable as what it was"
    assert "{{ 7 * 7 }}" in shown
    assert not re.search("[\x00-\x08\x1b\u2028]", shown)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_no_text_breaks_markdown(task: str) -> None:
    page = render.to_markdown(hostile(task))
    assert "<script" not in page
    assert "<img" not in page
    assert not re.search(r"(?<!\\)\]\(http", page)
    header = None
    for line in page.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        if not line.startswith("|"):
            header = None
            continue
        header = header or cells
        assert cells == header, line


def test_the_page_needs_nothing_from_elsewhere(rows: dict[str, Any]) -> None:
    page = render.to_html(made(rows))
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|url\(|@import|<script", page)


def test_headline_interval_baselines_and_sections_are_shown(rows: dict[str, Any]) -> None:
    found = made(rows)
    shown = " ".join("".join(Page(render.to_html(found)).text).split())
    score = found.scores["accuracy"]
    assert f"{100 * score.value:.1f}" in shown
    assert f"{100 * score.low:.1f}% to {100 * score.high:.1f}%" in shown
    for part in (
        "Commonest answer",
        "What fine-tuning bought",
        "Can the probabilities be trusted?",
        "Label by label",
        "What is taken for what",
        "Where it is better or worse",
        "The surest mistakes",
        "Data and settings",
        "train.epochs",
        "5.2 min",
        "ab" * 32,
        found.details["errors"][0]["text"],
    ):
        assert part in shown
    assert "Clearly worse where channel is phone" in shown


def test_both_languages_say_the_same_numbers(rows: dict[str, Any], entity_rows: dict[str, Any]) -> None:
    for found in (made(rows), made(entity_rows), made(rows, multi_label=True)):
        numbers = [re.findall(r"\d+\.\d+%", render.to_html(found, language)) for language in words.LANGUAGES]
        assert numbers[0] == numbers[1]
        chinese = render.to_html(found, "zh")
        assert '<html lang="zh-CN">' in chinese
        # English words of Luban's own that are left over on a Chinese page.
        left = set(re.findall(r">([a-z]+ [a-z]+[a-z ]*)<", chinese))
        assert not left, left


def test_every_word_has_both_languages_and_the_same_blanks() -> None:
    for key, texts in words._TABLE.items():
        assert all(texts), key
        blanks = [set(re.findall(r"{(\w+)}", text)) for text in texts]
        assert blanks[0] == blanks[1], key


def test_the_same_report_gives_the_same_bytes_and_comes_back_from_json(rows: dict[str, Any], tmp_path: Path) -> None:
    render.write(made(rows), tmp_path / "one")
    render.write(made(rows), tmp_path / "two")
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    value = json.loads((tmp_path / "one" / "report.json").read_text("utf-8"))
    assert set(value["scores"]["accuracy"]) == {"value", "low", "high", "n"}
    assert set(value["baselines"]["majority"]["accuracy"]) == {"value", "low", "high", "n"}
    assert value["digests"]["data"] == "ab" * 32
    assert f"- data: {'ab' * 32}" in (tmp_path / "one" / "report.md").read_text("utf-8")
    again = render.from_json(value)
    assert render.to_html(again) == (tmp_path / "one" / "report.html").read_text("utf-8")


def test_labels_stand_worst_first_and_know_their_other_orders(rows: dict[str, Any]) -> None:
    found = render.label_rows(made(rows))
    assert [row["f1"].value for row in found] == sorted(row["f1"].value for row in found)
    for order in ("f1", "precision", "recall", "support", "name"):
        assert sorted(row[f"by_{order}"] for row in found) == list(range(len(found)))


def test_thresholds_stand_beside_their_labels(rows: dict[str, Any]) -> None:
    page = render.to_html(made(rows, multi_label=True, calibration={"thresholds": {"card": 0.317}}))
    assert "0.317" in page


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_reports_on_little_can_be_rendered(rows: dict[str, Any], entity_rows: dict[str, Any], language: str) -> None:
    few = {"gold": [], "predictions": [], "baselines": {}}
    bare = [Prediction(answer.labels) for answer in rows["predictions"]]
    for found in (
        made(rows, **few, table=rows["table"].slice(0, 0)),
        made(entity_rows, **few, table=entity_rows["table"].slice(0, 0)),
        made(rows, baselines={}, calibration=None, costs=None, lock=None),
        made(rows, predictions=bare),
        made(rows, predictions=[Prediction((label,)) for (label,) in rows["gold"]]),
    ):
        assert not Page(render.to_html(found, language)).open
        assert render.to_markdown(found, language)


def test_a_baseline_that_is_better_is_not_hidden(rows: dict[str, Any]) -> None:
    perfect = [Prediction((label,)) for (label,) in rows["gold"]]
    found = made(rows, baselines={"tfidf": perfect})
    assert "is better than this model by" in render.to_html(found)
    same = made(rows, baselines={"tfidf": rows["predictions"]})
    assert "told apart" in render.to_html(same)


def test_remarks_name_what_a_reader_should_not_overlook(rows: dict[str, Any]) -> None:
    keys = [key for key, _ in remarks(made(rows))]
    assert "slice" in keys
    gold = [("never learnt",) if number == 0 else labels for number, labels in enumerate(rows["gold"])]
    found = dict(remarks(made(rows, gold=gold)))
    assert found["unseen"]["labels"] == ["never learnt"]
    sure = [
        Prediction(answer.labels, LabelScores(LABELS, np.array([float(label == answer.label) for label in LABELS])))
        for answer in rows["predictions"]
    ]
    assert "overconfident" in dict(remarks(made(rows, predictions=sure)))


def test_other_languages_are_refused(rows: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="known are en, zh"):
        render.to_html(made(rows), "fr")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.9, 0.95), (0.001, 0.002), (0.5, 0.5)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert all(low - 1e-9 <= mark <= high + 1e-9 for mark in found)
    assert len(found) <= 9


def test_settings_are_flattened_to_what_is_set() -> None:
    nested = {
        "base": {"name": "m", "licence": None},
        "rows": {"train": 12000},
        "settings": {
            "train": {"epochs": 3.0, "learning_rate": 2e-5, "objectives": [], "adapter": {"kind": "full"}},
            "task": {"multi_label": False},
            "gates": {},
        },
    }
    assert render.flatten(nested) == [
        ("base.name", "m"),
        ("rows.train", "12,000"),
        ("train.epochs", "3"),
        ("train.learning_rate", "2e-05"),
        ("train.adapter.kind", "full"),
        ("task.multi_label", "false"),
    ]


def test_spans_cut_a_text_without_losing_any_of_it() -> None:
    spans = [{"start": 1, "end": 3, "label": "a"}, {"start": 2, "end": 4, "label": "b"}]
    parts = render.pieces("0123456", spans, spans[:1])
    assert "".join(part for part, _, _ in parts) == "0123456"
    assert parts == [("0", "", True), ("12", "a", True), ("3456", "", True)]
