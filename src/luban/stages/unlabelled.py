"""Rows without labels, from which compression learns what the uncompressed model answers."""

from __future__ import annotations

from typing import Any

from luban.data.duplicates import key
from luban.data.raw import Named
from luban.data.read import read
from luban.stages.flow import Ready
from luban.stages.record import Run


def unlabelled_rows(run: Run, ready: Ready) -> list[Any]:
    """Return the rows of `compress.unlabelled` as the engine takes them: texts, or lists of tokens; none if not set.

    Blank ones are left out, and those that repeat a validation or a test row, so that neither tells of rows that were
    learnt from.

    Raises:
        DataError: the file can't be read.
        ProjectError: it is not there.
    """
    project = run.loaded.project
    if (path := run.loaded.unlabelled_file()) is None:
        return []
    run.tell("compress", f"reading {path.name}")
    table = read(path, Named(project.data.text, ""), ready.task.kind, labelled=False).table
    texts = table.column("text").to_pylist()
    tokens = table.column("tokens").to_pylist() if "tokens" in table.schema.names else [None] * len(texts)
    judged = (ready.splits.validation, ready.splits.test)
    held = {key(text) for part in judged for text in part.table.column("text").to_pylist()}
    found = [
        text if units is None else units
        for text, units in zip(texts, tokens, strict=True)
        if text.strip() and key(text) not in held
    ]
    out = len(texts) - len(found)
    left = f"; {out:,} left out: blank, or among the validation or test rows" if out else ""
    run.tell("compress", f"{len(found):,} rows without labels{left}")
    return found
