"""Reading: every form of file gives the same rows, and every problem is told with its place."""

from __future__ import annotations

import csv
import datetime
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luban.data.raw import Named
from luban.data.read import mended, read, stream
from luban.errors import DataError
from luban.records import Dataset

COLUMNS = Named("text", "label")
TOKENS = Named("tokens", "tags")
ROWS = [
    {"text": "Where is my card?", "label": "card", "id": 1},
    {"text": "我的卡，还没到", "label": "card", "id": 2},
    {"text": 'He said "no"\nand left, fast', "label": "other", "id": 3},
]


def as_table(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def as_lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def as_workbook(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(list(row.values()))
    book.save(path)


WRITERS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    "rows.csv": as_table,
    "semicolons.csv": lambda path, rows: as_table(path, rows, ";"),
    "rows.tsv": lambda path, rows: as_table(path, rows, "\t"),
    "rows.jsonl": as_lines,
    "lines.json": as_lines,
    "list.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1), "utf-8") and None,
    "inside.json": lambda path, rows: path.write_text(json.dumps({"version": 1, "data": rows}), "utf-8") and None,
    "columns.json": lambda path, rows: (
        path.write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]}), "utf-8") and None
    ),
    "rows.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(list(rows)), path),
    "rows.xlsx": as_workbook,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    rows = read(path, COLUMNS, "classify")
    assert rows.table.column("text").to_pylist() == [row["text"] for row in ROWS]
    assert rows.table.column("labels").to_pylist() == [["card"], ["card"], ["other"]]
    assert [str(value) for value in rows.table.column("meta.id").to_pylist()] == ["1", "2", "3"]
    assert rows.source == str(path) and len(rows.digest) == 64


def test_rows_are_counted_as_an_editor_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",a\n\nx,b\n', "utf-8")
    assert read(path, COLUMNS, "classify").table.column("row").to_pylist() == [2, 5]
    as_workbook(tmp_path / "rows.xlsx", ROWS)
    assert read(tmp_path / "rows.xlsx", COLUMNS, "classify").table.column("row").to_pylist() == [2, 3, 4]


def test_the_contents_decide_not_the_name(tmp_path: Path) -> None:
    as_workbook(tmp_path / "book.xlsx", ROWS)
    (tmp_path / "book.xlsx").rename(tmp_path / "book.csv")
    assert len(read(tmp_path / "book.csv", COLUMNS, "classify")) == 3


def test_cells_of_a_workbook(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    rows: list[tuple[Any, Any]] = [(3.5, 1), ("a", 2.0), (datetime.datetime(2024, 5, 31), True), (None, "x")]
    as_workbook(path, [{"text": text, "label": label} for text, label in rows])
    found = read(path, COLUMNS, "classify").table
    assert found.column("text").to_pylist() == ["3.5", "a", "2024-05-31", ""]
    assert found.column("labels").to_pylist() == [["1"], ["2"], ["true"], ["x"]]
    as_workbook(path, [{"text": "a", "label": "x"}, {"text": "b", "label": "#N/A"}])
    error = problems(path)
    assert error.problems[0].line == 3 and "no label" in error.problems[0].got


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for label, texts in {"neg": ["bad"], "pos": ["good", "很好"]}.items():
        (tmp_path / label).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / label / f"{number}.txt").write_bytes(text.encode("utf-8" if number == 0 else "utf-16"))
    rows = read(tmp_path, COLUMNS, "classify").table
    assert rows.column("text").to_pylist() == ["bad", "good", "很好"]
    assert rows.column("labels").to_pylist() == [["neg"], ["pos"], ["pos"]]
    assert rows.column("meta.file").to_pylist() == ["neg/0.txt", "pos/0.txt", "pos/1.txt"]


def test_a_file_that_does_not_belong_in_a_folder_of_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "pos").mkdir()
    (tmp_path / "pos" / "a.txt").write_text("good")
    (tmp_path / "pos" / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "pos" / "b.txt").write_bytes("很好的".encode()[:-1])
    with pytest.raises(DataError) as caught:
        read(tmp_path, COLUMNS, "classify")
    assert "pos/a.png" in str(caught.value) and "pos/b.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (1, ["1"]), (1.0, ["1"]), (True, ["true"]), (0.5, ["0.5"]), (" a ", ["a"]), (["a", "b", "a"], ["a", "b"]),
        ([], []), ({"choices": ["x", "y"]}, ["x", "y"]),
    ],
)  # fmt: skip
def test_labels_of_any_kind_are_names(tmp_path: Path, value: Any, labels: list[str]) -> None:
    as_lines(tmp_path / "rows.jsonl", [{"text": "x", "label": value}])
    assert read(tmp_path / "rows.jsonl", COLUMNS, "classify").table.column("labels").to_pylist() == [labels]


def test_several_labels_in_one_string(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\nx,a|b | a\ny,\nz,"[""c"", ""d""]"\n', "utf-8")
    rows = read(path, Named("text", "label", "|"), "classify")
    assert rows.table.column("labels").to_pylist()[:2] == [["a", "b"], []]
    path.write_text('text,label\nz,"[""c"", ""d""]"\nw,e\n', "utf-8")
    assert read(path, COLUMNS, "classify").table.column("labels").to_pylist() == [["c", "d"], ["e"]]


def test_class_names_that_the_datasets_library_notes(tmp_path: Path) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    table = pa.table({"text": ["a", "b"], "label": [1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", COLUMNS, "classify").table.column("labels").to_pylist() == [["pos"], ["neg"]]


def test_parquet_keeps_the_kinds_of_other_columns(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 5, 31, 18)
    pq.write_table(pa.table({"text": ["a"], "label": ["x"], "when": [when]}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", COLUMNS, "classify").table.column("meta.when").to_pylist() == [when]


def test_a_table_without_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('1\tgood\n0\t"bad\n', "utf-8")
    rows = read(path, Named("#2", "#1"), "classify").table
    assert rows.column("text").to_pylist() == ["good", '"bad']
    assert rows.column("labels").to_pylist() == [["1"], ["0"]]


@pytest.mark.parametrize("mark", [" ", "\t"])
@pytest.mark.parametrize("middle", [[], ["NN", "_"]])
@pytest.mark.parametrize("name", ["rows.conll", "rows.txt", "rows.bmes", "rows"])
def test_columns_of_tags(tmp_path: Path, name: str, middle: list[str], mark: str) -> None:
    lines = ["-DOCSTART- -X- O", "", "# a remark"]
    for sentence in (["张:B-NAME", "三:E-NAME", "在:O", "京:S-LOC"], [], ["Bob:S-NAME", "ran:O"]):
        lines += [mark.join([pair.split(":")[0], *middle, pair.split(":")[1]]) for pair in sentence] + [""]
    path = tmp_path / name
    path.write_text("\r\n".join(lines), "utf-8")
    rows = read(path, COLUMNS, "tag").table
    assert rows.column("tokens").to_pylist() == [["张", "三", "在", "京"], ["Bob", "ran"]]
    assert rows.column("tags").to_pylist() == [["B-NAME", "I-NAME", "O", "B-LOC"], ["B-NAME", "O"]]
    assert rows.column("text").to_pylist() == ["张三在京", "Bob ran"]
    assert rows.column("row").to_pylist() == [4, 10]


TAGS = ["B-company", *["I-company"] * 3, "O", "B-name", "I-name", "I-name"]
LABELS = [{"start": 0, "end": 4, "text": "浙商银行", "labels": ["company"]},
          {"start": 5, "end": 8, "text": "叶老桂", "labels": ["name"]}]  # fmt: skip
SPANS = {
    "cluener": {"text": "浙商银行的叶老桂", "label": {"company": {"浙商银行": [[0, 3]]}, "name": {"叶老桂": [[5, 7]]}}},
    "doccano": {"text": "浙商银行的叶老桂", "label": [[0, 4, "company"], [5, 8, "name"]]},
    "doccano with entities": {
        "text": "浙商银行的叶老桂",
        "label": [{"id": 1, "start_offset": 0, "end_offset": 4, "label": "company"},
                  {"id": 2, "start_offset": 5, "end_offset": 8, "label": "name"}],
    },
    "label studio": {
        "id": 1, "data": {"text": "浙商银行的叶老桂"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {"result": [{"from_name": "label", "type": "labels", "value": value} for value in LABELS]},
        ],
    },
    "label studio, short": {"text": "浙商银行的叶老桂", "label": LABELS},
    "tokens": {"text": list("浙商银行的叶老桂"), "label": TAGS},
    "characters": {"text": "浙商银行的叶老桂", "label": TAGS},
    "strings": {"text": "浙 商 银 行 的 叶 老 桂", "label": " ".join(TAGS)},
}  # fmt: skip


@pytest.mark.parametrize("form", SPANS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_every_form_of_annotation(tmp_path: Path, form: str, name: str) -> None:
    path = tmp_path / name
    if name == "rows.jsonl":
        as_lines(path, [SPANS[form]])
    else:
        path.write_text(json.dumps([SPANS[form]]), "utf-8")
    rows = read(path, COLUMNS, "tag").table
    assert rows.column("tokens").to_pylist() == [list("浙商银行的叶老桂")]
    assert rows.column("tags").to_pylist() == [TAGS]


def test_annotations_in_the_cells_of_a_table(tmp_path: Path) -> None:
    as_table(tmp_path / "rows.csv", [{"text": "Bob ran", "label": '[[0, 3, "P"]]'}])
    rows = read(tmp_path / "rows.csv", COLUMNS, "tag").table
    assert rows.column("tags").to_pylist() == [["B-P", "O"]]


def test_choices_of_label_studio(tmp_path: Path) -> None:
    result = [{"from_name": "mood", "type": "choices", "value": {"choices": ["good", "loud"]}}]
    task = {"data": {"text": "x", "who": 3}, "annotations": [{"result": result}]}
    (tmp_path / "rows.json").write_text(json.dumps([task]))
    for label in ("mood", "annotations", "label"):
        rows = read(tmp_path / "rows.json", Named("text", label), "classify").table
        assert rows.column("labels").to_pylist() == [["good", "loud"]]
        assert rows.column("meta.who").to_pylist() == ["3"]


def test_tags_that_are_mended_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["I-P", "O"]}, {"tokens": ["a"], "tags": ["B-P"]}]
    as_lines(tmp_path / "rows.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        dataset = read(tmp_path / "rows.jsonl", TOKENS, "tag")
    assert dataset.table.column("tags").to_pylist()[0] == ["B-P", "O"]
    [(kind, facts)] = mended(dataset).items()
    assert facts == {"count": 1, "rows": [1]} and kind in caplog.text


def problems(path: Path, task: str = "classify", columns: Named = COLUMNS) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path, columns, task)
    return caught.value


def test_every_malformed_row_of_a_csv_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",a\nfoo,bar,baz\nlonely\nd,\n"broken "quote",e\nfine,f\n', "utf-8")
    error = problems(path)
    assert [problem.line for problem in error.problems] == [4, 5, 6, 7]
    assert "3 fields" in error.problems[0].got and "no label" in error.problems[2].got
    assert str(path) in str(error)


def test_every_malformed_line_of_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "a", "label": 1}\n{"text": "a", "label":}\n\n[1]\n{"text": "\\ud83d", "label": "b"}\n'
        '{"text": {"a": 1}, "label": null}\n{"label": "x"}\n',
        "utf-8",
    )
    error = problems(path)
    assert [problem.line for problem in error.problems] == [2, 4, 5, 6, 6]
    assert "surrogate" in error.problems[2].got


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_one_broken_line_alone_is_line_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": \n', "utf-8")
    assert [problem.line for problem in problems(tmp_path / name).problems] == [1]


def test_no_more_than_twenty_problems_are_told_and_all_are_counted(tmp_path: Path) -> None:
    as_lines(tmp_path / "rows.jsonl", [{"text": "a", "label": None}] * 100)
    error = problems(tmp_path / "rows.jsonl")
    assert len(error.problems) == 20 and error.total == 100
    assert "100 problems" in str(error) and "80 more" in str(error)


def test_a_broken_list_of_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"text": "a", "label": 1},\n{"text": "b" "label": 2},\n{"text": "c"}]')
    assert "line 2" in str(problems(tmp_path / "rows.json"))
    (tmp_path / "rows.json").write_text('[{"text": "a", "label": 1},\n{"text": "b"')
    assert "line 2" in str(problems(tmp_path / "rows.json"))


def test_columns_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    as_table(tmp_path / "rows.csv", ROWS)
    error = problems(tmp_path / "rows.csv", columns=Named("txt", "lable"))
    assert len(error.problems) == 2
    assert "did you mean 'text'" in str(error) and "did you mean 'label'" in str(error)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.csv", b"", "an empty file"),
        ("rows.csv", b"text,label\n", "no rows"),
        ("rows.csv", b"text,text\na,b\n", "columns of the same name"),
        ("rows.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        ("rows.csv.gz", b"\x1f\x8b\x08\x00", "packed"),
        ("rows.parquet", b"text,label\n", "no parquet"),
        ("rows.xlsx", b"PK\x03\x04junk", "can't be read"),
        ("rows.txt", b"one text\nanother\n", "plain lines"),
        ("rows.json", b'{"a": 1, "b": [2]}', "no column"),
        ("rows.json", b'{"a": {"b": 1}, "c": 2,', "line 1"),
        ("rows.json", b'{\n"a": 1,\n"b": [2]}', "an object with a, b"),
    ],
)
def test_what_is_no_table_of_labelled_rows(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    error = problems(tmp_path / name)
    assert message in str(error) and name in str(error)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("x")
    assert "did you mean 'reviews.csv'" in str(problems(tmp_path / "review.csv"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "1 tags for 2 tokens"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "token 2"),
        ({"tokens": ["a"], "tags": [3]}, "tag 1: 3"),
        ({"tokens": ["a"], "tags": None}, "no tags"),
        ({"tokens": "ab cd", "tags": [[0, 9, "P"]]}, "from 0 to 9"),
        ({"tokens": "ab", "tags": {"P": {"xy": [[0, 1]]}}}, "'ab'"),
    ],
)
def test_rows_of_tags_that_do_not_fit(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    as_lines(tmp_path / "rows.jsonl", [row])
    error = problems(tmp_path / "rows.jsonl", "tag", TOKENS)
    assert error.problems[0].line == 1 and message in error.problems[0].got


def test_texts_alone(tmp_path: Path) -> None:
    as_table(tmp_path / "rows.csv", [{"id": 1, "text": "a"}, {"id": 2, "text": ""}])
    rows = read(tmp_path / "rows.csv", COLUMNS, "classify", labelled=False).table
    assert rows.column_names == ["row", "text", "meta.id"] and rows.column("text").to_pylist() == ["a", ""]
    (tmp_path / "rows.txt").write_text("one\n\nthree, with a comma\n")
    rows = read(tmp_path / "rows.txt", COLUMNS, "classify", labelled=False).table
    assert rows.column("text").to_pylist() == ["one", "", "three, with a comma"]
    (tmp_path / "one.csv").write_text("text\nhello, you\n")
    assert read(tmp_path / "one.csv", COLUMNS, "classify", labelled=False).table["text"].to_pylist() == ["hello, you"]
    as_lines(tmp_path / "rows.jsonl", [{"tokens": ["Bob", "ran"]}, {"tokens": "Bob ran"}])
    rows = read(tmp_path / "rows.jsonl", TOKENS, "tag", labelled=False).table
    assert rows.column("tokens").to_pylist() == [["Bob", "ran"], None]
    assert rows.column("text").to_pylist() == ["Bob ran", "Bob ran"]


@pytest.mark.parametrize(("task", "right"), [("classify", "good"), ("tag", [])])
def test_labelled_rows_that_a_model_answers_have_texts(tmp_path: Path, task: str, right: Any) -> None:
    as_lines(tmp_path / "rows.jsonl", [{"text": "a", "label": right}, {"text": None, "label": right}, {"label": right}])
    assert read(tmp_path / "rows.jsonl", COLUMNS, task).table["text"].to_pylist() == ["a", "", ""]
    with pytest.raises(DataError) as caught:
        read(tmp_path / "rows.jsonl", COLUMNS, task, answered=True)
    assert [problem.got for problem in caught.value.problems] == ["no text: null, or no such key"] * 2


def test_a_stream_holds_a_batch_and_stops_at_the_first_problem(tmp_path: Path) -> None:
    as_lines(tmp_path / "rows.jsonl", [{"text": str(number), "label": "x"} for number in range(10)])
    batches = list(stream(tmp_path / "rows.jsonl", COLUMNS, "classify", 4))
    assert [batch.num_rows for batch in batches] == [4, 4, 2]
    assert pa.Table.from_batches(batches).column("row").to_pylist() == list(range(1, 11))
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{broken\n" * 3)
    seen = []
    with pytest.raises(DataError) as caught:
        seen += list(stream(tmp_path / "rows.jsonl", COLUMNS, "classify", 4))
    assert caught.value.total == 3 and seen == []


def test_rows_with_unlike_keys(tmp_path: Path) -> None:
    unlike = [{"text": "a", "label": "x", "p": 1}, {"label": "y", "text": "b", "q": [1, {"z": 2}]}]
    as_lines(tmp_path / "rows.jsonl", unlike)
    rows = read(tmp_path / "rows.jsonl", COLUMNS, "classify").table
    assert rows.column("meta.p").to_pylist() == ["1", None]
    assert rows.column("meta.q").to_pylist() == [None, '[1, {"z": 2}]']


def test_real_sets(data_sets: Path) -> None:
    wanted = {"banking77/train": (10003, 77), "cic_zh/train": (10000, 118), "clinc150/train": (15100, 151)}
    for name, (n_rows, n_labels) in wanted.items():
        rows = read(data_sets / f"{name}.jsonl", COLUMNS, "classify")
        found = {label for labels in rows.table["labels"].to_pylist() for label in labels}
        assert (len(rows), len(found)) == (n_rows, n_labels)


def test_real_tags(data_sets: Path) -> None:
    for name, n_rows, kinds in (("wnut17", 3394, 6), ("cluener", 10748, 10), ("resume_ner", 3821, 8)):
        rows = read(data_sets / name / "train.jsonl", TOKENS, "tag")
        found = {tag[2:] for tags in rows.table["tags"].to_pylist() for tag in tags if tag != "O"}
        assert (len(rows), len(found)) == (n_rows, kinds)


def test_sixty_thousand_reviews_in_four_encodings(data_sets: Path, tmp_path: Path) -> None:
    first: Dataset | None = None
    with (data_sets / "online_shopping_10_cats" / "all.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gb18030"):
        path = tmp_path / "reviews.csv"
        with path.open("w", encoding=encoding, newline="") as out:
            writer = csv.DictWriter(out, ["label", "cat", "text"])
            writer.writeheader()
            writer.writerows(rows)
        found = read(path, COLUMNS, "classify")
        assert found.table.column("text").to_pylist() == [row["text"] for row in rows]
        first = first or found
        assert found.digest == first.digest
