"""Keeps datasets as Arrow files that are mapped rather than loaded, and writes answers as csv, jsonl or Parquet."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from luban.data.problems import fault
from luban.errors import Conflict
from luban.files import replacing
from luban.records import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

_DIGEST = b"luban.digest"
_SOURCE = b"luban.source"
_ROWS_PER_BATCH = 8192


def digest(table: pa.Table) -> str:
    """Return the SHA-256 over the names, types and values of a table's columns, the same however it is chunked."""
    whole = hashlib.sha256(str(table.num_rows).encode())
    for name in table.column_names:
        whole.update(json.dumps(name).encode())
        hashes = _Hashes()
        for chunk in table.column(name).chunks:
            _feed(chunk, hashes, "")
        whole.update(hashes.digest())
    return whole.hexdigest()


class _Hashes:
    """One hash for each buffer of a column: presence, lengths and values, those of nested values too."""

    def __init__(self) -> None:
        self._by_part: dict[str, Any] = {}

    def update(self, part: str, data: Any) -> None:
        self._by_part.setdefault(part, hashlib.sha256()).update(data)

    def digest(self) -> bytes:
        whole = hashlib.sha256()
        for part in sorted(self._by_part):
            whole.update(part.encode() + b"=" + self._by_part[part].digest())
        return whole.digest()


def _feed(chunk: pa.Array, hashes: _Hashes, path: str) -> None:
    """Hash one chunk; what a missing value's slot happens to hold is not part of it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(chunk) == 0:
        return
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        _feed(chunk.dictionary_decode(), hashes, path)
        return
    hashes.update(f"{path}?", chunk.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        hashes.update(f"{path}#", lengths.astype(np.int64))
        _feed(chunk.flatten(), hashes, f"{path}/")
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        present = chunk.drop_null()
        hashes.update(f"{path}#", pc.binary_length(present).to_numpy(zero_copy_only=False).astype(np.int64))
        if len(present):
            _, offsets, data = present.buffers()
            width = np.int64 if pa.types.is_large_string(kind) else np.int32
            ends = np.frombuffer(offsets, width)[present.offset : present.offset + len(present) + 1]
            hashes.update(f"{path}=", memoryview(data or b"")[int(ends[0]) : int(ends[-1])])
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values = chunk.drop_null().to_numpy(zero_copy_only=False)
        hashes.update(f"{path}{kind}", np.ascontiguousarray(values))
    else:
        family = str(kind).split("<")[0]  # a file renames the fields within
        for value in chunk.drop_null().to_pylist():
            hashes.update(f"{path}{family}", json.dumps(value, default=str, sort_keys=True).encode() + b"\n")


def save(dataset: Dataset, path: Path) -> None:
    """Write a dataset as an Arrow file, whole or not at all; `open_dataset` maps it back."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {_DIGEST: dataset.digest.encode(), _SOURCE: dataset.source.encode()}
    table = dataset.table.replace_schema_metadata({**(dataset.table.schema.metadata or {}), **notes})
    with replacing(path) as aside, pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_PER_BATCH)


def open_dataset(path: Path) -> Dataset:
    """Map a dataset that `save` wrote: rows are read from the file as they are used.

    Raises:
        DataError: the file is not there, or is not one of Luban's.
    """
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        notes = table.schema.metadata or {}
        return Dataset(table, notes[_SOURCE].decode(), notes[_DIGEST].decode())
    except (pa.ArrowException, OSError, KeyError) as error:
        got = f"a file that can't be read ({type(error).__name__}: {error})"[:200]
        raise fault(str(path), got, "an Arrow file that Luban wrote", hint="make it again with `luban run`") from error


class AnswerWriter:
    """Writes rows of answers to `PATH.part` as they come and gives them their name when all are there.

    Rows that `write` returned from are in the file even if the process is killed; with `resume` the writer drops a
    last row that was cut, counts the whole ones in `n_rows`, and goes on behind them. A Parquet file can't be added
    to, so its rows wait as JSON lines until `close`.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Open the part file.

        Args:
            path: where the answers will be: `.jsonl`, `.csv`, `.tsv` or `.parquet`.
            resume: go on with a part file that is there, rather than begin anew.

        Raises:
            Conflict: the name's ending is none of these.
        """
        self.path = path
        self.kind = path.suffix.lower().lstrip(".")
        if self.kind not in ("jsonl", "csv", "tsv", "parquet"):
            hint = "use .jsonl, .csv, .tsv or .parquet"
            raise Conflict(f"{path}: no rows can be written into a file that ends in {path.suffix!r}", hint=hint)
        self.part = path.with_name(f"{path.name}.part")
        self.n_rows = 0
        self._columns: list[str] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.part.exists():
            self._recover()
        self._file: BinaryIO = self.part.open("ab" if resume else "wb")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; the first of all decides the columns of a csv."""
        if not rows:
            return
        if self.kind in ("csv", "tsv"):
            data = self._as_table(rows)
        else:
            lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
            data = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        self._file.write(data)
        self._file.flush()
        self.n_rows += len(rows)

    def close(self) -> None:
        """Flush to disk and give the file its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self.kind == "parquet":
            with replacing(self.path) as aside:
                _to_parquet(self.part, aside)
            self.part.unlink()
        else:
            self.part.replace(self.path)

    def __enter__(self) -> AnswerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _as_table(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="\t" if self.kind == "tsv" else ",", lineterminator="\n")
        mark = b""
        if self._columns is None:
            self._columns = list(rows[0])
            writer.writerow(self._columns)
            mark = b"\xef\xbb\xbf" if self.kind == "csv" else b""  # without it Excel shows Chinese as noise
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in self._columns])
        return mark + text.getvalue().encode("utf-8", "replace")

    def _recover(self) -> None:
        """Cut what follows the last whole row, and count the rows before it."""
        if self.kind in ("csv", "tsv"):
            end = self._recover_table()
        else:
            end = 0
            with self.part.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        end += len(line)
                        self.n_rows += 1
        os.truncate(self.part, end)

    def _recover_table(self) -> int:
        end = position = 0
        n_quotes = n_records = 0
        with self.part.open("rb") as file:
            for line in file:
                position += len(line)
                n_quotes += line.count(b'"')
                if line.endswith(b"\n") and n_quotes % 2 == 0:  # not a line end inside a quoted field
                    end = position
                    n_records += 1
            file.seek(0)
            head = file.read(end)[: 1 << 20].decode("utf-8-sig", "replace")
        if n_records:
            delimiter = "\t" if self.kind == "tsv" else ","
            self._columns = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter))
            self.n_rows = n_records - 1
        return end


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else value


def _to_parquet(lines: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema: pa.Schema | None = None
    for rows in _json_batches(lines):  # a column's type is known only when all its values are
        found = pa.Table.from_pylist(rows).schema
        schema = found if schema is None else pa.unify_schemas([schema, found], promote_options="permissive")
    with pq.ParquetWriter(path, schema if schema is not None else pa.schema([])) as writer:
        for rows in _json_batches(lines):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _json_batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            rows.append(json.loads(line))
            if len(rows) == _ROWS_PER_BATCH:
                yield rows
                rows = []
    if rows:
        yield rows
