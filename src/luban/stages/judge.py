"""Judge a bundle on labelled rows of a file: rows that came later, or from elsewhere than its test rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from luban.bundle.engine import Engine
from luban.bundle.seal import PROJECT
from luban.data.read import read
from luban.errors import Conflict, CorruptBundle, DataError, Problem, did_you_mean
from luban.evaluate import render, score
from luban.files import read_json
from luban.project.schema import DataSection, EvaluateSection
from luban.records import Listener, Progress, Report, ignore

ROWS_A_TELL = 4096
"""Rows that are answered between two tellings of progress."""
SHOWN_LABELS = 20
"""Labels that the model does not know are told one by one up to this many."""


def judge(
    bundle: Path,
    data: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    separator: str | None = None,
    out: Path | None = None,
    threads: int = 0,
    on_progress: Listener = ignore,
) -> Report:
    """Score a bundle on labelled rows, with its own calibration; nothing of it is changed.

    Args:
        bundle: the sealed folder.
        data: labelled rows, in any form that a project reads.
        text: column of the text; without it that of the data which the model was trained with, as are the next two.
        label: column of the labels.
        separator: what stands between several labels of a row.
        out: folder for report.html, report.md and report.json.
        threads: of the matrix products; 0 uses every core.
        on_progress: told how far it has come.

    Raises:
        DataError: the file can't be read, or has rows with no text or with labels that the model does not
            know; all are listed.
        NotFound, CorruptBundle: the bundle can't be used.
        Conflict: `out` can't be a folder, for a file is there; no row is read then.
    """
    if out is not None:
        _want_folder(out)
    engine = Engine.open(bundle, threads=threads)
    settings = read_json(bundle / PROJECT)
    try:
        given, wanted = settings["data"], {**settings["evaluate"]}
        section = DataSection(
            train=str(data), text=text or given["text"], label=label or given["label"],
            separator=separator or given["separator"],
        )  # fmt: skip
        wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items()}
        evaluation = EvaluateSection(**{**wanted, "baselines": (), "slices": ()})
    except (KeyError, TypeError) as error:
        raise CorruptBundle(f"{bundle / PROJECT} holds no settings of a project: {error!r}") from error
    on_progress(Progress("evaluate", f"reading {data.name}"))
    rows = read(data, section, engine.task.kind, answered=True)
    gold = engine.task.gold(rows.table)
    _want_known(gold, engine, rows.table.column("row").to_pylist(), str(data))
    inputs = engine.task.inputs(rows.table)
    predictions = []
    for start in range(0, len(inputs), ROWS_A_TELL):
        predictions += engine.predict(inputs[start : start + ROWS_A_TELL])
        on_progress(Progress("evaluate", "answering", len(predictions), len(inputs)))
    on_progress(Progress("evaluate", "scoring"))
    report = score.report(
        name=engine.name, task=engine.task.kind, labels=engine.labels,
        multi_label=bool(getattr(engine.task, "multi_label", False)), gold=gold, predictions=predictions,
        table=rows.table, baselines={}, digests={"data": rows.digest, "bundle": engine.digest}, settings=evaluation,
    )  # fmt: skip
    if out is not None:
        render.write(report, out, evaluation.language)
    return report


def _want_folder(out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise Conflict(f"{there} is a file, not a folder", hint="name a folder for the report, there or not: -o DIR")


def _want_known(gold: list[Any], engine: Engine, rows: list[int], source: str) -> None:
    """Raise DataError where a row has a label that the model can't give: it could only be wrong there."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row, right in zip(rows, gold, strict=True):
        for item in right:
            label = item if isinstance(item, str) else item.label
            counts[label] += 1
            first.setdefault(label, row)
    unknown = [label for label in counts if label not in engine.labels]
    if unknown:
        problems = [
            Problem(
                f"row {first[label]}", f"the label {label!r} ({counts[label]} times)", "a label that the model knows",
                hint=did_you_mean(label, engine.labels),
            )
            for label in unknown[:SHOWN_LABELS]
        ]  # fmt: skip
        more = f"{len(unknown) - SHOWN_LABELS} more labels are unknown; " if len(unknown) > SHOWN_LABELS else ""
        hint = f"{more}correct them, leave these rows out, or train a model with them"
        raise DataError(problems, source=source, hint=hint)
