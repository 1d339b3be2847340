"""Reads labelled files of any known form into one: rows of text with labels, or of tokens with BIO tags."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.data import tags as tagging
from luban.data import units
from luban.data.problems import Mended, Misfit, fault, shorten
from luban.data.raw import Names, Raw, Source
from luban.data.sources import batches, open_source
from luban.data.write import digest
from luban.errors import DataError, Problem, did_you_mean
from luban.records import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

MENDED = b"luban.mended"
"""Key of a table's metadata under which stands, as JSON, what was mended while reading."""

_log = logging.getLogger(__name__)
_ROWS_PER_BATCH = 8192


def read(path: Path | str, section: Names, task: str, *, labelled: bool = True, answered: bool = False) -> Dataset:
    """Read a whole file.

    Args:
        path: a file, or a folder with one folder a class.
        section: names the columns and the separator of labels, e.g. a project's `data` section.
        task: `tag` for tokens and tags; every other kind of task has labels.
        labelled: False reads texts alone, to be answered: no label is looked for, none is wanted, and the text's column
            is what a user says with `--column`.
        answered: a finished model is to answer these rows: one without a text (null, or no such key) is malformed then,
            since there is nothing to answer. An empty cell of a table is a blank text.

    Returns:
        The rows in the form that `Dataset` describes; `row` is the line in the file (csv, tsv, jsonl, xlsx, CoNLL), or
        the row's number (json, Parquet, folders). `mended` tells what was changed so that rows could be used.

    Raises:
        DataError: with every problem of the file (the first 20 in words, the rest counted): malformed rows, missing
            labels, tags that don't fit their tokens, a column that is not there, an encoding that breaks.
    """
    import pyarrow as pa

    reader = _Reader(Path(path), section, task, labelled, answered=answered)
    tables = [pa.Table.from_batches([batch]) for batch in reader.batches(_ROWS_PER_BATCH)]
    if not tables:
        raise fault(str(path), "no rows", "labelled rows" if labelled else "rows")
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    mended = reader.mended.to_json()
    if mended:
        told = ", ".join(f"{kind}: {facts['count']}" for kind, facts in mended.items())
        _log.warning("%s: mended while reading: %s", path, told)
    table = table.replace_schema_metadata({MENDED: json.dumps(mended)})
    return Dataset(table, str(path), digest(table))


def stream(
    path: Path | str, section: Names, task: str, rows_per_batch: int = _ROWS_PER_BATCH, *, labelled: bool = True
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches, in the form of `read`, holding no more than a batch at a time.

    JSON whose rows stand inside one object, and workbooks, are the exceptions: their parsers need more. Where rows of
    JSON lines have unlike keys, batches may differ in their `meta.` columns. Without labels, `tag` has a column
    `tokens`, null where a row is plain text.

    Raises:
        DataError: as `read`. No batch is yielded from the first malformed row on, but the file is read to its end, so
            that the error tells of all of them.
    """
    return _Reader(Path(path), section, task, labelled).batches(rows_per_batch)


def mended(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return what was mended while a dataset was read: kind -> its count and first rows."""
    found: dict[str, dict[str, Any]] = json.loads((dataset.table.schema.metadata or {}).get(MENDED, b"{}"))
    return found


class _Reader:
    """Turns raw rows of one file into batches of the common form."""

    def __init__(self, path: Path, section: Names, task: str, labelled: bool, *, answered: bool = False) -> None:
        self.section = section
        self.per_token = task == "tag"
        self.labelled = labelled
        self.wants_text = answered or not labelled
        self.mended = Mended()
        headless = section.text.startswith("#") and section.text[1:].isdigit()
        self.source: Source = open_source(path, has_header=not headless)
        self.faults = self.source.faults
        self._names: tuple[str, str | None] | None = None
        self._prefixed: bool | None = None
        self._json_cells = self.source.format in ("csv", "tsv", "xlsx")

    def batches(self, rows_per_batch: int) -> Iterator[pa.RecordBatch]:
        try:
            for raw in batches(self.source, rows_per_batch):
                batch = self._batch(raw)
                if batch is not None and batch.num_rows and not self.faults.total:
                    yield batch
        except DataError as error:
            if not self.faults.total:
                raise
            for problem in error.problems:  # the reading ended early: what was found until then is told too
                self.faults.total += 1
                self.faults.shown.append(problem)
        self.faults.stop()

    def _batch(self, raw: Raw) -> pa.RecordBatch | None:
        if self._names is None:
            self._names = self._resolve(raw)
        text_name, label_name = self._names
        nothing = [None] * len(raw.rows)
        texts = _values(raw.columns.get(text_name, nothing))
        labels = _values(raw.columns.get(label_name, nothing)) if label_name is not None else nothing
        columns = self._tagged(raw.rows, texts, labels) if self.per_token else self._classified(raw.rows, texts, labels)
        columns |= {
            f"meta.{name}": values
            for name, values in raw.columns.items()
            if name not in (text_name, label_name) and name not in raw.label_columns
        }
        return self._arrow(raw.rows, columns)

    def _resolve(self, raw: Raw) -> tuple[str, str | None]:
        """Return the columns of text and label.

        Raises:
            DataError: one of them is not there.
        """
        if self.source.fixed is not None:
            text, label = self.source.fixed
            if self.labelled and label not in raw.columns:
                raise fault(
                    str(self.source.path),
                    f"a file of plain lines, {shorten(_values(raw.columns[text])[:1])[1:-1]}",
                    "texts with labels",
                    hint="write a csv with a column of texts and one of labels",
                )
            return text, label if self.labelled else None
        text, label = self.section.text, self.section.label
        if label not in raw.columns and raw.label_columns:
            label = "annotations"
        problems = []
        for what, name in (("text", text), ("label", label)):
            if name in raw.columns or (what == "label" and not self.labelled):
                continue
            known = list(raw.columns)[:40]
            problems.append(Problem(
                f"{self.source.path}, {f'data.{what}' if self.labelled else '--column'}",
                f"{name!r}, which is no column", "a column of the file",
                hint=did_you_mean(name, known) or "the file has no columns",
            ))  # fmt: skip
        if problems:
            raise DataError(problems, source=str(self.source.path))
        return text, label if self.labelled else None

    def _classified(self, rows: Sequence[int], texts: Sequence[Any], labels: Sequence[Any]) -> dict[str, Any]:
        found_texts: list[str] = []
        found_labels: list[list[str] | None] = []
        for row, text, label in zip(rows, texts, labels, strict=True):
            try:
                found_texts.append(self._text(text))
            except Misfit as error:
                self._misfit(row, self._text_name(), error)
            if not self.labelled:
                continue
            try:
                value = self._labels(label)
                if value is None:
                    raise Misfit("no label", "a label", "label the row, or take it out")
                found_labels.append(value)
            except Misfit as error:
                self._misfit(row, self._label_name(), error)
        return {"text": found_texts, "labels": found_labels} if self.labelled else {"text": found_texts}

    def _text(self, value: Any) -> str:
        # Before training an absent text is blank, and the checks tell of it. Tables have no other way to write a blank.
        if self.wants_text and not self._json_cells and _plain(value) is None:
            hint = 'give the row a text, or take it out; a blank text, "", is answered'
            raise Misfit("no text: null, or no such key", "a text", hint)
        return _text(value)

    def _labels(self, value: Any) -> list[str] | None:
        """Return the labels of a cell; None where there is none."""
        if isinstance(value, str):
            separator = self.section.separator
            if separator:
                return _once(part.strip() for part in value.split(separator) if part.strip())
            if self._json_cells and value.startswith("["):
                with contextlib.suppress(ValueError, RecursionError):
                    return self._labels(json.loads(value))
            return [value.strip()] if value.strip() else None
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            value = value["choices"]
        if isinstance(value, list | tuple):
            if any(isinstance(part, dict) for part in value):  # Label Studio: results, of which choices are labels
                parts = [part.get("value", part) for part in value if isinstance(part, dict)]
                found = [part.get("choices") for part in parts if isinstance(part, dict)]
                chosen = [choices for choices in found if isinstance(choices, list)]
                if not chosen:
                    raise Misfit(shorten(value), "a label, or a list of labels")
                value = [label for choices in chosen for label in choices]
            return _once(_label(part) for part in value)
        return None if _absent(value) else [_label(value)]

    def _tagged(self, rows: Sequence[int], texts: Sequence[Any], labels: Sequence[Any]) -> dict[str, Any]:
        found: dict[str, list[Any]] = {"text": [], "tokens": [], "tags": []}
        for row, text, label in zip(rows, texts, labels, strict=True):
            try:
                text, tokens, tags = self._row_tags(row, text, label)
            except Misfit as error:
                self._misfit(row, self._label_name() or self._text_name(), error)
                continue
            found["text"].append(text)
            found["tokens"].append(tokens)
            found["tags"].append(tags)
        if not self.labelled:
            del found["tags"]
        return found

    def _row_tags(self, row: int, text: Any, label: Any) -> tuple[str, list[str] | None, list[str]]:
        """Return text, tokens and BIO tags of one row, whichever way it gives them.

        A text that is given keeps its own spacing; the tokens stand in it, in order.
        """
        if self._json_cells:
            text, label = _json_cell(text), _json_cell(label)
        if not self.labelled:
            if isinstance(text, list | tuple):
                tokens = _tokens(text)
                return units.join(tokens), tokens, []
            return self._text(text), None, []
        if _absent(label):
            raise Misfit("no tags", "tags or spans", "annotate the row, or take it out")
        if isinstance(text, list | tuple):
            tokens = _tokens(text)
            if isinstance(label, str):
                label = label.split()
            return units.join(tokens), tokens, self._bio(row, tokens, label)
        text = self._text(text)
        if isinstance(label, str):
            tokens = text.split()
            label = label.split()
            if len(label) == len(text) != len(tokens):
                tokens = list(text)
            return text, tokens, self._bio(row, tokens, label)
        if isinstance(label, list | tuple) and label and all(isinstance(tag, str) for tag in label):
            tokens = list(text) if len(text) == len(label) else text.split()
            return text, tokens, self._bio(row, tokens, label)
        tokens, tags, n_dropped = tagging.place(text, tagging.spans_of(label))
        if n_dropped:
            self.mended.add("overlapping spans left out", row, n_dropped)
        return text, tokens, tags

    def _bio(self, row: int, tokens: Sequence[str], tags: Any) -> list[str]:
        if not isinstance(tags, list | tuple):
            raise Misfit(f"a {type(tags).__name__}", "a list of tags")
        if len(tags) != len(tokens):
            raise Misfit(f"{len(tags)} tags for {len(tokens)} tokens", "one tag a token")
        for place, tag in enumerate(tags, 1):
            if not isinstance(tag, str):
                hint = "write their names, e.g. B-PER" if isinstance(tag, int) else ""
                raise Misfit(f"tag {place}: {shorten(tag)}", "a tag, e.g. O or B-PER", hint)
        if self._prefixed is None and any(tag != tagging.OUTSIDE for tag in tags):
            self._prefixed = tagging.is_prefixed(tags)
        bio, n_mended = tagging.to_bio(tags, prefixed=self._prefixed is not False)
        if n_mended:
            self.mended.add("tags that went on with no entity now begin one", row, n_mended)
        return bio

    def _text_name(self) -> str:
        return self._names[0] if self._names else ""

    def _label_name(self) -> str:
        return (self._names[1] if self._names else None) or ""

    def _misfit(self, row: int, column: str, error: Misfit) -> None:
        self.faults.add(row, error.got, error.wanted, column=column, hint=error.hint)

    def _arrow(self, rows: list[int], columns: dict[str, Any]) -> pa.RecordBatch | None:
        import pyarrow as pa

        arrays: dict[str, pa.Array] = {"row": pa.array(rows, pa.int64())}
        strings = pa.list_(pa.string())
        for name, values in columns.items():
            kind = strings if name in ("labels", "tokens", "tags") else pa.string()
            try:
                if isinstance(values, pa.Array):
                    arrays[name] = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
                else:
                    arrays[name] = pa.array(values if kind is strings or name == "text" else map(_plain, values), kind)
            except UnicodeEncodeError:
                self._surrogates(rows, name, values)
        return None if self.faults.total else pa.RecordBatch.from_pydict(arrays)

    def _surrogates(self, rows: Sequence[int], name: str, values: Sequence[Any]) -> None:
        for row, value in zip(rows, values, strict=False):
            try:
                json.dumps(value, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError:
                hint = "an escape such as \\ud83d stands without its other half: a text was cut inside an emoji"
                self.faults.add(row, "half a character (a lone surrogate)", "whole characters", column=name, hint=hint)


def _values(column: Any) -> list[Any]:
    values: list[Any] = column if isinstance(column, list) else column.to_pylist()
    return values


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return units.join(_tokens(value))
    if isinstance(value, dict | bytes):
        raise Misfit(f"a {type(value).__name__}: {shorten(value)}", "a text")
    return _plain(value) or ""


def _tokens(value: Sequence[Any]) -> list[str]:
    for place, token in enumerate(value, 1):
        if not isinstance(token, str) or not token:
            raise Misfit(f"token {place}: {shorten(token)}", "a token, one character or more")
    return list(value)


def _label(value: Any) -> str:
    if isinstance(value, list | tuple | dict | bytes):
        raise Misfit(shorten(value), "a label, or a list of labels")
    label = (_plain(value) or "").strip()
    if not label:
        raise Misfit("an empty label among others", "a name for each label")
    return label


def _once(labels: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(labels))


def _json_cell(value: Any) -> Any:
    """Return what a table's cell holds as JSON, where it does."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _plain(value: Any) -> str | None:
    """Return a value as a string: 1.0 as 1, dates as ISO 8601, lists and objects as JSON; None where it is absent."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime):
        whole_day = value.time() == datetime.time() and value.tzinfo is None
        return value.date().isoformat() if whole_day else value.isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, int | decimal.Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)
