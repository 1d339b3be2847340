"""Odd texts and odd tables: nothing but Luban's own errors, each naming the file, and what is right comes back whole.

`LUBAN_FUZZ` says how many each test makes: 100 in the suite, 5,000 in the long run (see CONTRIBUTING.md).
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from luban.data import duplicates, units
from luban.data.clean import STEPS, Cleaner
from luban.data.inspect import look
from luban.data.languages import LANGUAGES, languages
from luban.data.personal import find_personal, mask
from luban.data.raw import Named
from luban.data.read import read, stream
from luban.data.split import split
from luban.data.write import digest, open_dataset, save
from luban.errors import DataError
from luban.project.schema import DataSection, SplitSection
from luban.records import Dataset

FUZZ = settings(
    max_examples=int(os.environ.get("LUBAN_FUZZ") or 100),
    deadline=None,
    derandomize="LUBAN_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx", ".conll", ".txt", ".data")

# Beside any character at all: those that files, markup and Chinese text are made of, which break parsers more often.
odd_texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text(
        st.sampled_from(
            "\"',;|\t\n\r\\{}[]<>&#:- \0\ufeff\u200b\u2028\x85\x1a\x1f我是台灣ＡＢ，。“”…😀👨‍👩‍👧éÃ©â€œ012"
        ),
        max_size=60,
    ),
    st.sampled_from(["", " ", "null", "NaN", "-DOCSTART-", "O", "B-", "=1", "#", "<!--", "<script>", "&amp;lt;"]),
)
any_texts = st.one_of(odd_texts, st.text(max_size=60))  # half an emoji among them
names = st.sampled_from(["text", "label", "tags", "tokens", "id", "", "标签", "text "])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(any_texts, inner, max_size=3)),
    max_leaves=6,
)
objects = st.dictionaries(st.one_of(names, any_texts), values, max_size=4)
span = st.one_of(
    st.tuples(st.integers(-3, 12), st.integers(-3, 12), st.sampled_from(["PER", "ORG", ""])).map(list),
    st.fixed_dictionaries({"start": st.integers(-3, 12), "end": st.integers(-3, 12), "label": st.just("PER")}),
    st.fixed_dictionaries({"value": st.dictionaries(st.sampled_from(["start", "end", "labels", "text"]), values)}),
    values,
)
places = st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3)
some_tags = st.sampled_from(["O", "B-X", "I-X", "S-Y", "M-X", "Q", ""])
some_labels = st.lists(st.sampled_from("abcdef"), max_size=3, unique=True)
labelled = st.fixed_dictionaries(
    {"text": st.one_of(any_texts, st.lists(any_texts, max_size=5), values),
     "label": st.one_of(values, st.lists(span, max_size=3), st.lists(st.sampled_from(["O", "B-PER", "E-PER", "x"])),
                        st.dictionaries(any_texts, st.dictionaries(any_texts, places)))}
)  # fmt: skip


@contextlib.contextmanager
def file_of(data: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(data)
        yield path


def as_csv(rows: list[list[str]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def survive(path: Path) -> None:
    """Read a file in every way; whatever goes wrong must be a DataError that names the file."""
    for task in ("classify", "tag"):
        for labels in (True, False):
            try:
                rows = read(path, Named("text", "label"), task, labelled=labels)
            except DataError as error:
                named(error, path)
            else:
                whole(rows, task, labels)
    try:
        found = look(path)
    except DataError as error:
        named(error, path)
    else:
        assert found.n_rows and found.labels is not None


def named(error: DataError, path: Path) -> None:
    assert error.problems
    for problem in error.problems:
        assert str(path) in problem.where and problem.got and problem.wanted, str(error)
    assert len(str(error)) < 20_000


def whole(rows: Dataset, task: str, labels: bool) -> None:
    names = rows.table.column_names
    assert names[:2] == ["row", "text"] and rows.table.column("text").null_count == 0
    if task == "tag" and labels:
        columns = (rows.table.column(name).to_pylist() for name in ("text", "tokens", "tags"))
        for text, tokens, tags in zip(*columns, strict=True):
            assert len(tokens) == len(tags) and len(units.locate(text, tokens)) == len(tokens)
            before = "O"
            for tag in tags:
                assert tag == "O" or tag[0] in "BI"
                assert not tag.startswith("I-") or before[2:] == tag[2:]
                before = tag


@FUZZ
@example(b"\xff\xfe", ".csv")
@example(b"PAR1junkPAR1", ".parquet")
@example(b"PK\x03\x04", ".xlsx")
@example(b"[" * 100_000, ".json")
@example(b'{"text": ' + b"9" * 5000 + b"}", ".jsonl")
@given(st.binary(max_size=300), st.sampled_from(SUFFIXES))
def test_any_bytes(data: bytes, suffix: str) -> None:
    with file_of(data, suffix) as path:
        survive(path)


@FUZZ
@given(st.lists(st.lists(any_texts, max_size=4), max_size=8), st.sampled_from([",", ";", "\t", "|"]), st.booleans(),
       st.sampled_from([".csv", ".tsv", ".txt"]))  # fmt: skip
def test_any_table(rows: list[list[str]], delimiter: str, header: bool, suffix: str) -> None:
    with file_of(as_csv([["text", "label"], *rows] if header else rows, delimiter), suffix) as path:
        survive(path)


@FUZZ
@given(st.lists(st.one_of(labelled, objects, values), max_size=6), st.sampled_from([".jsonl", ".json"]), st.booleans())
def test_any_json(rows: list[Any], suffix: str, escaped: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    text = "\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]"
    with file_of(text.encode("utf-8", "replace"), suffix) as path:
        survive(path)


@FUZZ
@given(st.lists(labelled, min_size=1, max_size=5), st.data())
def test_a_file_that_was_cut_or_changed(rows: list[Any], data: st.DataObject) -> None:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8", "replace")
    place = data.draw(st.integers(0, len(text)))
    changed = data.draw(st.sampled_from([text[:place], text[:place] + b"\xff" + text[place:], text[place:]]))
    with file_of(changed, data.draw(st.sampled_from([".jsonl", ".json", ".csv", ".conll"]))) as path:
        survive(path)


@FUZZ
@given(st.lists(st.lists(st.tuples(any_texts, some_tags), max_size=5), max_size=4), st.sampled_from([" ", "\t"]))
def test_any_columns_of_tags(sentences: list[list[tuple[str, str]]], mark: str) -> None:
    text = "\n\n".join("\n".join(f"{token}{mark}{tag}" for token, tag in sentence) for sentence in sentences)
    with file_of(text.encode("utf-8", "replace"), ".conll") as path:
        survive(path)


@FUZZ
@given(st.lists(st.tuples(odd_texts, odd_texts.map(str.strip).filter(bool)), min_size=1, max_size=8),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
       st.sampled_from([".csv", ".jsonl", ".json", ".parquet"]))  # fmt: skip
def test_what_is_written_is_read(rows: list[tuple[str, str]], encoding: str, suffix: str) -> None:
    # Odd characters alone don't show that a file is GB18030; ordinary Chinese among them does.
    rows = [("这是一段普通的中文文字，用来说明编码。" * 60, "普通"), *rows]
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    records = [{"text": text, "label": label} for text, label in rows]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), sink)
        data = sink.getvalue()
    elif suffix == ".csv":
        data = as_csv([["text", "label"], *map(list, rows)]).decode().encode(encoding)
    else:
        data = ("\n".join(lines) + "\n" if suffix == ".jsonl" else f"[{', '.join(lines)}]").encode(encoding)
    with file_of(data, suffix) as path:
        back = read(path, Named("text", "label"), "classify")
        assert back.table.column("text").to_pylist() == texts
        if suffix != ".csv":  # a cell such as `["a"]` is a list there
            assert back.table.column("labels").to_pylist() == [[label.strip()] for label in labels]
        batches = list(stream(path, Named("text", "label"), "classify", 2))
        assert all(batch.num_rows <= 2 for batch in batches)
        assert digest(pa.Table.from_batches(batches)) == back.digest
        save(back, path.with_suffix(".arrow"))
        kept = open_dataset(path.with_suffix(".arrow"))
        assert kept.table.equals(back.table) and digest(kept.table) == back.digest


@FUZZ
@example(["<<!---->b>"], ("html",))
@example(["&amp;amp;lt;"], ("html", "whitespace"))
@given(st.lists(any_texts, max_size=5), st.lists(st.sampled_from(sorted(STEPS)), unique=True).map(tuple))
def test_cleaning_any_text(texts: list[str], steps: tuple[str, ...]) -> None:
    cleaner = Cleaner(steps, {"我": "你", "台灣": "台湾"})
    once = cleaner(texts)
    assert len(once) == len(texts)
    for text in once:
        text.encode()  # a tokeniser can take it
    if "replace" not in steps:
        assert cleaner(once) == once
    assert Cleaner.from_json(json.loads(json.dumps(cleaner.to_json())))(texts) == once


@FUZZ
@given(any_texts)
def test_cutting_any_text(text: str) -> None:
    for characters in (False, True):
        places = units.split(text, characters=characters)
        assert all(start < end for start, end in places)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
        covered = {place for start, end in places for place in range(start, end)}
        assert all(character.isspace() for place, character in enumerate(text) if place not in covered)
        tokens = [text[start:end] for start, end in places]
        joined = units.join(tokens)
        assert [joined[start:end] for start, end in units.locate(joined, tokens)] == tokens


@FUZZ
@given(st.lists(any_texts, max_size=12))
def test_looking_at_any_texts(texts: list[str]) -> None:
    found = languages(texts)
    assert len(found) == len(texts) and {*found.tolist()} <= {*range(len(LANGUAGES))}
    groups = duplicates.find(texts)
    assert len(groups.exact) == len(groups.near) == len(texts)
    assert all(groups.near[groups.near[row]] == groups.near[row] <= row for row in range(len(texts)))
    for text in texts:
        personal = find_personal(text)
        assert len(mask(text, personal)) == len(text)


@FUZZ
@given(st.lists(st.tuples(odd_texts, some_labels), min_size=1, max_size=40), st.floats(0, 0.6), st.floats(0, 0.6),
       st.sampled_from(["stratified", "random", "time", "group"]), st.booleans())  # fmt: skip
def test_splitting_any_rows(
    rows: list[tuple[str, list[str]]], validation: float, test: float, by: Any, near: bool
) -> None:
    table = pa.table({
        "row": pa.array(range(1, len(rows) + 1)), "text": pa.array([text for text, _ in rows]),
        "labels": pa.array([labels for _, labels in rows], pa.list_(pa.string())),
        "meta.when": pa.array([str(len(text) % 5) for text, _ in rows]),
    })  # fmt: skip
    dataset = Dataset(table, "rows.csv", digest(table))
    plan = SplitSection(by=by, column="when" if by in ("time", "group") else None, validation=validation, test=test,
                        near_duplicates_together=near)  # fmt: skip
    section = DataSection(train="rows.csv", split=plan)
    try:
        parts = split(dataset, section)
    except DataError as error:
        assert "rows.csv" in str(error)
        return
    all_parts = (parts.train, parts.validation, parts.test)
    everywhere = [row for part in all_parts for row in part.table.column("row").to_pylist()]
    assert sorted(everywhere) == list(range(1, len(rows) + 1))
    assert len(parts.train)
    again = split(dataset, section)
    assert again.train.digest == parts.train.digest and again.test.digest == parts.test.digest
