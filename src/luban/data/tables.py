"""Rows of csv, tsv, xlsx and Parquet tables."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from luban.data.problems import Faults, fault, shorten
from luban.data.raw import SAMPLE_CHARACTERS, Raw, Source
from luban.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_FIELD = 1 << 24
_CELL_ERRORS = frozenset({"#N/A", "#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"})
_Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE


def read_table(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield the records of csv or tsv, in which blank lines mean nothing; a record of another width is noted."""
    csv.field_size_limit(max(_MAX_FIELD, csv.field_size_limit()))
    delimiter, quoting = _dialect(source.sample(), source.format, source.has_header)
    with source.path.open(encoding=source.encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        yield from _tabular(source, _records(reader, source.faults), rows_per_batch)


def _records(reader: Any, faults: Faults) -> Iterator[tuple[int, list[Any]]]:
    """Yield (line where it begins, fields) of each record that is not blank."""
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "write a quote inside a quoted field twice, and close each field that opens with one"
            faults.add(line, f"{error}", "fields with matching quotes", hint=hint)
            continue
        if record:
            yield line, record


def _tabular(source: Source, records: Iterator[tuple[int, list[Any]]], rows_per_batch: int) -> Iterator[Raw]:
    """Yield batches of records that all have as many fields as there are columns."""
    first = next(records, None)
    if first is None:
        return
    if source.has_header:
        names = _header(source, first)
    else:
        names = [f"#{number}" for number in range(1, len(first[1]) + 1)]
        records = _chain(first, records)
    width = len(names)
    rows: list[int] = []
    fields: list[list[Any]] = []
    for line, record in records:
        if len(record) > width and not any(cell not in (None, "") for cell in record[width:]):
            record = record[:width]
        if len(record) != width:
            hint = "a field that holds the separator or a line end needs quotes around it"
            if source.format == "xlsx":
                hint = "a cell stands in a column without a name"
            got, wanted = f"{len(record)} fields: {shorten(record)}", f"{width}: {', '.join(names)}"[:120]
            source.faults.add(line, got, wanted, hint=hint)
            continue
        rows.append(line)
        fields.append(record)
        if len(rows) == rows_per_batch:
            yield Raw(rows, dict(zip(names, map(list, zip(*fields, strict=True)), strict=True)))
            rows, fields = [], []
    columns = map(list, zip(*fields, strict=True)) if fields else ([] for _ in names)
    yield Raw(rows, dict(zip(names, columns, strict=True)))


def _header(source: Source, first: tuple[int, list[Any]]) -> list[str]:
    line, cells = first
    while len(cells) > 1 and cells[-1] in (None, ""):
        cells = cells[:-1]
    names = [str(cell).strip() if cell not in (None, "") else f"#{number}" for number, cell in enumerate(cells, 1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise fault(str(source.path), f"columns of the same name: {', '.join(twice)}", "a name for each", line=line)
    return names


def _chain(first: tuple[int, list[Any]], rest: Iterator[tuple[int, list[Any]]]) -> Iterator[tuple[int, list[Any]]]:
    yield first
    yield from rest


def _dialect(sample: str, kind: str, has_header: bool) -> tuple[str, _Quoting]:
    """Return the separator and the way of quoting, by trying them on the beginning of the file."""
    if kind == "tsv":
        # Most tab-separated files don't quote, and there a quote is a letter.
        has_quotes = re.search(r'(?:^|\t)"', sample, re.MULTILINE) is not None
        quoted = has_quotes and _even(sample, "\t", csv.QUOTE_MINIMAL)[0] == 1.0
        return "\t", csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    found = {mark: _even(sample, mark, csv.QUOTE_MINIMAL) for mark in ",;\t|"}
    usable = {mark: share for mark, (share, width) in found.items() if width > 1}
    if not usable:
        # One column alone: a comma in it is part of the text.
        return ("\x1f" if has_header else ","), csv.QUOTE_MINIMAL
    return max(usable, key=lambda mark: usable[mark] if mark != "," else usable[mark] + 0.1), csv.QUOTE_MINIMAL


def _even(sample: str, delimiter: str, quoting: _Quoting) -> tuple[float, int]:
    """Return the share of records with as many fields as the first, and that number."""
    records: list[int] = []
    n_broken = 0
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    cut = len(sample) >= SAMPLE_CHARACTERS
    while len(records) + n_broken < 2000:
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error:
            n_broken += 1
            continue
        if record:
            records.append(len(record))
    if cut and len(records) > 1:
        records.pop()  # the sample ends in the middle of it
        n_broken = max(0, n_broken - 1)
    if not records:
        return 0.0, 0
    return sum(width == records[0] for width in records) / (len(records) + n_broken), records[0]


def read_xlsx(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield the rows of a workbook's first sheet that has any."""
    import openpyxl

    with warnings.catch_warnings(), contextlib.ExitStack() as opened:
        warnings.simplefilter("ignore")  # about styles and extensions, which don't matter here
        try:
            file = opened.enter_context(source.path.open("rb"))  # by its name openpyxl would judge it
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = [sheet for sheet in book.worksheets if hasattr(sheet, "iter_rows")]
            if not sheets:
                raise fault(str(source.path), "a workbook without a table", "rows in the first sheet")
            filled = (sheet for sheet in sheets if next(_sheet_rows(sheet), None) is not None)
            yield from _tabular(source, _sheet_rows(next(filled, sheets[0])), rows_per_batch)
            book.close()
        except (DataError, GeneratorExit):
            raise
        except Exception as error:  # zip, XML and openpyxl each have their own
            got = f"a workbook that can't be read ({type(error).__name__}: {error})"[:200]
            raise fault(str(source.path), got, "an xlsx file", hint="open it and save it again") from error


def _sheet_rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    sheet.reset_dimensions()
    width = 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        if any(cell not in (None, "") for cell in cells):
            width = width or len(cells)
            values = [None if cell in _CELL_ERRORS else cell for cell in cells]
            yield number, values + [None] * (width - len(values))


def read_parquet(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield the rows of a Parquet file, columns as Arrow arrays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise fault(str(source.path), f"columns of the same name: {', '.join(twice)}", "a name for each")
            classes = _class_names(file.schema_arrow)
            number = 1
            for batch in file.iter_batches(batch_size=rows_per_batch):
                rows = list(range(number, number + batch.num_rows))
                number += batch.num_rows
                columns: dict[str, Any] = dict(zip(names, batch.columns, strict=True))
                for name, labels in classes.items():
                    columns[name] = [_named(value, labels) for value in batch.column(name).to_pylist()]
                yield Raw(rows, columns)
    except (pa.ArrowException, OSError) as error:
        got = f"a file that can't be read ({error})"[:200]
        raise fault(str(source.path), got, "a Parquet file") from error


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the columns whose whole numbers stand for names, as the `datasets` library notes them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found: dict[str, list[str]] = {}
        for name, feature in features.items():
            inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
            if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and name in schema.names:
                found[name] = [str(label) for label in inner["names"]]
        return found
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _named(value: Any, labels: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(part, labels) for part in value]
    return labels[value] if isinstance(value, int) and 0 <= value < len(labels) else value
