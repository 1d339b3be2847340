"""Datasets on disk, digests of contents, and answers that survive a kill."""

from __future__ import annotations

import csv
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.write import AnswerWriter, digest, open_dataset, save
from luban.errors import Conflict, DataError
from luban.records import Dataset


def dataset(n_rows: int = 3) -> Dataset:
    table = pa.table({
        "row": pa.array(range(n_rows)), "text": [f"文{number}" for number in range(n_rows)],
        "labels": pa.array([["a", "b"][: number % 3] for number in range(n_rows)], pa.list_(pa.string())),
    })  # fmt: skip
    return Dataset(table, "rows.csv", digest(table))


def test_a_dataset_is_mapped_back_as_it_was(tmp_path: Path) -> None:
    kept = dataset(20_000)
    save(kept, tmp_path / "run" / "train.arrow")
    back = open_dataset(tmp_path / "run" / "train.arrow")
    assert back.table.equals(kept.table) and back.source == kept.source and back.digest == kept.digest
    assert digest(back.table) == kept.digest and back.table.column("text").num_chunks > 1


def test_no_rows_are_kept_too(tmp_path: Path) -> None:
    save(dataset(0), tmp_path / "empty.arrow")
    assert len(open_dataset(tmp_path / "empty.arrow")) == 0


@pytest.mark.parametrize("data", [None, b"", b"ARROW1junk"])
def test_what_is_no_dataset_is_named(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.arrow"):
        open_dataset(tmp_path / "x.arrow")


cells = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(cells, st.lists(cells, max_size=3) | st.none(), st.integers(-9, 9) | st.none()), max_size=12),
       st.lists(st.integers(0, 12), max_size=4))  # fmt: skip
def test_a_digest_is_of_the_contents_however_they_are_chunked(rows: list[Any], cuts: list[int]) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.list_(pa.string())), ("c", pa.int64())])
    whole = pa.Table.from_pylist([dict(zip("abc", row, strict=True)) for row in rows], schema)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [whole.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    assert digest(pa.concat_tables(parts)) == digest(whole)
    assert digest(pa.concat_tables(parts).combine_chunks()) == digest(whole)


def test_a_digest_of_columns_of_every_kind_outlives_a_file(tmp_path: Path) -> None:
    table = pa.table({
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())), "struct": [{"x": 1}, None],
        "time": pa.array([1, None], pa.timestamp("us")), "bool": [True, None], "float": [0.5, None],
        "bytes": [b"\xff", None], "word": pa.array(["a", None]).dictionary_encode(),
        "pair": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), "long": pa.array(["a", None], pa.large_string()),
    })  # fmt: skip
    save(Dataset(table, "x", digest(table)), tmp_path / "x.arrow")
    assert digest(open_dataset(tmp_path / "x.arrow").table) == digest(table)


@pytest.mark.parametrize(
    "other",
    [
        {"a": ["x", "y"], "b": [["p"], []]}, {"a": ["xy", ""], "b": [["p"], []]}, {"a": ["x", None], "b": [["p"], []]},
        {"a": ["x", ""], "b": [[], ["p"]]}, {"a": ["x", ""], "c": [["p"], []]}, {"a": ["x", ""], "b": [["p"], None]},
        {"a": ["", "x"], "b": [["p"], []]}, {"a": ["x"], "b": [["p"]]},
    ],
)  # fmt: skip
def test_a_digest_tells_contents_apart(other: dict[str, Any]) -> None:
    assert digest(pa.table({"a": ["x", ""], "b": [["p"], []]})) != digest(pa.table(other))


ANSWERS = [
    {"row": 1, "text": 'a "b"\n,c', "label": "x", "scores": {"x": 0.5}},
    {"row": 2, "text": "我", "label": None, "scores": {}},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_answers_take_their_name_when_all_are_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers{suffix}"
    with AnswerWriter(path) as writer:
        writer.write(ANSWERS[:1])
        assert not path.exists() and writer.part.exists()
        writer.write(ANSWERS[1:])
    assert path.exists() and not writer.part.exists() and writer.n_rows == 2
    if suffix == ".jsonl":
        assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == ANSWERS
    elif suffix == ".parquet":
        assert pq.read_table(path).column("text").to_pylist() == [answer["text"] for answer in ANSWERS]
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            back = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
        assert [row["text"] for row in back] == [answer["text"] for answer in ANSWERS]
        assert json.loads(back[0]["scores"]) == {"x": 0.5}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_cut_anywhere_answers_go_on_behind_the_last_whole_row(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers{suffix}"
    with AnswerWriter(path) as writer:
        writer.write(ANSWERS)
        whole = writer.part.read_bytes()
    wanted = path.read_bytes()
    for cut in range(len(whole) + 1):
        writer.part.write_bytes(whole[:cut])
        with AnswerWriter(path, resume=True) as again:
            assert again.n_rows <= 2
            again.write(ANSWERS[again.n_rows :])
        assert path.read_bytes() == wanted, cut


def test_what_write_returned_from_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from luban.data.write import AnswerWriter\n"
        "writer = AnswerWriter(Path(sys.argv[1])); writer.write([{'row': 1}, {'row': 2}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "answers.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL and not path.exists()
    with AnswerWriter(path, resume=True) as writer:
        assert writer.n_rows == 2


def test_an_error_leaves_the_part_for_going_on(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with pytest.raises(RuntimeError), AnswerWriter(path) as writer:
        writer.write(ANSWERS[:1])
        raise RuntimeError
    assert not path.exists()
    with AnswerWriter(path, resume=True) as writer:
        assert writer.n_rows == 1


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=r"\.txt"):
        AnswerWriter(tmp_path / "answers.txt")
