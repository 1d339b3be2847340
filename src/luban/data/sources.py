"""Tells what a data file is, by its first bytes, its name and its first lines, and reads its rows in batches."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luban.data.encoding import find_encoding
from luban.data.objects import read_json, read_jsonl
from luban.data.problems import Faults, fault, shorten
from luban.data.raw import SAMPLE_CHARACTERS, Raw, Source
from luban.data.sequences import conll_columns, read_conll, read_folder, read_lines
from luban.data.tables import read_parquet, read_table, read_xlsx
from luban.errors import did_you_mean

_BY_SUFFIX = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl",
    ".json": "json", ".parquet": "parquet", ".pq": "parquet", ".xlsx": "xlsx", ".xlsm": "xlsx", ".conll": "conll",
    ".conllu": "conll", ".bio": "conll", ".bioes": "conll", ".bmes": "conll", ".bmewo": "conll", ".iob": "conll",
    ".iob2": "conll",
}  # fmt: skip
_LINE_FORMATS = frozenset({"csv", "tsv", "jsonl", "conll", "lines", "xlsx"})
_HOLDERS = ("data", "rows", "records", "examples", "items")  # names of the list of rows in an object
_TAG = re.compile(r"O|[BIMESLUW]([-_].+)?")


def open_source(path: Path, *, has_header: bool = True) -> Source:
    """Find out what a file or folder is.

    The first bytes decide before the name does (a workbook saved as `.csv`, JSON lines saved as `.json`).

    Raises:
        DataError: there is nothing there, or nothing that Luban reads.
    """
    if path.is_dir():
        source = Source(path, "folder", fixed=("text", "label"))
    elif not path.exists():
        siblings = (
            [other.name for other in path.parent.iterdir() if other.name[:1] != "."] if path.parent.is_dir() else []
        )
        near = difflib.get_close_matches(path.name, siblings, n=3)
        hint = did_you_mean(path.name, near or siblings[:10])
        raise fault(str(path), "no file of this name", "a data file", hint=hint)
    else:
        source = _open_file(path)
    source.has_header = has_header
    source.faults = Faults(str(path), lines=source.format in _LINE_FORMATS)
    return source


def _open_file(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise fault(str(path), error.strerror or str(error), "a file that can be read") from error
    if not head:
        raise fault(str(path), "an empty file", "rows")
    if head.startswith(b"PAR1"):
        return Source(path, "parquet")
    if head.startswith(b"PK\x03\x04"):
        return Source(path, "xlsx")
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise fault(str(path), "an old Excel file (.xls)", "xlsx", hint="open it and save it as .xlsx")
    if head.startswith(b"ARROW1"):
        raise fault(str(path), "an Arrow file", "Parquet", hint="write it with pyarrow.parquet.write_table")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        raise fault(str(path), "a packed file", "the file itself", hint="unpack it first")
    kind = _BY_SUFFIX.get(path.suffix.lower(), "")
    if kind in ("parquet", "xlsx"):
        raise fault(str(path), f"a file named {path.suffix} that is no {kind}", f"a {kind} file")
    encoding = find_encoding(path)
    sample = Source(path, kind, encoding).sample()
    if kind in ("json", "jsonl", ""):
        kind = _json_kind(sample, kind) or kind
    if kind in ("", "tsv"):
        kind = _line_kind(sample, kind)
    if kind == "json" and not sample.lstrip().startswith(("[", "{")):
        raise fault(str(path), shorten(sample.strip()[:40]), "JSON: a list of objects", line=1)
    fixed = {"conll": ("tokens", "tags"), "lines": ("text", "label")}.get(kind)
    return Source(path, kind, encoding, fixed=fixed)


def _json_kind(sample: str, kind: str) -> str:
    """Return `jsonl` where the first line is a whole object, `json` where JSON begins otherwise, else nothing."""
    start = sample.lstrip()
    if not start.startswith(("{", "[{", "[ ", "[\n", "[\r", "[]", "[\t")):
        return ""
    if start.startswith("["):
        return "json"
    lines = start.split("\n", 2)
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        first = None
    if not isinstance(first, dict):
        # A first line that is broken does not make the file one object: the lines after it tell, or else the name.
        after = lines[1].lstrip() if len(lines) > 1 else ""
        is_alone = not after and not lines[2:]
        return "jsonl" if after.startswith('{"') or (is_alone and kind == "jsonl") else "json"
    return "jsonl" if len(lines) > 1 and lines[1].strip() else _one_line_kind(first, kind)


def _one_line_kind(value: dict[str, Any], kind: str) -> str:
    """Tell one object that holds the rows (`json`) from one that is a row (`jsonl`)."""
    if kind == "jsonl":
        return kind
    if any(isinstance(value.get(name), list) for name in _HOLDERS) and not isinstance(value.get("data"), dict):
        return "json"
    lists = [part for part in value.values() if isinstance(part, list)]
    columns = len(lists) == len(value) and len({len(part) for part in lists}) == 1
    return "json" if columns and len(lists) > 0 else "jsonl"


def _line_kind(sample: str, kind: str) -> str:
    """Tell columns of tokens and tags, tab-separated tables and plain lines from each other."""
    lines = sample.splitlines()
    if len(sample) >= SAMPLE_CHARACTERS:
        lines = lines[:-1]
    filled = [line for line in lines if line.strip() and not line.startswith(("-DOCSTART-", "# "))]
    if not filled:
        return kind or "lines"
    parts = [conll_columns(line, "\t" in line) for line in filled]
    tagged = sum(len(part) > 1 and _TAG.fullmatch(part[-1]) is not None for part in parts)
    if tagged >= 0.95 * len(filled) and len({len(part) for part in parts}) <= 3:
        return "conll"
    if kind:
        return kind
    tabs = filled[0].count("\t")
    return "tsv" if tabs and sum(line.count("\t") == tabs for line in filled) >= 0.9 * len(filled) else "lines"


_READERS: dict[str, Callable[[Source, int], Iterator[Raw]]] = {
    "csv": read_table, "tsv": read_table, "jsonl": read_jsonl, "json": read_json, "parquet": read_parquet,
    "xlsx": read_xlsx, "conll": read_conll, "lines": read_lines, "folder": read_folder,
}  # fmt: skip


def batches(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield the rows of a file; what can't be read is noted in `source.faults`, and the rest goes on."""
    return _READERS[source.format](source, rows_per_batch)
