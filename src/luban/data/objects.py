"""Rows of JSON lines and JSON: objects one a line, in a list, within an object, or as Label Studio exports them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from luban.data.encoding import decode_all
from luban.data.problems import fault, shorten
from luban.data.raw import SAMPLE_CHARACTERS, Raw, Source


def read_jsonl(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield the objects of JSON lines; a line that is none is noted and passed over."""
    yield from _objects(source, _json_lines(source), rows_per_batch)


def _json_lines(source: Source) -> Iterator[tuple[int, Any]]:
    with source.path.open(encoding=source.encoding, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                got = f"{error.msg} at column {error.colno}: {shorten(line.strip())}"
                source.faults.add(number, got, "a JSON object")
            except (ValueError, RecursionError) as error:
                source.faults.add(number, f"{type(error).__name__}: {str(error)[:80]}", "a JSON object")


def read_json(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield the objects of a JSON list, or those that one object holds; what follows a broken one can't be read."""
    yield from _objects(source, _json_rows(source), rows_per_batch)


def _json_rows(source: Source) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a list, one after another; of an object that holds them, after reading it whole."""
    with source.path.open(encoding=source.encoding) as file:
        buffer = file.read(SAMPLE_CHARACTERS).lstrip()
        if buffer.startswith("["):
            yield from _array_items(source, file, buffer)
            return
    try:
        value = json.loads(decode_all(source.path).rstrip())  # an early end is on the last line that holds something
    except json.JSONDecodeError as error:
        got = f"{error.msg} at column {error.colno}"
        raise fault(str(source.path), got, "JSON", line=error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise fault(str(source.path), f"{type(error).__name__}: {str(error)[:80]}", "JSON") from error
    yield from enumerate(_rows_in(source, value), 1)


def _array_items(source: Source, file: Any, buffer: str) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    position, number, passed = 1, 0, 0
    exhausted = False
    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,":
            position += 1
        if position < len(buffer) and buffer[position] == "]":
            return
        value, end, broken = None, -1, None
        if position < len(buffer):
            try:
                value, end = decoder.raw_decode(buffer, position)
            except json.JSONDecodeError as error:
                broken = error
            except (ValueError, RecursionError) as error:
                source.faults.add(number + 1, f"{type(error).__name__}: {str(error)[:80]}", "a JSON object")
                return
        if (end < 0 or end >= len(buffer)) and not exhausted:
            # Reads twice as much each time, so that a long value is not decoded again and again.
            more = file.read(max(SAMPLE_CHARACTERS, len(buffer) - position))
            exhausted = not more
            passed += buffer.count("\n", 0, position)
            buffer, position = buffer[position:] + more, 0
            continue
        if end < 0:
            line = passed + buffer.count("\n", 0, broken.pos if broken else len(buffer)) + 1
            reason = broken.msg if broken and position < len(buffer) else "the list does not end"
            source.faults.add(number + 1, f"{reason}, line {line}", "a JSON list of objects, closed by `]`")
            return
        number += 1
        yield number, value
        position = end


def _rows_in(source: Source, value: Any) -> list[Any]:
    """Return the rows that one object holds: its only list of objects, or its columns turned."""
    lists = {key: part for key, part in value.items() if isinstance(part, list)}
    tables = [part for part in lists.values() if part and all(isinstance(row, dict) for row in part)]
    if len(tables) == 1:
        rows = tables[0]
        return [row["row"] if isinstance(row.get("row"), dict) else row for row in rows]
    if lists and len(lists) == len(value) and len({len(part) for part in lists.values()}) == 1:
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    if value and all(isinstance(part, dict) for part in value.values()):
        keys = list(next(iter(value.values())))
        if all(list(part) == keys for part in value.values()):
            return [{name: part[key] for name, part in value.items()} for key in keys]
    got = f"an object with {', '.join(map(str, value))}"[:80]
    raise fault(str(source.path), got, "a list of objects, or an object of columns of one length")


def _objects(source: Source, records: Iterator[tuple[int, Any]], rows_per_batch: int) -> Iterator[Raw]:
    rows: list[int] = []
    objects: list[dict[str, Any]] = []
    label_columns: dict[str, None] = {}
    for number, record in records:
        if not isinstance(record, dict):
            source.faults.add(number, f"a {type(record).__name__}: {shorten(record)}", "a JSON object")
            continue
        if _is_label_studio(record):
            record, names = _flatten(record)
            label_columns.update(dict.fromkeys(names))
        rows.append(number)
        objects.append(record)
        if len(rows) == rows_per_batch:
            yield _turned(rows, objects, tuple(label_columns))
            rows, objects = [], []
    if objects:
        yield _turned(rows, objects, tuple(label_columns))


def _turned(rows: list[int], objects: Sequence[dict[str, Any]], label_columns: tuple[str, ...]) -> Raw:
    names: dict[str, None] = {}
    for record in objects:
        if len(record) != len(names) or any(name not in names for name in record):
            names.update(dict.fromkeys(record))
    return Raw(rows, {name: [record.get(name) for record in objects] for name in names}, label_columns)


def _is_label_studio(record: dict[str, Any]) -> bool:
    return isinstance(record.get("data"), dict) and isinstance(
        record.get("annotations", record.get("completions", record.get("predictions"))), list
    )


def _flatten(record: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a Label Studio task as a row: its data, and a column for each of its controls (`from_name`)."""
    row = dict(record["data"])
    found: dict[str, list[Any]] = {}
    annotations = record.get("annotations", record.get("completions")) or []
    kept = [item for item in annotations if isinstance(item, dict) and not item.get("was_cancelled")]
    if kept:
        results = kept[-1].get("result")  # the last one submitted stands
        for result in results if isinstance(results, list) else []:
            if isinstance(result, dict):
                found.setdefault(str(result.get("from_name", "label")), []).append(result)
        found.setdefault("annotations", [result for part in found.values() for result in part])
    row.update(found)
    return row, list(found)
