"""The engine: an opened bundle that answers. Every answer of Luban, in evaluation, in a file or served, is made here.

Tokenise, batch by length, run, put back in order, decode. No torch, unless the bundle's runtime is torch.

An answer depends on its own text alone. How a text is batched with others can change the last bits of its logits, by
about 1e-6 as floating-point sums are grouped otherwise; batching is decided by the tokens of the rows given together,
so that the same call gives the same bits. Rows with the same tokens are answered once, and alike to the bit. (A graph
whose activations are quantised batch by batch is an exception to the first: see `quantise`, `how: dynamic`.)

Legend: N rows, W windows, T tokens of all windows, B windows in a batch, L tokens in the longest, K outputs.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban import files
from luban.bundle import passes, runtimes, seal
from luban.bundle.memory import Memory
from luban.bundle.reference import reference
from luban.errors import BadRequest
from luban.models.processor import Processor
from luban.models.windows import pad, token_places
from luban.records import Calibration, Encoded, Explanation, Prediction

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner
    from luban.tasks import Task

MAX_BATCH_TOKENS = 384
"""Padded tokens in one run. From 256 to 1024 MiniLM's rate in int8 changes by 3%, and is best here; fewer would begin
too many runs, and more would be shared less evenly between threads."""
BEGIN_TOKENS = 8
"""Tokens whose time it takes to begin a run: 7 measured for MiniLM in float, 10 to 12 in int8."""
_AHEAD = 2
"""Chunks that are tokenised or run while an earlier one's answers are used."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Company:
    """Counts calls that are inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n = 0

    def __enter__(self) -> int:
        """Come in, and return how many others are here."""
        with self._lock:
            self._n += 1
            return self._n - 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._n -= 1


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Answers texts. Open one with `Engine.open`, and share it between threads as you like."""

    name: str
    """The bundle's name: that of the project which made it."""
    task: Task
    processor: Processor
    runner: Runner
    calibration: Calibration
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the task's decoding needs beside the logits, such as transitions between tags."""
    digest: str = ""
    """SHA-256 of the bundle; empty before it is sealed."""
    text_column: str = "text"
    """Column that held the text in the data which the model was trained with."""
    memory: Memory | None = None
    """Answers of `predict` that need not be made again."""
    company: Company = field(default_factory=Company, repr=False, compare=False)
    """Calls that are inside just now."""
    vectors: Runner | None = None
    """Gives vectors (B, V) of windows, where that was asked for and can be had; see `luban.bundle.pooled`."""

    @classmethod
    def open(
        cls,
        folder: Path | str,
        threads: int = 0,
        check: bool = True,
        remember: int = 0,
        vectors: bool = False,
        graphs: Path | None = None,
    ) -> Engine:
        """Open a bundle.

        Args:
            folder: the sealed folder.
            threads: threads of the matrix products; 0 uses every core.
            check: compare every file with the manifest, while the graph is opened. Without it, a bundle that was
                damaged answers something, or fails somewhere.
            remember: answers of `predict` that are kept, so that the same row is not answered twice; 0 keeps none.
            vectors: open the graph so that it gives vectors too, where it can; see `luban.bundle.pooled`.
            graphs: folder in which graphs are kept that were made ready for this machine, of the runtime `onnx`; see
                `luban.bundle.prepared`. None keeps none.

        Raises:
            BadRequest: `remember` is no whole number from 0 on.
            NotFound: the folder is no bundle.
            CorruptBundle: a file is missing, added, changed, or can't be used; the message names it.
            MissingExtra: the bundle's runtime is not installed.
        """
        if not isinstance(remember, int) or isinstance(remember, bool) or remember < 0:
            raise BadRequest(f"remember: got {remember!r}, wanted a whole number from 0 on", hint="0 keeps no answers")
        folder = Path(folder)
        with ThreadPoolExecutor(2) as aside:
            # Names, kinds and sizes first, so that no pipe or endless file is opened. Then all at once: hashing and
            # opening a graph take about as long, and neither holds up other threads.
            checking = aside.submit(files.verify_contents, folder, files.survey(folder)) if check else None
            try:
                parts = seal.read(folder, check=False)
                both = vectors and parts.runtime["kind"] == "onnx" and not parts.task.per_token
                opening = aside.submit(_opened, folder, parts.runtime, threads, vectors=both, graphs=graphs)
                processor = Processor.from_dir(folder)
                runner, of_vectors = opening.result()
            finally:
                if checking is not None:
                    checking.result()  # a damaged file is the error, whatever it made of the opening
        return cls(
            name=parts.bundle.name, task=parts.task, processor=processor, runner=runner,
            calibration=parts.calibration, facts=parts.facts, digest=parts.bundle.digest, text_column=parts.text_column,
            memory=Memory(remember) if remember > 0 else None, vectors=of_vectors,
        )  # fmt: skip

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the model's outputs."""
        return self.task.labels

    def calibrated(self, calibration: Calibration) -> Engine:
        """Return the same engine with another calibration and no memory; model and processor are shared."""
        return dataclasses.replace(self, calibration=calibration, memory=None)

    def predict(self, rows: Sequence[Any]) -> list[Prediction]:
        """Answer rows, each a text, or for tagging a text or a list of tokens.

        Returns:
            One prediction a row, in their order. Half characters (lone surrogates) are read as U+FFFD.

        Raises:
            BadRequest: a row is of another type; the message has its index, from 0.
        """
        rows = self.checked(rows)
        if not rows:
            return []
        return self._answered(rows) if self.memory is None else self.memory.answer(rows, self._answered)

    def _answered(self, rows: Sequence[Any]) -> list[Prediction]:
        return self.answer(rows)[0]

    def answer(self, rows: Sequence[Any]) -> tuple[list[Prediction], Encoded]:
        """Answer rows that `checked` returned, and tell what they were tokenised to; nothing is remembered."""
        encoded = self.task.encode(rows, self.processor)
        return self.task.decode(self.logits(encoded), encoded, rows, self.calibration, self.facts), encoded

    def encode(self, rows: Sequence[Any]) -> Encoded:
        """Tokenise rows as `predict` does.

        Raises:
            BadRequest: as `predict`.
        """
        return self.task.encode(self.checked(rows), self.processor)

    def logits(self, encoded: Encoded) -> np.ndarray:
        """Return logits (W, K), or (T, K) for a task that answers tokens: float32, in the order of the windows."""
        per_token = self.task.per_token
        logits = np.zeros((len(encoded.ids) if per_token else len(encoded), self.task.n_outputs), np.float32)
        alike = passes.first_alike(encoded)
        windows = np.flatnonzero(alike == np.arange(len(alike)))
        batches = passes.cheapest(windows, encoded.lengths, pass_tokens=MAX_BATCH_TOKENS, begin_tokens=BEGIN_TOKENS)

        def run(windows: np.ndarray) -> None:
            batch = pad(encoded, windows, self.processor.pad_id)
            found = self.runner.run(batch["input_ids"], batch["attention_mask"])
            if per_token:
                places, real = token_places(encoded, windows)
                logits[places[real]] = found[real]
            else:
                logits[windows] = found

        with self.company as n_others:
            if len(batches) == 1 or self._n_callers == 1 or n_others:  # others keep the cores busy
                for batch in batches:
                    run(batch)
            else:
                # The longest first, so that no thread is left with a long one at the end.
                list(self._callers.map(run, reversed(batches)))
        if len(windows) < len(alike):
            _copy(logits, encoded, alike, per_token=per_token)
        return logits

    def predict_chunks(self, chunks: Iterable[Sequence[Any]]) -> Iterator[list[Prediction]]:
        """Answer chunks of rows one after the other, each as `predict` does, with the same bits.

        The runtime does not wait for what goes on around it: while one chunk runs, the next is tokenised, and what the
        caller does with the last one's answers goes on beside both. Two chunks more than the one that was asked for are
        read ahead.

        Raises:
            BadRequest: as `predict`, when the chunk's answers are asked for.
        """
        with ThreadPoolExecutor(1) as tokenising, ThreadPoolExecutor(1) as running:

            def begin(chunk: Sequence[Any]) -> Future[tuple[list[Any], Encoded, np.ndarray]]:
                tokenised = tokenising.submit(self._tokenised, chunk)
                return running.submit(self._ran, tokenised)

            waiting: deque[Future[tuple[list[Any], Encoded, np.ndarray]]] = deque()
            try:
                for chunk in chunks:
                    waiting.append(begin(chunk))
                    if len(waiting) > _AHEAD:
                        yield self._decoded(waiting.popleft())
                while waiting:
                    yield self._decoded(waiting.popleft())
            finally:
                for future in waiting:
                    future.cancel()

    def _tokenised(self, rows: Sequence[Any]) -> tuple[list[Any], Encoded]:
        checked = self.checked(rows)
        return checked, self.task.encode(checked, self.processor)

    def _ran(self, tokenised: Future[tuple[list[Any], Encoded]]) -> tuple[list[Any], Encoded, np.ndarray]:
        rows, encoded = tokenised.result()
        return rows, encoded, self.logits(encoded)

    def _decoded(self, ran: Future[tuple[list[Any], Encoded, np.ndarray]]) -> list[Prediction]:
        rows, encoded, logits = ran.result()
        return self.task.decode(logits, encoded, rows, self.calibration, self.facts) if rows else []

    def explain(self, text: str, label: str | None = None, *, rows: int = 128) -> Explanation:
        """Return why a text gets its answer: what each of its words adds to it; see `luban.bundle.explain`.

        Args:
            text: one text; for tagging, too, as a text and not as tokens.
            label: explain this one, given or not; without it every label, or entity, that the text gets, and where it
                gets none the likeliest label.
            rows: shortened texts that are answered for it, at most: the more, the finer, and the longer it takes.

        Returns:
            One reason a label or entity, with a weight in nats for each word or stretch of words.

        Raises:
            BadRequest: this can't be explained: no text, no such label, a task of another kind.
        """
        from luban.bundle import explain

        return explain.explain(self, text, label, rows)

    def reference(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return what later rows are compared with to see drift: see `luban.bundle.reference`."""
        rows = self.checked(rows)
        encoded = self.task.encode(rows, self.processor)
        predictions = self.task.decode(self.logits(encoded), encoded, rows, self.calibration, self.facts)
        return reference(encoded, predictions, self.labels, self.processor.vocabulary_size)

    @property
    def _n_callers(self) -> int:
        return runtimes.n_callers(self.runner.threads)

    @cached_property
    def _callers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._n_callers, thread_name_prefix="luban-engine")

    def checked(self, rows: Sequence[Any]) -> list[Any]:
        """Return rows that can be tokenised: half characters (lone surrogates) are U+FFFD in them.

        Raises:
            BadRequest: one can't, or `rows` is a text itself.
        """
        wanted = "a text or a list of tokens" if self.task.per_token else "a text"
        if isinstance(rows, str | bytes):
            raise BadRequest("rows: got one text, wanted a list of them", hint="put it in brackets: predict([text])")
        checked = list(rows)
        for index, row in enumerate(checked):
            if isinstance(row, str):
                if not row.isascii():
                    checked[index] = _whole(row)
            elif self.task.per_token and isinstance(row, list | tuple) and all(isinstance(unit, str) for unit in row):
                checked[index] = [_whole(unit) for unit in row]
            else:
                raise BadRequest(f"row {index}: got {_told(row)}, wanted {wanted}", hint="rows are counted from 0")
        return checked


def _opened(
    folder: Path, facts: Mapping[str, Any], threads: int, *, vectors: bool, graphs: Path | None
) -> tuple[Runner, Runner | None]:
    """Return what gives logits, and what gives vectors where they were asked for and can be had."""
    if graphs is not None and facts["kind"] == "onnx":
        from luban.bundle import widths

        if found := widths.open(folder, facts, threads, graphs, vectors=vectors):
            return found
    if not vectors:
        return runtimes.open(facts["kind"], folder, facts, threads), None
    from luban.bundle import pooled

    return pooled.open(folder, facts, threads)


def _copy(logits: np.ndarray, encoded: Encoded, alike: np.ndarray, *, per_token: bool) -> None:
    """Give windows the logits of the first that has their tokens."""
    if not per_token:
        logits[:] = logits[alike]
        return
    starts, lengths = encoded.offsets[:-1], encoded.lengths
    for window in np.flatnonzero(alike != np.arange(len(alike))):
        length, source, target = lengths[window], starts[alike[window]], starts[window]
        logits[target : target + length] = logits[source : source + length]


def _whole(text: str) -> str:
    """Return a text in which half characters, which no tokeniser takes, are U+FFFD: as many characters as before."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_REPLACEMENT if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _told(row: Any) -> str:
    if isinstance(row, list | tuple):
        kinds = sorted({type(unit).__name__ for unit in row} - {"str"})
        return f"a list with {', '.join(kinds)} in it" if kinds else "a list of tokens"
    return "nothing (None)" if row is None else f"a value of the type {type(row).__name__}"
