"""Answers from a bundle: for a file, or for a few texts. Torch is never imported here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import NotFound
from luban.files import MANIFEST
from luban.records import Listener, ignore
from luban.stages.places import BUNDLE, COMPRESSED, RUNS

if TYPE_CHECKING:
    from luban.bundle.batch import Predicted
    from luban.records import Prediction


def predict_file(
    bundle: Path,
    input: Path,  # the pair reads as input, output
    output: Path | None,
    *,
    text: str | None = None,
    scores: bool = False,
    resume: bool = True,
    threads: int = 0,
    on_progress: Listener = ignore,
) -> Predicted:
    """Answer every row of a file, in its order, with memory that does not grow with it.

    Args:
        bundle: the sealed folder.
        input: csv, tsv, jsonl, json, parquet, xlsx, or one text a line.
        output: jsonl, csv or parquet; None yields nothing on disk and returns the rows.
        text: column of the text; without it the one the model was trained with.
        scores: write every label's probability.
        resume: go on where a stopped call with the same input and output was.
        threads: of the matrix products; 0 uses every core.
        on_progress: told how far it has come.
    """
    from luban.bundle import batch
    from luban.bundle.engine import Engine

    engine = Engine.open(bundle, threads=threads)
    return batch.predict_file(engine, input, output, text=text, scores=scores, resume=resume, on_progress=on_progress)


def answer_file(
    bundle: Path,
    input: Path,
    *,
    text: str | None = None,
    scores: bool = False,
    threads: int = 0,
    on_progress: Listener = ignore,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows that `predict_file` would write as JSON lines, some at a time, as they are answered."""
    from luban.bundle import batch
    from luban.bundle.engine import Engine

    engine = Engine.open(bundle, threads=threads)
    yield from batch.answer_file(engine, input, text=text, scores=scores, on_progress=on_progress)


def predict_texts(bundle: Path, texts: Sequence[str], *, threads: int = 0) -> list[Prediction]:
    """Answer a few texts."""
    from luban.bundle.engine import Engine

    answers: list[Prediction] = Engine.open(bundle, threads=threads).predict(list(texts))
    return answers


def newest_bundle(root: Path) -> Path:
    """Return the bundle under `root/runs` that was sealed last.

    Raises:
        NotFound: no run has made one.
    """
    made = [path for kind in (BUNDLE, COMPRESSED) for path in (root / RUNS).glob(f"*/{kind}/{MANIFEST}")]
    found = sorted(made, key=lambda path: path.stat().st_mtime_ns)
    if not found:
        hint = "`luban run` makes one; or name one: its folder, or a version such as bank@champion"
        raise NotFound(f"no run under {root / RUNS} has made a bundle", hint=hint)
    return found[-1].parent
