"""Batch prediction: any form in, answers in order out, and after a kill the same bytes."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.bundle.made import LABELS, Made, texts

from luban import files
from luban.bundle import batch
from luban.bundle.batch import answer_file, predict_file
from luban.bundle.engine import Engine
from luban.errors import Conflict, DataError
from luban.records import Progress

N_ROWS = 2500
"""Two whole chunks and a part of one."""


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def rows_of(n: int) -> list[dict[str, Any]]:
    return [{"id": str(number), "text": text, "shop": "北"} for number, text in enumerate(texts(n, seed=n))]


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def as_xlsx(path: Path, rows: list[dict[str, Any]]) -> None:
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
        book.active.append(row)
    book.save(path)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "csv": as_csv, "tsv": as_tsv, "parquet": as_parquet, "xlsx": as_xlsx, "jsonl": write_jsonl,
}  # fmt: skip


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_is_answered_in_order_with_its_columns(engine: Engine, tmp_path: Path, form: str) -> None:
    rows = rows_of(60)
    source, output = tmp_path / f"new.{form}", tmp_path / "answers.jsonl"
    WRITERS[form](source, rows)
    done = predict_file(engine, source, output)
    found = read_jsonl(output)
    wanted = engine.predict([row["text"] for row in rows])
    assert done.rows == len(found) == 60 and done.resumed == 0 and done.output == output
    for row, answer, prediction in zip(rows, found, wanted, strict=True):
        assert {key: answer[key] for key in ("id", "text", "shop")} == row
        assert answer["label"] == prediction.label
        assert answer["score"] == pytest.approx(prediction.score, abs=1e-4)
        assert set(answer) == {"id", "text", "shop", "label", "score"}
    assert {file.name for file in tmp_path.iterdir()} == {source.name, output.name}


def test_a_text_a_line_is_answered(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("\n".join(texts(30)), "utf-8")
    predict_file(engine, tmp_path / "new.txt", tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["text"] for row in found] == texts(30)
    assert {row["label"] for row in found} <= set(LABELS["classify"])


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_all_probabilities_where_asked_for(engine: Engine, tmp_path: Path, form: str) -> None:
    import pyarrow.csv
    import pyarrow.parquet as pq

    source, output = write_jsonl(tmp_path / "new.jsonl", rows_of(20)), tmp_path / f"answers.{form}"
    predict_file(engine, source, output, scores=True)
    if form == "jsonl":
        found = [row["scores"] for row in read_jsonl(output)]
    else:
        table = pq.read_table(output) if form == "parquet" else pyarrow.csv.read_csv(output)
        names = {name: f"score.{name}" for name in LABELS["classify"]}
        found = [{label: row[name] for label, name in names.items()} for row in table.to_pylist()]
    assert len(found) == 20
    assert all(sum(scores.values()) == pytest.approx(1.0, abs=1e-5) for scores in found)


def test_columns_named_like_answers_are_kept(engine: Engine, tmp_path: Path) -> None:
    rows = [{"text": "转账", "label": "gold", "score": "7"}] * 3
    predict_file(engine, write_jsonl(tmp_path / "new.jsonl", rows), tmp_path / "answers.jsonl")
    for row in read_jsonl(tmp_path / "answers.jsonl"):
        assert (row["input.label"], row["input.score"]) == ("gold", "7")
        assert row["label"] in LABELS["classify"]


def test_another_column_of_text(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"review": text} for text in texts(9)])
    predict_file(engine, source, tmp_path / "answers.jsonl", text="review")
    assert [row["review"] for row in read_jsonl(tmp_path / "answers.jsonl")] == texts(9)
    with pytest.raises(DataError, match="review"):
        predict_file(engine, source, tmp_path / "more.jsonl")
    assert not list(tmp_path.glob("more*"))


def test_answers_are_given_as_they_are_made(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(N_ROWS))
    told: list[Progress] = []
    blocks = answer_file(engine, source, scores=True, on_progress=told.append)
    first = next(blocks)
    assert not told or told[-1].done < N_ROWS, "all rows were answered before the first came"
    predict_file(engine, source, tmp_path / "answers.jsonl", scores=True)
    assert [*first, *(row for block in blocks for row in block)] == read_jsonl(tmp_path / "answers.jsonl")
    assert told[-1].done == N_ROWS


def test_without_an_output_the_rows_come_back(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(5))
    done = predict_file(engine, source, None)
    assert [row["id"] for row in done.answers] == list("01234")
    assert [file.name for file in tmp_path.iterdir()] == ["new.jsonl"]


def test_entities_are_written_with_their_places(tagger: Made, tmp_path: Path) -> None:
    rows = [{"text": text} for text in texts(30)] + [{"text": ["北", "京", "card"]}]
    predict_file(Engine.open(tagger.folder), write_jsonl(tmp_path / "new.jsonl", rows), tmp_path / "answers.jsonl")
    found = read_jsonl(tmp_path / "answers.jsonl")
    spans = [(row["text"], span) for row in found for span in row["spans"]]
    assert len(found) == 31 and spans
    assert all(text[span["start"] : span["end"]] == span["text"] for text, span in spans)
    assert found[-1]["text"] == "北京card"


KILLED = """
import os, signal, sys
from pathlib import Path
from luban.bundle.batch import predict_file
from luban.bundle.engine import Engine

def kill(progress):
    if progress.done >= 2048:
        os.kill(os.getpid(), signal.SIGKILL)

predict_file(Engine.open(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), on_progress=kill)
"""


@pytest.mark.parametrize(
    ("form", "cut"), [("jsonl", 0), ("jsonl", 1), ("jsonl", 9000), ("csv", 9000), ("parquet", 9000)]
)
def test_after_a_kill_the_bytes_are_the_same(
    engine: Engine, classifier: Made, tmp_path: Path, form: str, cut: int
) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(N_ROWS))
    whole, output = tmp_path / f"whole.{form}", tmp_path / f"answers.{form}"
    predict_file(engine, source, whole)
    command = [sys.executable, "-c", KILLED, str(classifier.folder), str(source), str(output)]
    ran = subprocess.run(command, env=dict(os.environ), check=False)
    assert ran.returncode == -signal.SIGKILL
    part = output.with_name(f"{output.name}.part")
    assert part.exists() and not output.exists()
    os.truncate(part, part.stat().st_size - cut)  # as if the machine had stopped while it wrote
    done = predict_file(engine, source, output)
    assert done.rows == N_ROWS
    assert done.resumed == 2048 if cut == 0 else 1024 < done.resumed < 2048
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("answers*.part*"))


def test_a_part_of_something_else_is_not_gone_on_with(engine: Engine, tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "first.jsonl", rows_of(1500))
    output = tmp_path / "answers.jsonl"

    class StopError(Exception):
        """Ends a call from inside."""

    def stop(progress: Progress) -> None:
        raise StopError

    def part_way(source: Path, **options: Any) -> None:
        with pytest.raises(StopError):
            predict_file(engine, source, output, on_progress=stop, **options)
        assert output.with_name("answers.jsonl.part").stat().st_size > 0

    part_way(first)
    assert predict_file(engine, first, output).resumed == 1024
    part_way(first)
    assert predict_file(engine, write_jsonl(tmp_path / "second.jsonl", rows_of(1400)), output).resumed == 0
    part_way(first)
    assert predict_file(engine, first, output, scores=True).resumed == 0
    part_way(first)
    assert predict_file(engine, first, output, resume=False).resumed == 0
    assert [row["id"] for row in read_jsonl(output)] == [str(number) for number in range(1500)]


def test_a_malformed_row_is_named_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(3000))
    with source.open("a", encoding="utf-8") as file:
        file.write('{"text": \n')
    with pytest.raises(DataError, match="3001"):
        predict_file(engine, source, tmp_path / "answers.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["new.jsonl"]


def as_list(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows), "utf-8")


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_rows_without_a_text_are_named_and_not_answered(engine: Engine, tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = rows_of(1500)
    rows[3]["text"] = None
    for row in rows[1400:1425]:
        del row["text"]
    source = tmp_path / f"new.{form}"
    (as_list if form == "json" else WRITERS[form])(source, rows)
    with pytest.raises(DataError, match="no text") as caught:
        predict_file(engine, source, tmp_path / "answers.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == [source.name]
    places = [problem.line or int(problem.where.split("row ")[1].split(",")[0]) for problem in caught.value.problems]
    assert caught.value.total == 26 and places == [4, *range(1401, 1420)]
    assert all(problem.where.startswith(str(source)) for problem in caught.value.problems)
    with pytest.raises(DataError, match="no text"):
        list(answer_file(engine, source))


def test_one_row_without_a_text_is_refused(engine: Engine, tmp_path: Path) -> None:
    for row in ({"text": None}, {"text": float("nan")}):
        with pytest.raises(DataError, match="no text"):
            predict_file(engine, write_jsonl(tmp_path / "new.jsonl", [row]), None)


def test_a_tagger_refuses_a_row_without_a_text(tagger: Made, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"text": ["北", "京"]}, {"text": "北京"}, {"text": None}])
    with pytest.raises(DataError, match=r"column 'text' \(line 3\): got no text"):
        predict_file(Engine.open(tagger.folder), source, None)


@pytest.mark.parametrize("form", ["csv", "jsonl", "xlsx"])
def test_blank_texts_are_answered_and_counted_once(
    engine: Engine, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, Any]] = rows_of(1500)
    for place, text in ((2, ""), (5, "  "), (1400, "")):
        rows[place]["text"] = text
    source = tmp_path / f"new.{form}"
    WRITERS[form](source, rows)
    with caplog.at_level(logging.WARNING):
        done = predict_file(engine, source, tmp_path / "answers.jsonl")
    assert (done.rows, done.blank) == (1500, 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}: 3 blank texts answered like any other; the answer says nothing"
    ]
    caplog.clear()
    assert len([row for block in answer_file(engine, source) for row in block]) == 1500
    assert len(caplog.records) == 1


def test_numbers_are_texts_as_in_training(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"text": value} for value in (5, 2.0, 2.5, True)])
    found = predict_file(engine, source, None).answers
    assert [row["text"] for row in found] == ["5", "2", "2.5", "true"]


def test_a_file_without_rows_says_so(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "new.csv"
    source.write_text("id,text\n", "utf-8")
    with caplog.at_level(logging.WARNING):
        assert list(answer_file(engine, source)) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}: 0 rows answered, for there are none in it"
    ]
    source.write_bytes(b"")
    with pytest.raises(DataError, match=r"got an empty file, wanted rows$"):
        list(answer_file(engine, source))


def test_a_column_that_is_not_there_is_blamed_on_the_option(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(3))
    with pytest.raises(DataError, match=r"new\.jsonl, --column: got 'nope', which is no column"):
        predict_file(engine, source, None, text="nope")


def test_what_can_not_be_written_is_refused_before_anything_is_read(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(3))
    with pytest.raises(Conflict, match=r"\.docx"):
        predict_file(engine, source, tmp_path / "answers.docx")
    with pytest.raises(Conflict, match="the input too"):
        predict_file(engine, source, tmp_path / "." / "new.jsonl")
    with pytest.raises(DataError, match="no file of this name"):
        predict_file(engine, tmp_path / "absent.csv", tmp_path / "answers.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["new.jsonl"]
    assert len(source.read_text("utf-8").splitlines()) == 3


def test_a_column_too_late_for_a_csv_is_refused(engine: Engine, tmp_path: Path) -> None:
    rows = rows_of(1100)
    rows[-1]["surprise"] = "!"
    source = write_jsonl(tmp_path / "new.jsonl", rows)
    with pytest.raises(Conflict, match="'surprise'"):
        predict_file(engine, source, tmp_path / "answers.csv")
    predict_file(engine, source, tmp_path / "answers.jsonl")
    assert read_jsonl(tmp_path / "answers.jsonl")[-1]["surprise"] == "!"


def test_two_calls_do_not_write_one_output(engine: Engine, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows_of(3))
    with files.only_one(tmp_path / "answers.jsonl.part", "it"), pytest.raises(Conflict, match="another process"):
        predict_file(engine, source, tmp_path / "answers.jsonl")


@pytest.mark.parametrize("form", ["csv", "jsonl", "txt", "parquet", "xlsx"])
def test_progress_ends_where_the_rows_end(engine: Engine, tmp_path: Path, form: str) -> None:
    rows = [{"id": "1", "text": 'two\nlines and a "quote"'}, *rows_of(1300)]
    source = tmp_path / f"new.{form}"
    if form == "txt":
        source.write_text("\n".join(texts(1301)), "utf-8")
    else:
        WRITERS[form](source, [{"id": row["id"], "text": row["text"]} for row in rows])
    told: list[Progress] = []
    predict_file(engine, source, tmp_path / "answers.jsonl", on_progress=told.append)
    assert [progress.done for progress in told] == [1024, 1301]
    assert {progress.total for progress in told} == {0 if form == "xlsx" else 1301}
    assert all(progress.rate > 0 for progress in told)


def test_chunks_are_alike_however_the_reader_cuts_the_file(engine: Engine, tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"row": list(range(2100)), "text": texts(2100)})
    for size in (1, 7, 500, 1024, 5000):
        cut = list(batch._rechunk(iter(table.to_batches(max_chunksize=size))))
        assert [part.num_rows for part in cut] == [1024, 1024, 52]
        assert pa.concat_tables(cut).combine_chunks() == table.combine_chunks()
