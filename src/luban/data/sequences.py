"""Rows of CoNLL columns, of plain lines, and of folders with one folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luban.data.encoding import decode_all
from luban.data.problems import fault, shorten
from luban.data.raw import Raw, Source
from luban.errors import DataError


def conll_columns(line: str, tabs: bool) -> list[str]:
    """Return the columns of one line, whichever way they are separated."""
    return line.split("\t") if tabs else [part for part in line.split(" ") if part]


def read_conll(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield sentences: the first column is the token, the last the tag; a blank line ends a sentence."""
    tabs, width = _conll_shape(source)
    rows: list[int] = []
    tokens: list[list[str]] = []
    tags: list[list[str | None]] = []
    sentence: list[tuple[str, str | None]] = []
    start = 1
    with source.path.open(encoding=source.encoding, newline=None) as file:
        for number, line in enumerate(_then_blank(file), 1):
            line = line.rstrip("\n")
            if not line.strip():
                if sentence:
                    rows.append(start)
                    tokens.append([token for token, _ in sentence])
                    tags.append([tag for _, tag in sentence])
                    sentence = []
                if len(rows) == rows_per_batch:
                    yield Raw(rows, {"tokens": tokens, "tags": tags})
                    rows, tokens, tags = [], [], []
                continue
            parts = conll_columns(line, tabs)
            if line.startswith("-DOCSTART-") or (line.startswith("#") and len(parts) != width):
                continue
            if not sentence:
                start = number
            if len(parts) == width:
                sentence.append((parts[0], parts[-1].strip() if width > 1 else None))
            elif len(parts) == width - 1 and line[0] == " " and not tabs:
                sentence.append((" ", parts[-1]))  # the token is itself a space
            else:
                got = f"{len(parts)} columns: {shorten(line)}"
                source.faults.add(number, got, f"{width}, separated by {'tabs' if tabs else 'spaces'}")
    if rows:
        yield Raw(rows, {"tokens": tokens, "tags": tags})


def _then_blank(file: Any) -> Iterator[str]:
    yield from file
    yield "\n"


def _conll_shape(source: Source) -> tuple[bool, int]:
    """Return whether tabs separate the columns, and how many columns most lines have."""
    lines = source.sample().splitlines()[:5000]
    filled = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    tabs = 2 * sum("\t" in line for line in filled) > len(filled)
    widths = [len(conll_columns(line, tabs)) for line in filled]
    return tabs, max(set(widths), key=lambda width: (widths.count(width), width), default=1)


def read_lines(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield each line as a text, blank ones too, so that answers stand beside their lines."""
    rows: list[int] = []
    texts: list[str] = []
    with source.path.open(encoding=source.encoding, newline=None) as file:
        for number, line in enumerate(file, 1):
            rows.append(number)
            texts.append(line.rstrip("\n"))
            if len(rows) == rows_per_batch:
                yield Raw(rows, {"text": texts})
                rows, texts = [], []
    if rows:
        yield Raw(rows, {"text": texts})


def read_folder(source: Source, rows_per_batch: int) -> Iterator[Raw]:
    """Yield one row a text file; the folder it lies in is its label."""
    classes = sorted(folder for folder in source.path.iterdir() if folder.is_dir() and folder.name[0] != ".")
    if not classes:
        raise fault(str(source.path), "a folder without folders in it", "one folder a class, text files in each")
    number = 0
    batch: list[tuple[int, str, str, str]] = []
    for folder in classes:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
        if not files:
            source.faults.add(None, f"no file in {folder.name}/", "text files", column="label")
        for path in files:
            number += 1
            name = path.relative_to(source.path).as_posix()
            if path.suffix.lower() not in ("", ".txt", ".text") and not path.suffix[1:].isdigit():
                source.faults.add(number, name, "a text file (.txt)", hint="move other files elsewhere")
                continue
            try:
                text = decode_all(path) if path.stat().st_size else ""
            except DataError as error:
                problem = error.problems[0]
                source.faults.add(number, f"{name}: {problem.got}", problem.wanted, hint=problem.hint)
                continue
            batch.append((number, text, folder.name, name))
            if len(batch) == rows_per_batch:
                yield _folder_batch(batch)
                batch = []
    if batch:
        yield _folder_batch(batch)


def _folder_batch(batch: Sequence[tuple[int, str, str, str]]) -> Raw:
    rows, texts, labels, names = (list(part) for part in zip(*batch, strict=True))
    return Raw(rows, {"text": texts, "label": labels, "file": names})
