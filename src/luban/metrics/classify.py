"""Scores of classification, single-label and multi-label: accuracy, precision, recall, F1, AUROC, ranking.

Conventions, which are scikit-learn's where it has them: 0/0 is 0; a macro average is over the labels that occur in
the gold labels or in the predictions, seen ones and unseen ones alike. A row without an answer is wrong.

Legend: N rows, K labels (those of the model, then those that only gold or predictions have), R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luban.metrics.calibrate import ece, ece_score
from luban.metrics.interval import RESAMPLES, Floats, Interval, Rows, Statistic, bootstrap, on_logit_scale, wilson
from luban.records import LabelScores, Prediction, Score

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Gold labels and predictions as arrays."""

    labels: tuple[str, ...]
    """K names: the model's labels, then any that only gold or predictions have."""
    gold: Bools
    """(N, K) which labels are right."""
    given: Bools
    """(N, K) which labels were predicted."""
    probabilities: NDArray[np.float64] | None
    """(N, M) in the order of the model's M labels, the first of the K; None where predictions carry none."""
    multi_label: bool

    @classmethod
    def collect(
        cls,
        gold: Sequence[Sequence[str]],
        predictions: Sequence[Prediction],
        labels: Sequence[str],
        multi_label: bool,
        *,
        ranked: bool = True,
    ) -> Answers:
        """Gather rows into arrays; without `ranked` probabilities are left out.

        Raises:
            ValueError: there are not as many predictions as gold rows.
        """
        if len(gold) != len(predictions):
            raise ValueError(f"{len(gold)} gold rows but {len(predictions)} predictions: wanted one a row")
        seen = {label for row in gold for label in row}
        seen.update(label for prediction in predictions for label in prediction.labels)
        names = (*labels, *sorted(seen.difference(labels)))
        given = [prediction.labels if multi_label else prediction.labels[:1] for prediction in predictions]
        return cls(
            names,
            _indicator(gold, names),
            _indicator(given, names),
            probabilities(predictions, labels) if ranked else None,
            multi_label,
        )

    @property
    def n(self) -> int:
        """N, the number of rows."""
        return len(self.gold)

    @property
    def hits(self) -> Bools:
        """(N,) rows whose given labels are exactly the gold ones."""
        result: Bools = (self.gold == self.given).all(axis=1)
        return result

    def counts(self) -> Bools:
        """Return per-row counts (N, 3K + 1): hits by label, given by label, gold by label, and exactly right."""
        return np.concatenate([self.gold & self.given, self.given, self.gold, self.hits[:, None]], axis=1)

    def rows(self) -> Rows:
        """Return the counts with equal rows kept once."""
        if self.multi_label:
            return Rows.group(self.counts())
        # A row is told by its gold and its given label: far cheaper to group than its counts.
        none = len(self.labels)
        gold, given = (np.where(part.any(axis=1), part.argmax(axis=1), none) for part in (self.gold, self.given))
        _, first, kind_of = np.unique(gold * (none + 1) + given, return_index=True, return_inverse=True)
        some = Answers(self.labels, self.gold[first], self.given[first], None, False)
        return Rows(some.counts().astype(np.float64), kind_of.ravel())


def _indicator(rows: Sequence[Sequence[str]], names: Sequence[str]) -> Bools:
    index = {name: position for position, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)), np.bool_)
    pairs = [(row, index[label]) for row, labels in enumerate(rows) for label in labels]
    if pairs:
        where = np.asarray(pairs, np.int64)
        matrix[where[:, 0], where[:, 1]] = True
    return matrix


def probabilities(predictions: Sequence[Prediction], labels: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the probabilities of predictions, (N, K) in the order of `labels`, or None where a row has none."""
    if not predictions or not labels:
        return None
    shared: dict[int, bool] = {}
    wanted = tuple(labels)
    matrix = np.empty((len(predictions), len(wanted)), np.float64)
    for position, prediction in enumerate(predictions):
        scores = prediction.scores
        if isinstance(scores, LabelScores):
            # The names are one object for all rows of a model, so they are compared once and not once a row.
            key = id(scores.labels)
            if key not in shared:
                shared[key] = tuple(scores.labels) == wanted
            if shared[key]:
                matrix[position] = scores.row
                continue
        if not scores:
            return None
        matrix[position] = [scores.get(label, 0.0) for label in wanted]
    return matrix


def by_label(hits: Floats, given: Floats, gold: Floats) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 from counts of one shape; 0/0 is 0."""
    return _ratio(hits, given), _ratio(hits, gold), _ratio(2 * hits, given + gold)


def averages(hits: Floats, given: Floats, gold: Floats) -> dict[str, Floats]:
    """Return micro, macro and weighted precision, recall and F1 from counts (..., K), each (...,)."""
    result: dict[str, Floats] = {}
    present = (given + gold) > 0
    n_present = np.maximum(present.sum(axis=-1), 1)
    weights = gold / np.maximum(gold.sum(axis=-1, keepdims=True), 1)
    micro = by_label(hits.sum(axis=-1), given.sum(axis=-1), gold.sum(axis=-1))
    for name, values, pooled in zip(("precision", "recall", "f1"), by_label(hits, given, gold), micro, strict=True):
        result[f"macro_{name}"] = values.sum(axis=-1) / n_present
        result[f"weighted_{name}"] = (values * weights).sum(axis=-1)
        result[f"micro_{name}"] = pooled
    return result


def _ratio(above: Floats, below: Floats) -> Floats:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def classify_scores(
    gold: Sequence[tuple[str, ...]],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    multi_label: bool,
    intervals: bool = True,
) -> dict[str, Score]:
    """Return the headline scores of classification.

    Single label: accuracy, macro_f1, weighted_f1, micro_f1, macro_precision, macro_recall; with probabilities auroc
    and ece; where some rows have no answer, coverage (share answered) and selective_accuracy (accuracy on those).
    Multi-label: micro_f1, macro_f1, weighted_f1, macro_precision, macro_recall, subset_accuracy, hamming (loss, lower
    is better); with probabilities auroc and label_ranking, neither of which depends on thresholds.

    Args:
        gold: the right labels of each row.
        predictions: one a row.
        labels: the model's labels.
        multi_label: a row may have any number of labels.
        intervals: measure intervals; without them low and high equal the value.

    Raises:
        ValueError: there are not as many predictions as gold rows.
    """
    answers = Answers.collect(gold, predictions, labels, multi_label)
    return _counted(answers, intervals) | _ranked(answers, intervals)


_SINGLE = ("accuracy", "macro_f1", "weighted_f1", "micro_f1", "macro_precision", "macro_recall")
_MULTI = ("micro_f1", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "subset_accuracy", "hamming")


def classify_statistic(n_labels: int, multi_label: bool) -> Statistic:
    """Return the function from sums of counts (R, 3K + 1) over rows to the scores that are functions of counts."""
    names = _MULTI if multi_label else _SINGLE

    def statistic(sums: Floats, n: int) -> Mapping[str, Floats]:
        hits, given, right = (sums[:, part * n_labels : (part + 1) * n_labels] for part in range(3))
        values = averages(hits, given, right)
        values["accuracy"] = values["subset_accuracy"] = sums[:, -1] / max(n, 1)
        wrong = given.sum(axis=1) + right.sum(axis=1) - 2 * hits.sum(axis=1)
        values["hamming"] = wrong / max(n * n_labels, 1)
        return {name: values[name] for name in names}

    return statistic


def _counted(answers: Answers, intervals: bool) -> dict[str, Score]:
    """Return the scores that are functions of counts."""
    n = answers.n
    if not n:
        return {name: Score(0.0, 0.0, 1.0, 0) for name in (_MULTI if answers.multi_label else _SINGLE)}
    found = bootstrap(
        answers.rows(),
        classify_statistic(len(answers.labels), answers.multi_label),
        resamples=RESAMPLES if intervals else 0,
    )
    scores = {name: _score(interval, n, intervals) for name, interval in found.items()}
    scores["subset_accuracy" if answers.multi_label else "accuracy"] = _share(int(answers.hits.sum()), n, intervals)
    answered = answers.given.any(axis=1)
    if not answers.multi_label and answered.all():
        scores["micro_f1"] = scores["accuracy"]  # the same quantity, so the same interval
    elif not answers.multi_label:
        scores["coverage"] = _share(int(answered.sum()), n, intervals)
        scores["selective_accuracy"] = _share(int(answers.hits[answered].sum()), int(answered.sum()), intervals)
    return scores


def _score(found: Interval, n: int, intervals: bool) -> Score:
    value = float(found.value)
    return found.score(n) if intervals else Score(value, value, value, n)


def _share(successes: int, n: int, intervals: bool) -> Score:
    score = wilson(successes, n)
    return score if intervals else Score(score.value, score.value, score.value, n)


def _ranked(answers: Answers, intervals: bool) -> dict[str, Score]:
    """Return the scores that need probabilities; none where there are none."""
    if answers.probabilities is None:
        return {}
    n, n_known = answers.probabilities.shape
    gold = answers.gold[:, :n_known]
    scores: dict[str, Score] = {}
    area, deviation = auroc(gold, answers.probabilities)
    if area is not None:
        scores["auroc"] = on_logit_scale(area, deviation, n) if intervals else Score(area, area, area, n)
    if answers.multi_label:
        each = label_ranking(gold, answers.probabilities)
        mean, error = float(each.mean()), float(each.std() / np.sqrt(n))
        scores["label_ranking"] = on_logit_scale(mean, error, n) if intervals else Score(mean, mean, mean, n)
    else:
        best = answers.probabilities.argmax(axis=1)
        confidence, correct = answers.probabilities[np.arange(n), best], gold[np.arange(n), best]
        error = ece(confidence, correct)
        scores["ece"] = ece_score(confidence, correct) if intervals else Score(error, error, error, n)
    return scores


def classify_per_label(
    gold: Sequence[tuple[str, ...]],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    multi_label: bool,
    intervals: bool = True,
) -> dict[str, dict[str, Score]]:
    """Return label -> precision, recall, f1 and support (the gold rows of the label, as a Score without width).

    Precision's `n` is how often the label was given, the others' how often it is gold. Intervals of precision and
    recall are Wilson's, of F1 from resampling rows.
    """
    answers = Answers.collect(gold, predictions, labels, multi_label, ranked=False)
    return label_table(answers.labels, answers.rows(), intervals)


def label_table(labels: Sequence[str], rows: Rows, intervals: bool) -> dict[str, dict[str, Score]]:
    """Return the per-label scores of counts (N, 3K or wider): hits, given and gold by label."""
    n_labels = len(labels)

    def statistic(sums: Floats, n: int) -> Mapping[str, Floats]:
        hits, given, right = (sums[:, part * n_labels : (part + 1) * n_labels] for part in range(3))
        return {"f1": by_label(hits, given, right)[2]}

    f1 = bootstrap(rows, statistic, resamples=RESAMPLES if intervals else 0)["f1"]
    hits, given, right = rows.total()[0, : 3 * n_labels].reshape(3, n_labels).astype(np.int64)
    table: dict[str, dict[str, Score]] = {}
    for position, label in enumerate(labels):
        n_hits, n_given, n_gold = int(hits[position]), int(given[position]), int(right[position])
        value = float(f1.value[position])
        table[label] = {
            "precision": _share(n_hits, n_given, intervals),
            "recall": _share(n_hits, n_gold, intervals),
            "f1": f1.score(n_gold, position)
            if intervals and n_gold
            else Score(value, 0.0 if intervals else value, 1.0 if intervals else value, n_gold),
            "support": Score(float(n_gold), float(n_gold), float(n_gold), n_gold),
        }
    return table


def confusion(gold: NDArray[np.integer[Any]], given: NDArray[np.integer[Any]], n_labels: int) -> NDArray[np.int64]:
    """Return how often each gold label (row) was answered with each label (column).

    Args:
        gold: (N,) indices of the gold labels; -1 where the label is not one of the K.
        given: (N,) indices of the answers; -1 where there was none.
        n_labels: K.

    Returns:
        (K + 1, K + 1); the last row and column count the -1.
    """
    side = n_labels + 1
    cells = np.where(gold < 0, n_labels, gold) * side + np.where(given < 0, n_labels, given)
    return np.bincount(cells, minlength=side * side).reshape(side, side)


def auroc(gold: Bools, probabilities: NDArray[np.floating[Any]]) -> tuple[float | None, float]:
    """Return the area under the ROC curve, one label against the rest, averaged over labels, and its standard error.

    The error is DeLong's (DeLong et al. 1988) carried over to the average: each row's influence on every label's area
    is summed, so that labels measured on the same rows are not taken for independent.

    Args:
        gold: (N, K).
        probabilities: (N, K), or anything that ranks.

    Returns:
        The area, None where no label has both gold and other rows; and the standard error.
    """
    positives = gold.sum(axis=0)
    usable = np.flatnonzero((positives > 0) & (positives < len(gold)))
    if not len(usable):
        return None, 0.0
    influence = np.zeros(len(gold))
    total = 0.0
    for label in usable:
        is_gold = gold[:, label]
        area, own = _area(is_gold, probabilities[:, label])
        total += area
        influence += np.where(is_gold, (own - area) / is_gold.mean(), (own - area) / (1 - is_gold.mean()))
    deviation = float(np.sqrt(np.mean((influence / len(usable)) ** 2) / len(gold)))
    return total / len(usable), deviation


def _area(is_gold: Bools, scores: NDArray[np.floating[Any]]) -> tuple[float, NDArray[np.float64]]:
    """Return one label's area, and for each row the share of the other side that it ranks rightly against."""
    _, place = np.unique(scores, return_inverse=True)
    place = place.ravel()
    gold_at = np.bincount(place[is_gold], minlength=place.max() + 1)
    other_at = np.bincount(place[~is_gold], minlength=place.max() + 1)
    others_below = (np.cumsum(other_at) - other_at / 2)[place] / other_at.sum()
    golds_above = 1 - (np.cumsum(gold_at) - gold_at / 2)[place] / gold_at.sum()
    own = np.where(is_gold, others_below, golds_above)
    return float(own[is_gold].mean()), own


def label_ranking(gold: Bools, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return each row's label ranking precision: of the labels ranked as high as a gold one, the share that is gold.

    The mean over rows is label ranking average precision (Schapire and Singer 2000). Rows with no gold label, or with
    all of them, count as 1.

    Args:
        gold: (N, K).
        probabilities: (N, K), or anything that ranks.

    Returns:
        (N,) shares, the mean over each row's gold labels.
    """
    found = np.ones(len(gold))
    for row in np.flatnonzero(gold.any(axis=1) & ~gold.all(axis=1)):
        is_gold = gold[row]
        levels, place = np.unique(-probabilities[row], return_inverse=True)
        all_above = np.cumsum(np.bincount(place, minlength=len(levels)))
        gold_above = np.cumsum(np.bincount(place[is_gold], minlength=len(levels)))
        found[row] = (gold_above / all_above)[place[is_gold]].mean()
    return found
