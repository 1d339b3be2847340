"""Tasks: what is predicted and how it is scored. One file a task.

A task's module has a frozen dataclass `Options`, and `make(options, labels) -> Task`. Encoding, decoding and scoring
are numpy; `head`, `loss` and the like import torch inside, so that a bundle is served without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from luban.plugins import Catalogue

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from luban.models.checkpoint import Parts
    from luban.models.processor import Processor
    from luban.records import Calibration, Encoded, Prediction, Score

catalogue = Catalogue("luban.tasks", "task", ignore=frozenset({"chain", "crf"}))


class Task(Protocol):
    """One kind of prediction over a fixed set of labels.

    Legend: B windows in a batch, L tokens in the longest of them, T tokens and W windows in an Encoded, N rows,
    K outputs (one a label, or one a BIO tag).
    """

    kind: str
    labels: tuple[str, ...]
    per_token: bool
    """Logits are (T, K), one row a token, rather than (W, K), one row a window."""
    n_outputs: int
    """K."""
    main_score: str
    """The score by which checkpoints are chosen unless the project says otherwise."""

    def encode(self, rows: pa.Table | Sequence[Any], processor: Processor) -> Encoded:
        """Tokenise rows: a Dataset's table (targets are then set), or texts or token lists as a user gives them."""
        ...

    def head(self, width: int, *, dropout: float, pooling: str) -> torch.nn.Module:
        """Return the layers that turn hidden states (B, L, width) and the mask (B, L) into logits (B, K) or (B, L, K).

        `pooling` is how the base makes one vector of a window, `mean` or `cls`. Where the head's last layer is linear
        over features that can be computed with the base frozen, it is called `output`, so that a probe can start it.
        """
        ...

    def loss(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        mask: torch.Tensor,
        head: torch.nn.Module,
        weights: torch.Tensor | None = None,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Return the mean loss (a scalar) of logits against targets; `weights` are one a label, (K,)."""
        ...

    def gold(self, table: pa.Table) -> list[Any]:
        """Return what is right for each row, in the form that `score` takes: a tuple of labels, or a tuple of Spans."""
        ...

    def inputs(self, table: pa.Table) -> list[Any]:
        """Return a Dataset's rows in the form in which a user gives them to the engine: texts or token lists."""
        ...

    def facts(self, head: torch.nn.Module) -> dict[str, Any]:
        """Return JSON values that `decode` needs and the graph does not hold (a CRF's transitions); often empty."""
        ...

    def decode(
        self,
        logits: np.ndarray,
        encoded: Encoded,
        rows: Sequence[Any],
        calibration: Calibration,
        facts: Mapping[str, Any],
    ) -> list[Prediction]:
        """Return one Prediction a row, merging the windows of long rows. `rows` is what was encoded."""
        ...

    def calibrate(
        self,
        logits: np.ndarray,
        encoded: Encoded,
        gold: Sequence[Any],
        *,
        temperature: bool,
        thresholds: str,
        wanted_precision: float,
        facts: Mapping[str, Any] | None = None,
    ) -> Calibration:
        """Choose temperature, thresholds and the abstain threshold on validation rows; `facts` as in `decode`."""
        ...

    def score(
        self, gold: Sequence[Any], predictions: Sequence[Prediction], *, intervals: bool = True
    ) -> dict[str, Score]:
        """Return the headline scores; without `intervals`, low and high equal the value (fast, for validation)."""
        ...


def make(kind: str, options: Mapping[str, Any], labels: Sequence[str]) -> Task:
    """Return a task by name, over these labels."""
    module = catalogue.load(kind)
    task: Task = module.make(module.Options(**options), labels)
    return task


def make_head(parts: Parts, width: int) -> torch.nn.Module:
    """Return the untrained head that a checkpoint's weights belong in."""
    from luban.models.heads import EARLY, EarlyHead

    task = make(parts.task["kind"], parts.task["options"], parts.task["labels"])
    head = task.head(width, dropout=0.0, pooling=parts.base.pooling)
    if told := parts.task.get(EARLY):
        head.add_module(EARLY, EarlyHead(task.head(width, dropout=0.0, pooling=parts.base.pooling), **told))
    return head
