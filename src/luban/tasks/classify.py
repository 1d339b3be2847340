"""Classify: one label a text, or any number of labels a text.

Legend: B windows in a batch, W windows, N rows, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luban.metrics import calibrate as calibration_metrics
from luban.metrics.classify import classify_scores
from luban.models.windows import IGNORED
from luban.records import Calibration, Encoded, LabelScores, Prediction, Score

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from luban.models.processor import Processor


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the task `classify`."""

    multi_label: bool = False
    """A text may have any number of labels, none included."""
    long_text: Literal["truncate", "head_tail", "chunk"] = "truncate"
    """Text beyond the window: cut off, kept as its head and tail, or read in windows whose logits are averaged."""
    stride: int = 0
    """For `chunk`: tokens that neighbouring windows share."""


def scores(options: Options) -> tuple[str, ...]:
    """Return the names of the scores that `Classify.score` gives, the main one first."""
    shared = ("weighted_f1", "macro_precision", "macro_recall", "auroc")
    if options.multi_label:
        return ("micro_f1", "macro_f1", "subset_accuracy", "hamming", "label_ranking", *shared)
    return ("accuracy", "macro_f1", "micro_f1", "ece", *shared)


def make(options: Options, labels: Sequence[str]) -> Classify:
    """Return the task over these labels."""
    return Classify(options, tuple(labels))


class Classify:
    """The task `classify`; see `luban.tasks.Task` for what each method promises."""

    kind = "classify"
    per_token = False

    def __init__(self, options: Options, labels: tuple[str, ...]) -> None:
        self.options = options
        self.labels = labels
        self.multi_label = options.multi_label
        self.main_score = "micro_f1" if options.multi_label else "accuracy"
        self._index = {label: index for index, label in enumerate(labels)}

    @property
    def n_outputs(self) -> int:
        """K: one logit a label."""
        return len(self.labels)

    def encode(self, rows: pa.Table | Sequence[str], processor: Processor) -> Encoded:
        """Tokenise rows; of a Dataset's table the targets are set too."""
        if not hasattr(rows, "column"):
            return processor.encode_texts(rows)
        encoded = processor.encode_texts(rows.column("text").to_pylist())
        targets = self._targets(rows.column("labels").to_pylist())
        return Encoded(encoded.ids, encoded.offsets, encoded.rows, encoded.n_rows, targets=targets[encoded.rows])

    def _targets(self, labels: Sequence[Sequence[str]]) -> np.ndarray:
        """Return (N,) label indices, or (N, K) zeros and ones for multi-label.

        A label that the model does not know, as rows to judge it by may have, is -100, or left out.
        """
        if not self.multi_label:
            return np.fromiter((self._index.get(row[0], IGNORED) for row in labels), np.int64, len(labels))
        targets = np.zeros((len(labels), len(self.labels)), np.float32)
        for row, names in enumerate(labels):
            for name in names:
                if name in self._index:
                    targets[row, self._index[name]] = 1.0
        return targets

    def head(self, width: int, *, dropout: float, pooling: str) -> torch.nn.Module:
        """Return a pooled linear head."""
        from luban.models.heads import PooledHead

        return PooledHead(width, self.n_outputs, dropout=dropout, pooling=pooling)

    def loss(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        mask: torch.Tensor,
        head: torch.nn.Module,
        weights: torch.Tensor | None = None,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Return cross entropy, or binary cross entropy over labels for multi-label."""
        from torch.nn import functional

        if not self.multi_label:
            return functional.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
        smooth = targets * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)

    def gold(self, table: pa.Table) -> list[tuple[str, ...]]:
        """Return each row's labels."""
        return [tuple(labels) for labels in table.column("labels").to_pylist()]

    def inputs(self, table: pa.Table) -> list[str]:
        """Return the rows in the form in which a user gives them to the engine."""
        texts: list[str] = table.column("text").to_pylist()
        return texts

    def facts(self, head: torch.nn.Module) -> dict[str, Any]:
        """Return nothing: the graph holds everything."""
        return {}

    def decode(
        self,
        logits: np.ndarray,
        encoded: Encoded,
        rows: Sequence[Any],
        calibration: Calibration,
        facts: Mapping[str, Any],
    ) -> list[Prediction]:
        """Return each row's labels and probabilities; the logits of a long row's windows are averaged."""
        probabilities = self.probabilities(logits, encoded, calibration)
        if self.multi_label:
            return self._decode_many(probabilities, calibration)
        best = probabilities.argmax(1)
        top = probabilities[np.arange(len(best)), best]
        chosen = [(self.labels[index],) for index in best.tolist()]
        return [
            Prediction(labels if score >= calibration.abstain_below else (), LabelScores(self.labels, row))
            for labels, score, row in zip(chosen, top.tolist(), probabilities, strict=True)
        ]

    def _decode_many(self, probabilities: np.ndarray, calibration: Calibration) -> list[Prediction]:
        thresholds = np.array(calibration.thresholds or [0.5] * len(self.labels))
        predictions = []
        for row in probabilities:
            chosen = np.flatnonzero(row >= thresholds)
            ordered = chosen[np.argsort(-row[chosen], kind="stable")]
            predictions.append(Prediction(tuple(self.labels[i] for i in ordered), LabelScores(self.labels, row)))
        return predictions

    def probabilities(self, logits: np.ndarray, encoded: Encoded, calibration: Calibration) -> np.ndarray:
        """Return calibrated probabilities (N, K) for the logits (W, K) of the rows' windows."""
        pooled = pool_windows(logits, encoded) / calibration.temperature
        if self.multi_label:
            return 1 / (1 + np.exp(-np.clip(pooled, -60, 60)))
        exponents = np.exp(pooled - pooled.max(1, keepdims=True))
        probabilities: np.ndarray = exponents / exponents.sum(1, keepdims=True)
        return probabilities

    def calibrate(
        self,
        logits: np.ndarray,
        encoded: Encoded,
        gold: Sequence[tuple[str, ...]],
        *,
        temperature: bool,
        thresholds: str,
        wanted_precision: float,
        facts: Mapping[str, Any] | None = None,
    ) -> Calibration:
        """Choose temperature, then thresholds (multi-label) or the abstain threshold (single label)."""
        targets = self._targets(gold)
        pooled = pool_windows(logits, encoded)
        known = slice(None) if self.multi_label else targets != IGNORED
        fit = 1.0
        if temperature:
            fit = calibration_metrics.fit_temperature(pooled[known], targets[known], multi_label=self.multi_label)
        probabilities = self.probabilities(logits, encoded, Calibration(temperature=fit))
        if self.multi_label:
            chosen = (
                calibration_metrics.choose_thresholds(probabilities, targets)
                if thresholds == "f1"
                else np.full(len(self.labels), 0.5)
            )
            return Calibration(temperature=fit, thresholds=tuple(map(float, chosen)))
        below = 0.0
        if wanted_precision:
            right = probabilities.argmax(1) == targets
            below = calibration_metrics.abstain_threshold(probabilities.max(1), right, wanted_precision)
        return Calibration(temperature=fit, abstain_below=below)

    def score(
        self, gold: Sequence[tuple[str, ...]], predictions: Sequence[Prediction], *, intervals: bool = True
    ) -> dict[str, Score]:
        """Return accuracy, F1 and their kin."""
        return classify_scores(gold, predictions, self.labels, multi_label=self.multi_label, intervals=intervals)


def pool_windows(logits: np.ndarray, encoded: Encoded) -> np.ndarray:
    """Return (N, K) in float64: the mean over the windows of each row."""
    wide = logits.astype(np.float64)
    if len(encoded) == encoded.n_rows:
        return wide
    starts = np.flatnonzero(np.diff(encoded.rows, prepend=-1))
    counts = np.diff(np.append(starts, len(encoded)))
    return np.add.reduceat(wide, starts, axis=0) / counts[:, None]
