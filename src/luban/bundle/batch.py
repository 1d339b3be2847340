"""Batch prediction: every row of a file is answered, in order, with memory that does not grow with the file.

Answers go to `OUTPUT.part`, and get their name when all are there. A call that was stopped, or killed, goes on where it
was when it is made again with the same input, bundle and settings: `OUTPUT.part.json` tells what the part was made
from. Chunks are the same then, so that the bytes are too.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban import files
from luban.errors import Conflict, CorruptBundle, DataError, NotFound
from luban.records import Prediction, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from luban.bundle.engine import Engine
    from luban.data.write import AnswerWriter

ROWS_PER_CHUNK = 1024
"""Rows that are sorted by length and answered together. More would save little padding, and delay progress."""
DECIMALS = 6
"""Digits of a probability behind the point."""
_log = logging.getLogger(__name__)
_META = "meta."
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What became of a file."""

    rows: int
    """Rows answered, those of a call before included."""
    resumed: int
    """Rows that a stopped call had answered already."""
    seconds: float
    rows_per_s: float
    """Rows of this call a second, reading and writing included."""
    output: Path | None
    abstained: int
    """Rows answered by this call without a label, or without an entity."""
    blank: int = 0
    """Rows of the file whose text is empty or white space; they are answered, with a warning at the end."""
    answers: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """The rows themselves, where no output was named."""


def predict_file(
    engine: Engine,
    input: Path,  # the pair reads as input, output
    output: Path | None,
    *,
    text: str | None = None,
    scores: bool = False,
    resume: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
) -> Predicted:
    """Answer every row of a file, in its order.

    A row of the output has the input's text and other columns, then `label` and `score` (or `labels` and `score`, or
    `spans`). A column of the input that has the name of an answer is called `input.NAME`.

    Args:
        engine: answers.
        input: csv, tsv, jsonl, json, parquet, xlsx, or one text a line.
        output: jsonl, csv, tsv or parquet; None keeps the answers in memory and returns them.
        text: column of the text; None takes the one that the model was trained with.
        scores: give every label's probability too: `scores` in jsonl, one column `score.LABEL` a label elsewhere.
        resume: go on where a stopped call was.
        on_progress: told how far it has come.

    Raises:
        DataError: the input can't be read, or rows have no text (null, or no such key), with every problem in it; no
            output is left then.
        Conflict: the output is the input, has an ending that can't be written, or is being written by another process.
    """
    input = Path(input)
    text = text or engine.text_column
    if output is not None and Path(output).resolve() == input.resolve():
        raise Conflict(f"{output} is the input too", hint="name another output")
    batches, source = _opened(engine, input, text)
    columns = _Columns(engine, text, scores, Path(output).suffix.lower() if output is not None else ".jsonl")
    count = _Counter(input, on_progress or (lambda _: None), source.n_rows)
    if output is None:
        answers = [row for rows in _answer(engine, batches, columns, count, skip=0) for row in rows]
        return count.predicted(None, answers)
    settings = {"input": source.digest, "bundle": engine.digest, "text": text, "scores": scores, "rows": ROWS_PER_CHUNK}
    _write(engine, batches, columns, count, Path(output), settings, resume=resume and bool(source.digest))
    return count.predicted(Path(output), ())


def answer_file(
    engine: Engine,
    input: Path,
    *,
    text: str | None = None,
    scores: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows that `predict_file` would write as JSON lines, some at a time, as they are answered.

    Raises:
        DataError: as `predict_file`; what was yielded by then stays true.
    """
    text = text or engine.text_column
    batches, source = _opened(engine, Path(input), text)
    count = _Counter(Path(input), on_progress or (lambda _: None), source.n_rows)
    yield from _answer(engine, batches, _Columns(engine, text, scores, ".jsonl"), count, skip=0)
    count.warn()


def _opened(engine: Engine, input: Path, text: str) -> tuple[Iterator[pa.RecordBatch], _Scan]:
    from luban.data.raw import Named
    from luban.data.read import stream

    batches = stream(input, Named(text, ""), engine.task.kind, ROWS_PER_CHUNK, labelled=False)
    # From here on the file is known to be there and of a kind that can be read.
    return batches, _Scan.of(input) if input.is_file() else _Scan("", 0)


def _write(
    engine: Engine,
    batches: Iterator[pa.RecordBatch],
    columns: _Columns,
    count: _Counter,
    output: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
) -> None:
    from luban.data.write import AnswerWriter

    part = output.with_name(f"{output.name}.part")
    journal = output.with_name(f"{output.name}.part.json")
    with files.only_one(part, str(output)):
        going_on = resume and _same(journal, settings)
        try:
            if not going_on:
                journal.unlink(missing_ok=True)
                part.write_bytes(b"")
                files.write_json(journal, settings)
            with AnswerWriter(output, resume=going_on) as writer:
                _append(engine, batches, columns, count, writer)
        except (DataError, Conflict):
            part.unlink(missing_ok=True)
            journal.unlink(missing_ok=True)
            raise
        journal.unlink(missing_ok=True)


def _append(
    engine: Engine, batches: Iterator[pa.RecordBatch], columns: _Columns, count: _Counter, writer: AnswerWriter
) -> None:
    count.resumed = writer.n_rows
    whole, rest = divmod(writer.n_rows, ROWS_PER_CHUNK)
    for rows in _answer(engine, batches, columns, count, skip=whole):
        # A chunk that was cut is answered whole again, since its rows were batched together, and its tail written.
        writer.write(rows[rest:])
        rest = 0


def _answer(
    engine: Engine, batches: Iterator[pa.RecordBatch], columns: _Columns, count: _Counter, *, skip: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of the output, a chunk at a time, from chunk number `skip` on."""
    begun: deque[tuple[int, pa.Table, list[Any]]] = deque()

    def chunks() -> Iterator[list[Any]]:
        for number, batch in enumerate(_rechunk(batches)):
            columns.check(batch.schema.names)
            texts = batch.column("text").to_pylist()
            count.blank += sum(not text.strip() for text in texts)
            if number < skip:
                continue
            tokens = batch.column("tokens").to_pylist() if "tokens" in batch.schema.names else [None] * len(texts)
            begun.append((number, batch, texts))
            yield [row if units is None else units for units, row in zip(tokens, texts, strict=True)]

    for predictions in engine.predict_chunks(chunks()):
        number, batch, texts = begun.popleft()
        yield columns.rows(batch, texts, predictions)
        count.add(number * ROWS_PER_CHUNK + len(texts), predictions)


def _rechunk(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield tables of exactly `ROWS_PER_CHUNK` rows, but for the last, however the reader cuts them."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    n_rows = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]))
        n_rows += batch.num_rows
        while n_rows >= ROWS_PER_CHUNK:
            table = pa.concat_tables(waiting, promote_options="permissive")
            yield table.slice(0, ROWS_PER_CHUNK)
            n_rows -= ROWS_PER_CHUNK
            waiting = [table.slice(ROWS_PER_CHUNK)] if n_rows else []
    if n_rows:
        yield pa.concat_tables(waiting, promote_options="permissive")


def blank_texts(n: int) -> str:
    """Return the warning that `n` texts are blank."""
    return f"{n:,} blank text{'' if n == 1 else 's'} answered like any other; the answer says nothing"


class _Columns:
    """Puts answers beside what the input's rows held."""

    def __init__(self, engine: Engine, text: str, scores: bool, ending: str) -> None:
        self._per_token = engine.task.per_token
        self._many = bool(getattr(engine.task, "multi_label", False))
        self._labels = engine.labels
        self._text = text
        self._scores = scores and not self._per_token
        self._apart = apart = ending != ".jsonl"
        self._fixed = ending in (".csv", ".tsv")
        self._first: set[str] = set()
        names = {"spans"} if self._per_token else {"labels" if self._many else "label", "score"}
        if self._scores:
            names |= {f"score.{label}" for label in self._labels} if apart else {"scores"}
        self._taken = names

    def check(self, names: Sequence[str]) -> None:
        """Refuse a column that comes up after the heading is written.

        Raises:
            Conflict: there is one, and the output has a heading.
        """
        self._first = self._first or set(names)
        if self._fixed and (new := sorted(set(names) - self._first)):
            raise Conflict(
                f"the column {new[0].removeprefix(_META)!r} comes up after {ROWS_PER_CHUNK} rows or more: a csv "
                "can't take it any more", hint="write .jsonl or .parquet",
            )  # fmt: skip

    def rows(self, table: pa.Table, texts: Sequence[str], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Return the rows of the output."""
        others = {
            self._free(name.removeprefix(_META)): table.column(name).to_pylist()
            for name in table.schema.names
            if name.startswith(_META)
        }
        given = {self._free(self._text): texts, **others}
        names = list(given)
        return [
            {**dict(zip(names, row, strict=True)), **self._answer(prediction)}
            for *row, prediction in zip(*given.values(), predictions, strict=True)
        ]

    def _free(self, name: str) -> str:
        return f"input.{name}" if name in self._taken else name

    def _answer(self, prediction: Prediction) -> dict[str, Any]:
        if self._per_token:
            spans = [
                {"start": span.start, "end": span.end, "label": span.label, "text": span.text,
                 "score": round(span.score, DECIMALS)}
                for span in prediction.spans
            ]  # fmt: skip
            return {"spans": spans}
        named: dict[str, Any] = {"labels": list(prediction.labels)} if self._many else {"label": prediction.label}
        answer = {**named, "score": round(prediction.score, DECIMALS)}
        if self._scores:
            each = {label: round(score, DECIMALS) for label, score in prediction.scores.items()}
            answer |= {f"score.{label}": score for label, score in each.items()} if self._apart else {"scores": each}
        return answer


class _Counter:
    """Counts rows and tells of progress."""

    def __init__(self, input: Path, on_progress: Callable[[Progress], None], total: int) -> None:
        self._input = input
        self._on_progress = on_progress
        self._total = total
        self._started = time.monotonic()
        self.resumed = 0
        self.done = 0
        self.abstained = 0
        self.blank = 0

    def add(self, done: int, predictions: Sequence[Prediction]) -> None:
        """Take note that `done` rows of the file are answered, these predictions the last of them."""
        self.done = done
        self.abstained += sum(not (prediction.labels or prediction.spans) for prediction in predictions)
        total = max(self._total, done) if self._total else 0
        rate = self._rate()
        left = (total - done) / rate if total and rate else None
        self._on_progress(Progress("predict", "answering", done=done, total=total, rate=rate, left_s=left))

    def predicted(self, output: Path | None, answers: Sequence[Mapping[str, Any]]) -> Predicted:
        """Return the summary, and warn of what it should not hold."""
        self.warn()
        self.done = max(self.done, self.resumed)
        return Predicted(
            rows=self.done, resumed=self.resumed, seconds=time.monotonic() - self._started, rows_per_s=self._rate(),
            output=output, abstained=self.abstained, blank=self.blank, answers=answers,
        )  # fmt: skip

    def warn(self) -> None:
        """Warn of blank texts, or of no rows at all, once all rows are read."""
        if not max(self.done, self.resumed):
            _log.warning("%s: 0 rows answered, for there are none in it", self._input)
        if self.blank:
            _log.warning("%s: %s", self._input, blank_texts(self.blank))

    def _rate(self) -> float:
        return max(0, self.done - self.resumed) / max(time.monotonic() - self._started, 1e-9)


@dataclass(frozen=True, slots=True)
class _Scan:
    """What one pass over the bytes of the input tells."""

    digest: str
    n_rows: int
    """About how many rows it has; 0 where only reading it could tell."""

    @classmethod
    def of(cls, path: Path) -> _Scan:
        suffix = path.suffix.lower()
        if suffix in (".parquet", ".pq"):
            import pyarrow.parquet as pq

            return cls(files.digest_file(path), int(pq.read_metadata(path).num_rows))
        quoted = suffix in (".csv", ".tsv", ".tab")
        if not quoted and suffix not in (".jsonl", ".ndjson", ".txt"):
            return cls(files.digest_file(path), 0)
        whole = hashlib.sha256()
        n_rows, inside, last = 0, 0, b"\n"
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                whole.update(block)
                data = np.frombuffer(block, np.uint8)
                ends = data == ord("\n")
                if quoted:  # a line end between quotes ends no row
                    quotes = inside + np.cumsum(data == ord('"'))
                    ends &= quotes % 2 == 0
                    inside = int(quotes[-1]) % 2
                n_rows += int(ends.sum())
                last = block[-1:]
        return cls(whole.hexdigest(), max(0, n_rows + (last != b"\n") - quoted))


def _same(journal: Path, settings: Mapping[str, Any]) -> bool:
    try:
        return bool(files.read_json(journal) == settings)
    except (NotFound, CorruptBundle):
        return False
