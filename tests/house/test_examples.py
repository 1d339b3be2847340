"""The examples' data scripts, on small texts in the form of the packages that they read."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from house.source import ROOT

from luban.data.read import read
from luban.project.load import load

EXAMPLES = ("reviews-en", "reviews-zh", "entities-zh")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), ROOT / "examples" / name / "data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return path


def test_english_reviews_are_read_out_of_the_archive_in_the_archive(tmp_path: Path) -> None:
    data = script("reviews-en")
    lines = {source: f"1_1\t2.5\tGood {source}.\n1_2\t-0.4\tIt is blue.\n2_1\t-1.5\tBroken." for source in data.MEMBERS}
    inner = archive(tmp_path / "inner", {data.MEMBERS[source]: text.encode() for source, text in lines.items()})
    outer = archive(tmp_path / "outer", {data.INNER: inner.read_bytes()})
    rows = [row for source, text in data.read(outer) for row in data.parse(source, text)]
    assert [(row.text, row.label, row.group) for row in rows if row.source == "movies"] == [
        ("Good movies.", "positive", "movies-1"),
        ("Broken.", "negative", "movies-2"),
    ]


def test_english_reviews_stay_on_one_side_and_doubles_go() -> None:
    data = script("reviews-en")
    rows = [data.Row(f"text {n}", "positive", "amazon", f"amazon-{n // 5}") for n in range(100)]
    test, train = data.divide(rows, 22, 50)
    assert (len(test), len(train)) == (22, 50)
    assert not {row.group for row in test} & {row.group for row in train}
    assert data.divide(rows[::-1], 22, 50) == (test, train)
    doubled = [*rows[:3], data.Row("Text 0!", "positive", "movies", "x"), data.Row("TEXT 1", "negative", "movies", "y")]
    assert [row.text for row in data.without_doubles(doubled)] == ["text 0", "text 2"]


def test_chinese_reviews(tmp_path: Path) -> None:
    data = script("reviews-zh")
    packed = archive(tmp_path / "sdist", {
        data.MEMBERS["正面"]: "很好。\n\n东西  不错\n都行".encode(),
        data.MEMBERS["负面"]: "很差\n很好！\n很差。".encode(),
    })  # fmt: skip
    rows = [row for label, text in data.read(packed) for row in data.parse(label, text)]
    assert [row.text for row in data.without_doubles(rows)] == ["东西 不错", "都行", "很差"]
    many = [data.Row(f"{'开头一样的评论有十二个字'}{n}", "正面") for n in range(30)]
    others = [data.Row(f"第{n}条评论", "负面") for n in range(60)]
    test, train = data.divide([*many, *others], 20, 40)
    assert not {data.letters(row.text)[: data.OPENING] for row in test} & {
        data.letters(row.text)[: data.OPENING] for row in train
    }


def test_chinese_entities() -> None:
    data = script("entities-zh")
    line = "江/nr  泽民/nr  在/p  北京/ns  会见/v  克林顿/nr  。/w  新华社/nt  记者/n  兰/nr  红光/nr  摄/Vg"
    first, second = data.parse(line)
    assert first.text == "江泽民在北京会见克林顿。"
    assert [(first.text[start:end], label) for start, end, label in first.entities] == [
        ("江泽民", "PER"), ("北京", "LOC"), ("克林顿", "PER"),
    ]  # fmt: skip
    assert [(second.text[start:end], label) for start, end, label in second.entities] == [
        ("新华社", "ORG"), ("兰红光", "PER"),
    ]  # fmt: skip
    rows = [data.Row(f"第{n}句话在这里。", []) for n in range(100)]
    test, train = data.divide(rows, 10, 40)
    assert (len(test), len(train)) == (10, 40)
    assert rows.index(train[-1]) < 80 <= rows.index(test[0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_what_the_project_reads(name: str, tmp_path: Path) -> None:
    data = script(name)
    loaded = load(ROOT / "examples" / name / "luban.yaml")
    section = loaded.project.data
    path = tmp_path / Path(section.train).name
    if name == "entities-zh":
        rows = list(data.parse("王/nr  小明/nr  在/p  上海/ns  。/w"))
    elif name == "reviews-zh":
        rows = [data.Row("好，“很好”", "正面"), data.Row("差", "负面")]
    else:
        rows = [data.Row('Good, "very good"', "positive", "amazon", "1"), data.Row("Bad", "negative", "movies", "2")]
    data.write(path, rows)
    table = read(path, section, loaded.project.task.kind).table
    assert table["text"].to_pylist() == [row.text for row in rows]
    if name == "entities-zh":
        assert table["tags"].to_pylist() == [["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]]
    else:
        assert table["labels"].to_pylist() == [[row.label] for row in rows]
    assert all(f"meta.{column}" in table.column_names for column in loaded.project.evaluate.slices)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_setting_of_an_example_is_explicit_and_explained(name: str) -> None:
    text = (ROOT / "examples" / name / "luban.yaml").read_text("utf-8")
    settings = [line for line in text.splitlines() if ":" in line and not line.startswith("#")]
    bare = [line for line in settings if not line.rstrip().endswith(":") and "# " not in line]
    assert not bare
    written = {line.split(":")[0].strip() for line in settings}
    assert {"epochs", "learning_rate", "choose_by", "calibrate", "runtime", "gates", "seed"} <= written


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_archive_is_pinned_and_never_unpacked(name: str) -> None:
    source = (ROOT / "examples" / name / "data.py").read_text("utf-8")
    assert len(script(name).SHA256) == 64 and "--require-hashes" in source
    assert "extractall" not in source and ".extract(" not in source


def test_written_files_are_plain(tmp_path: Path) -> None:
    script("reviews-en").write(tmp_path / "a.csv", [])
    script("entities-zh").write(tmp_path / "b.jsonl", [script("entities-zh").Row("一", [(0, 1, "LOC")])])
    assert next(csv.reader((tmp_path / "a.csv").read_text("utf-8").splitlines())) == ["text", "label", "source"]
    assert json.loads((tmp_path / "b.jsonl").read_text("utf-8")) == {"text": "一", "entities": [[0, 1, "LOC"]]}
