"""Everything that is known of a model on the test rows, as one Report. Predictions in, Report out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.evaluate import mistakes
from luban.evaluate.compare import compare
from luban.evaluate.measure import Gold, Measure
from luban.evaluate.slices import slices
from luban.metrics.calibrate import BINS, reliability
from luban.metrics.interval import wilson
from luban.project.schema import EvaluateSection
from luban.records import Prediction, Report

if TYPE_CHECKING:
    import pyarrow as pa

_COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))
_PRECISIONS = (0.9, 0.95, 0.98, 0.99)


def report(
    *,
    name: str,
    task: str,
    labels: Sequence[str],
    multi_label: bool = False,
    gold: Gold,
    predictions: Sequence[Prediction],
    table: pa.Table,
    baselines: Mapping[str, Sequence[Prediction]],
    digests: Mapping[str, str],
    settings: EvaluateSection,
    calibration: Mapping[str, Any] | None = None,
    costs: Mapping[str, float] | None = None,
    lock: Mapping[str, Any] | None = None,
) -> Report:
    """Score predictions on test rows and find out where they are wrong.

    Args:
        name: the project's name.
        task: `classify` or `tag`.
        labels: the model's labels.
        multi_label: classify: a row may have any number of labels.
        gold: for each row what is right: a tuple of labels, or of Spans.
        predictions: the model's answers, one a row.
        table: the test rows, a Dataset's table; `text`, `row` and `meta.` columns are read.
        baselines: name -> predictions for the same rows.
        digests: SHA-256 of what was measured: `data`, `project`, `graph`.
        settings: the project's section `evaluate`.
        calibration: how it was calibrated: `temperature`, `thresholds` (label -> probability), `abstain_below`.
        costs: numbers named with their unit, such as `train_s`, `memory_mb`, `rows_per_s`; shown as they are.
        lock: facts of the project to show: base, rows of each split, settings; nested as it pleases.

    Returns:
        A Report whose `details` are JSON values: `main_score`, `labels`, `n_rows`, `gains`, `unheld` (the main
        score with no answer held back, where some are), `confusion`,
        `reliability`, `risk`, `slices`, `errors`, `suspects`, `entities`, `calibration`, `costs`, `lock`.

    Raises:
        ValueError: predictions, gold and table differ in their number of rows, or the task is not known.
    """
    measure = Measure(task, tuple(labels), multi_label)
    for what, rows in {"predictions": predictions, "rows of the table": table, **baselines}.items():
        if len(rows) != len(gold):
            raise ValueError(f"{len(rows)} {what} for {len(gold)} gold rows: one a row is wanted")
    # Baselines hold nothing back. What fine-tuning bought is a matter of models, not of a threshold.
    unheld = _unheld(measure, predictions)
    texts: list[str] = table.column("text").to_pylist()
    numbers: list[int] = (
        table.column("row").to_pylist() if "row" in table.column_names else list(range(1, len(texts) + 1))
    )
    details: dict[str, Any] = {
        "main_score": measure.main,
        "multi_label": multi_label,
        "labels": list(labels),
        "n_rows": len(gold),
        "gains": {other: compare(measure, gold, unheld, rows).to_json() for other, rows in baselines.items()},
        "confusion": mistakes.confusion(measure, gold, predictions, texts),
        "unheld": measure.scores(gold, unheld)[measure.main].to_json() if unheld is not predictions else None,
        **_curves(measure, gold, predictions),
        "slices": [part.to_json() for part in slices(measure, gold, predictions, table, settings.slices)],
        "errors": mistakes.hardest(measure, gold, predictions, texts, numbers),
        "suspects": mistakes.suspects(measure, gold, predictions, baselines, texts, numbers),
        "entities": mistakes.entity_fates(measure, gold, predictions),
        "calibration": dict(calibration or {}),
        "costs": dict(costs or {}),
        "lock": dict(lock or {}),
    }
    return Report(
        name=name,
        task=task,
        scores=measure.scores(gold, predictions),
        baselines={other: measure.scores(gold, answers) for other, answers in baselines.items()},
        per_label=measure.per_label(gold, predictions),
        digests=dict(digests),
        details=details,
    )


def _unheld(measure: Measure, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
    """Return what would be answered if nothing were held back as too unsure."""
    if not measure.answers_rows or all(one.labels or not one.scores for one in predictions):
        return predictions
    return [
        one if one.labels or not one.scores else replace(one, labels=(max(one.scores, key=one.scores.__getitem__),))
        for one in predictions
    ]


def _curves(measure: Measure, gold: Gold, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return how far probabilities can be trusted, and what holding back the least sure answers would do."""
    found = measure.confidence(gold, predictions)
    if found is None or not len(found[0]):
        return {"reliability": [], "risk": {}}
    confidence, correct = found
    bins = [part.to_json() for part in reliability(confidence, correct, bins=BINS if len(correct) >= 200 else 10)]
    if measure.multi_label:
        return {"reliability": bins, "risk": {}}
    order = np.argsort(-confidence, kind="stable")
    hits, sure = np.cumsum(correct[order]), confidence[order]
    n = len(order)
    curve = []
    for coverage in _COVERAGES:
        size = max(1, round(n * coverage))
        curve.append(
            {
                "coverage": size / n,
                "threshold": float(sure[size - 1]),
                "accuracy": wilson(int(hits[size - 1]), size).to_json(),
            }
        )
    shares = hits / np.arange(1, n + 1)
    # A threshold can only fall between two probabilities that differ.
    ends = np.append(sure[1:] != sure[:-1], True)
    reached = []
    for wanted in _PRECISIONS:
        places = np.flatnonzero((shares >= wanted) & ends)
        reached.append(
            {
                "precision": wanted,
                "coverage": float((places[-1] + 1) / n) if len(places) else 0.0,
                "threshold": float(sure[places[-1]]) if len(places) else None,
            }
        )
    return {"reliability": bins, "risk": {"curve": curve, "reached": reached}}
