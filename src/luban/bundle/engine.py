"""The engine: an opened bundle that answers. Every answer of Luban, in evaluation, in a file or served, is made here.

Tokenise, batch by length, run, put back in order, decode. No torch, unless the bundle's runtime is torch.

An answer depends on its own text alone. How a text is batched with others can change the last bits of its logits, by
about 1e-6 as floating-point sums are grouped otherwise; batching is decided by the lengths of the rows given together,
so that the same call gives the same bits.

Legend: N rows, W windows, T tokens of all windows, B windows in a batch, L tokens in the longest, K outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban import files
from luban.bundle import runtimes, seal
from luban.bundle.reference import reference
from luban.errors import BadRequest
from luban.models.processor import Processor
from luban.models.windows import cut_to_budget, pad, token_places
from luban.records import Calibration, Encoded, Prediction

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner
    from luban.tasks import Task

MAX_BATCH_TOKENS = 512
"""Padded tokens in one run. What 512 tokens activate stays in a core's cache: 4% faster than 1024 for MiniLM."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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

    @classmethod
    def open(cls, folder: Path | str, threads: int = 0, check: bool = True) -> Engine:
        """Open a bundle.

        Args:
            folder: the sealed folder.
            threads: threads of the matrix products; 0 uses every core.
            check: compare every file with the manifest, while the graph is opened. Without it, a bundle that was
                damaged answers something, or fails somewhere.

        Raises:
            NotFound: the folder is no bundle.
            CorruptBundle: a file is missing, added, changed, or can't be used; the message names it.
            MissingExtra: the bundle's runtime is not installed.
        """
        folder = Path(folder)
        with ThreadPoolExecutor(2) as aside:
            # Names, kinds and sizes first, so that no pipe or endless file is opened. Then all at once: hashing and
            # opening a graph take about as long, and neither holds up other threads.
            checking = aside.submit(files.verify_contents, folder, files.survey(folder)) if check else None
            try:
                parts = seal.read(folder, check=False)
                opening = aside.submit(runtimes.open, parts.runtime["kind"], folder, parts.runtime, threads)
                processor = Processor.from_dir(folder)
                runner = opening.result()
            finally:
                if checking is not None:
                    checking.result()  # a damaged file is the error, whatever it made of the opening
        return cls(
            name=parts.bundle.name, task=parts.task, processor=processor, runner=runner,
            calibration=parts.calibration, facts=parts.facts, digest=parts.bundle.digest, text_column=parts.text_column,
        )  # fmt: skip

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the model's outputs."""
        return self.task.labels

    def calibrated(self, calibration: Calibration) -> Engine:
        """Return the same engine with another calibration; model and processor are shared."""
        return dataclasses.replace(self, calibration=calibration)

    def predict(self, rows: Sequence[Any]) -> list[Prediction]:
        """Answer rows, each a text, or for tagging a text or a list of tokens.

        Returns:
            One prediction a row, in their order. Half characters (lone surrogates) are read as U+FFFD.

        Raises:
            BadRequest: a row is of another type; the message has its index, from 0.
        """
        rows = self._checked(rows)
        if not rows:
            return []
        encoded = self.task.encode(rows, self.processor)
        return self.task.decode(self.logits(encoded), encoded, rows, self.calibration, self.facts)

    def encode(self, rows: Sequence[Any]) -> Encoded:
        """Tokenise rows as `predict` does.

        Raises:
            BadRequest: as `predict`.
        """
        return self.task.encode(self._checked(rows), self.processor)

    def logits(self, encoded: Encoded) -> np.ndarray:
        """Return logits (W, K), or (T, K) for a task that answers tokens: float32, in the order of the windows."""
        per_token = self.task.per_token
        logits = np.zeros((len(encoded.ids) if per_token else len(encoded), self.task.n_outputs), np.float32)
        batches = cut_to_budget(np.arange(len(encoded)), encoded.lengths, MAX_BATCH_TOKENS)

        def run(windows: np.ndarray) -> None:
            batch = pad(encoded, windows, self.processor.pad_id)
            found = self.runner.run(batch["input_ids"], batch["attention_mask"])
            if per_token:
                places, real = token_places(encoded, windows)
                logits[places[real]] = found[real]
            else:
                logits[windows] = found

        if len(batches) == 1 or self._n_callers == 1:
            for windows in batches:
                run(windows)
        else:
            # The longest first, so that no thread is left with a long one at the end.
            list(self._callers.map(run, reversed(batches)))
        return logits

    def reference(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return what later rows are compared with to see drift: see `luban.bundle.reference`."""
        rows = self._checked(rows)
        encoded = self.task.encode(rows, self.processor)
        predictions = self.task.decode(self.logits(encoded), encoded, rows, self.calibration, self.facts)
        return reference(encoded, predictions, self.labels, self.processor.vocabulary_size)

    @property
    def _n_callers(self) -> int:
        # Two runs at once keep the cores busy where one run alone has steps that only one thread can do.
        return 1 if self.runner.threads == 1 else min(self.runner.threads, 4)

    @cached_property
    def _callers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._n_callers, thread_name_prefix="luban-engine")

    def _checked(self, rows: Sequence[Any]) -> list[Any]:
        """Return rows that can be tokenised.

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
