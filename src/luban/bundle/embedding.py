"""Vectors of texts, out of the graph that labels them; see `luban.bundle.pooled`.

Legend: B windows in a batch, V the vectors' width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.bundle import passes
from luban.bundle.engine import BEGIN_TOKENS, MAX_BATCH_TOKENS
from luban.models.windows import pad

if TYPE_CHECKING:
    from luban.bundle.engine import Engine
    from luban.bundle.runtimes import Runner
    from luban.records import Encoded


class Embedder:
    """Answers texts with vectors, in an engine's place."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        """Prepare it; `runner` gives the vectors (B, V) of B windows."""
        self._engine = engine
        self._runner = runner
        self.processor = engine.processor

    def checked(self, rows: Sequence[Any]) -> list[Any]:
        """Return rows that can be tokenised; see `Engine.checked`."""
        return self._engine.checked(rows)

    def encode(self, rows: Sequence[Any]) -> Encoded:
        """Tokenise rows; see `Engine.encode`."""
        return self._engine.encode(rows)

    def answer(self, rows: Sequence[Any]) -> tuple[list[Any], Encoded]:
        """Return a vector a row, (V,) float32 of length 1, and what the rows were tokenised to.

        A row that was cut into windows has the mean of theirs, by their tokens.
        """
        encoded = self._engine.task.encode(rows, self.processor)
        lengths, every = encoded.lengths, np.arange(len(encoded))
        windows: np.ndarray | None = None
        for some in passes.cheapest(every, lengths, pass_tokens=MAX_BATCH_TOKENS, begin_tokens=BEGIN_TOKENS):
            batch = pad(encoded, some, self.processor.pad_id)
            found = self._runner.run(batch["input_ids"], batch["attention_mask"])
            if windows is None:
                windows = np.zeros((len(encoded), found.shape[1]), np.float32)
            windows[some] = found
        assert windows is not None
        vectors = np.zeros((encoded.n_rows, windows.shape[1]), np.float32)
        np.add.at(vectors, encoded.rows, windows * lengths[:, None].astype(np.float32))
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return list(vectors), encoded
