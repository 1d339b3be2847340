"""Looking at files that nobody described: columns, task and labels are found, or what to pass is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from luban.data.inspect import look
from luban.errors import DataError


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def table(path: Path, rows: list[list[Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "task", "text", "label", "n_labels", "language"),
    [
        ("banking77/train", "classify", "text", "label", 77, "en"),
        ("cic_zh/train", "classify", "text", "label", 118, "zh"),
        ("waimai_10k/all", "classify", "text", "label", 2, "zh"),
        ("snips_slu/dev", "classify", "text", "label", 7, "en"),
        ("wnut17/train", "tag", "tokens", "tags", 6, "en"),
        ("resume_ner/train", "tag", "tokens", "tags", 8, "zh"),
    ],
)
def test_real_sets(data_sets: Path, name: str, task: str, text: str, label: str, n_labels: int, language: str) -> None:
    seen = look(data_sets / f"{name}.jsonl")
    assert (seen.task, seen.text, seen.label, len(seen.labels)) == (task, text, label, n_labels)
    assert seen.languages[language] > 0.97 and seen.format == "jsonl" and not seen.multi_label
    assert "named like" in seen.text_why and "named like" in seen.label_why
    assert sum(seen.labels.values()) >= seen.n_rows or task == "tag"


def test_a_table_in_chinese_with_a_date_and_a_number(tmp_path: Path) -> None:
    rows = [["编号", "日期", "评论内容", "情感"]]
    for n in range(60):
        taste, mood = ("很好", "正面") if n % 3 else ("不行", "负面")
        rows.append([str(n), f"2024-05-{1 + n % 28:02}", f"这家店的第{n}道菜味道{taste}", mood])
    seen = look(table(tmp_path / "a.csv", rows))
    assert (seen.text, seen.label, seen.labels) == ("评论内容", "情感", {"正面": 40, "负面": 20})
    assert {column.name: column.kind for column in seen.columns} == {
        "编号": "number", "日期": "time", "评论内容": "text", "情感": "category",
    }  # fmt: skip


def test_a_table_without_names(tmp_path: Path) -> None:
    rows = [["positive" if n % 2 else "negative", f"a text of some length, number {n}"] for n in range(40)]
    seen = look(table(tmp_path / "a.tsv", rows, "\t"))
    assert (seen.text, seen.label, seen.n_rows) == ("#2", "#1", 40)


def test_several_labels_in_one_string(tmp_path: Path) -> None:
    genres = ("drama", "drama|war", "drama|war|love")
    rows = [[f"film number {n} about love", genres[n % 3]] for n in range(60)]
    seen = look(table(tmp_path / "a.csv", [["title", "genre"], *rows]), label="genre")
    assert seen.multi_label and seen.separator == "|" and seen.labels == {"drama": 60, "war": 40, "love": 20}


def test_lists_of_labels(tmp_path: Path) -> None:
    rows = [{"text": f"some words {n}", "labels": ["a", "b"][: n % 3]} for n in range(30)]
    seen = look(lines(tmp_path / "a.jsonl", rows))
    assert seen.multi_label and seen.labels == {"a": 20, "b": 10}


@pytest.mark.parametrize(
    "value",
    [
        {"P": {"张三": [[0, 1]]}}, [[0, 2, "P"]], [{"start": 0, "end": 2, "label": "P"}],
    ],
)  # fmt: skip
def test_spans(tmp_path: Path, value: Any) -> None:
    seen = look(lines(tmp_path / "a.jsonl", [{"text": f"张三在第{n}号", "label": value} for n in range(30)]))
    assert (seen.task, seen.text, seen.labels) == ("tag", "text", {"P": 30})


def test_columns_of_tags(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("张 B-P\n三 E-P\n在 O\n\nBob S-P\n", "utf-8")
    seen = look(tmp_path / "a.txt")
    assert (seen.task, seen.format, seen.labels) == ("tag", "conll", {"P": 2})


@pytest.mark.parametrize(
    ("tokens", "share"),
    [(list("1966年生于北京PMI"), 1.0), (["1966", "年", "in", "北京"], 0.25), (["PMI", "1966"], 0.0)],
)
def test_how_tokens_were_cut(tmp_path: Path, tokens: list[str], share: float) -> None:
    row = {"tokens": tokens, "tags": ["B-X"] + ["O"] * (len(tokens) - 1)}
    seen = look(lines(tmp_path / "a.jsonl", [row] * 30), text="tokens", label="tags")
    assert seen.single_character_share == share


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_text("some text")
    assert look(tmp_path).labels == {"a": 1, "b": 1}


def test_shares_that_choose_cleaning(tmp_path: Path) -> None:
    texts = ["<b>this</b> is bold &amp; that is not", "ＡＢＣ１２３ 好的"]
    texts += ["臺灣的電腦軟體很好", "简体的文字，没有问题！"]
    rows = [{"text": text, "label": str(n % 2)} for text in texts for n in range(10)]
    seen = look(lines(tmp_path / "a.jsonl", rows))
    assert (seen.html_share, seen.full_width_share) == (0.25, 0.25)
    assert seen.traditional_share == pytest.approx(1 / 3, abs=0.01)
    assert seen.languages == {"en": 0.25, "zh": 0.75, "other": 0.0}


def test_what_cannot_be_told_apart_is_listed(tmp_path: Path) -> None:
    rows = [[f"some words {n}", "ab"[n % 2], "xyz"[n % 3]] for n in range(40)]
    path = table(tmp_path / "a.csv", [["words", "p", "q"], *rows])
    with pytest.raises(DataError) as caught:
        look(path)
    assert "p, q" in str(caught.value) and "--label p" in str(caught.value) and "words (text" in str(caught.value)
    assert look(path, label="q").labels == {"x": 14, "y": 13, "z": 13}


def test_what_holds_no_labels_is_told(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [["words"], *([f"some words {n}"] for n in range(40))])
    with pytest.raises(DataError, match="no column that looks like the label"):
        look(path)
    (tmp_path / "a.txt").write_text("one line\nanother\n")
    with pytest.raises(DataError, match="plain lines"):
        look(tmp_path / "a.txt")


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}])
    with pytest.raises(DataError) as caught:
        look(path, text="txt", label="lable")
    assert len(caught.value.problems) == 2 and "did you mean 'text'" in str(caught.value)


def test_malformed_rows_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nfine,a\ntoo,many,fields\nalso fine,b\nmissing,\n")
    with pytest.raises(DataError) as caught:
        look(path)
    assert [problem.line for problem in caught.value.problems] == [3, 5]


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}])
    with pytest.raises(DataError, match=r"got 'regress', wanted the name of one task\. known: classify, tag"):
        look(path, task="regress")
    with pytest.raises(DataError, match="did you mean 'classify'"):
        look(path, task="clasify")


@pytest.mark.parametrize("label", [None, "label"])
def test_tag_says_what_it_needs_of_a_file_of_labels(tmp_path: Path, label: str | None) -> None:
    path = table(tmp_path / "a.csv", [["text", "label"], *([f"some words {n}", "ab"[n % 2]] for n in range(40))])
    with pytest.raises(DataError, match="wanted for `tag` a column of tags, one for each token, or of spans") as caught:
        look(path, task="tag", label=label)
    assert len(caught.value.problems) == 1
    assert "leave --task out" in str(caught.value) and "label" in str(caught.value)


def test_a_task_that_the_form_of_a_file_rules_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Anna B-P\ncame O\n\n" * 9)
    with pytest.raises(DataError, match="a conll file, which holds rows for `tag`, wanted rows for `classify`"):
        look(tmp_path / "a.conll", task="classify")
