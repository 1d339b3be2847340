"""Probabilities that mean what they say: how far off they are, and how to mend them on validation rows.

Legend: N rows, K labels, B bins, G thresholds tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luban.metrics.interval import Rows, bootstrap, sure, wilson_ends
from luban.records import Score

BINS = 15
_COLDEST, _HOTTEST = 0.05, 20.0
_SHARES = 100
_TRIED = np.arange(0.005, 0.9951, 0.005)


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same probability."""

    low: float
    """Least probability in the bin."""
    high: float
    n: int
    confidence: float
    """Mean probability of the answers; the middle of the bin where it is empty."""
    accuracy: float
    """Share of them that is right; 0 where it is empty."""
    accuracy_low: float
    """Lower end of the 95% interval of the accuracy (Wilson)."""
    accuracy_high: float

    def to_json(self) -> dict[str, float | int]:
        """Return the form in which a bin stands in report.json."""
        return asdict(self)


def softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities of (..., K) logits, in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled


def sigmoid(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities of independent logits, in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    small = np.exp(-np.abs(scaled))
    return np.where(scaled >= 0, 1 / (1 + small), small / (1 + small))


def _bins(confidence: NDArray[np.floating[Any]], bins: int, kind: Literal["width", "mass"]) -> NDArray[np.int64]:
    """Return (N,) the bin of each answer. Equal width: (0, 1/B], (1/B, 2/B], ...; equal mass: by rank."""
    if kind == "width":
        wide: NDArray[np.int64] = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        return wide
    order = np.empty(len(confidence), np.int64)
    order[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
    return order * bins // max(len(confidence), 1)


def ece(
    confidence: NDArray[np.floating[Any]],
    correct: NDArray[np.bool_],
    *,
    bins: int = BINS,
    kind: Literal["width", "mass"] = "width",
) -> float:
    """Return the expected calibration error: the mean distance of probability and accuracy (Naeini et al. 2015).

    Args:
        confidence: (N,) probabilities of the answers.
        correct: (N,) whether they are right.
        bins: how many bins.
        kind: bins of equal width, or of equally many answers.
    """
    gaps = np.bincount(_bins(confidence, bins, kind), weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(confidence), 1))


def ece_score(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> Score:
    """Return the expected calibration error over bins of equal width with its interval; (N,) arrays."""
    # Rounding probabilities to a thousandth makes rows alike, which makes resampling cheap and moves no end visibly.
    rounded = np.round(confidence * 1000).astype(np.int64)
    _, first, kind_of = np.unique(rounded * 2 + correct, return_index=True, return_inverse=True)
    gaps = np.zeros((len(first), BINS))
    gaps[np.arange(len(first)), _bins(confidence[first], BINS, "width")] = rounded[first] / 1000 - correct[first]
    found = bootstrap(Rows(gaps, kind_of.ravel()), lambda sums, n: {"ece": np.abs(sums).sum(axis=1) / max(n, 1)})["ece"]
    value = ece(confidence, correct)
    return sure(value, min(float(found.low), value), max(float(found.high), value), len(confidence))


def reliability(
    confidence: NDArray[np.floating[Any]],
    correct: NDArray[np.bool_],
    *,
    bins: int = BINS,
    kind: Literal["width", "mass"] = "width",
) -> list[Bin]:
    """Return the bins of a reliability diagram, from the least probability up; (N,) arrays."""
    place = _bins(confidence, bins, kind)
    result = []
    for number in range(bins):
        inside = place == number
        n = int(inside.sum())
        if kind == "width" or not n:
            low, high = number / bins, (number + 1) / bins
        else:
            low, high = float(confidence[inside].min()), float(confidence[inside].max())
        hits = int(correct[inside].sum())
        ends = wilson_ends(hits, n)
        result.append(
            Bin(
                low, high, n, float(confidence[inside].mean()) if n else (low + high) / 2, hits / n if n else 0.0, *ends
            )
        )
    return result


def fit_temperature(logits: NDArray[np.floating[Any]], targets: NDArray[Any], *, multi_label: bool = False) -> float:
    """Return the temperature by which to divide logits so that the targets become likeliest (Guo et al. 2017).

    A share of 1 / (N + 2) of each target is spread over all labels, after Platt (1999): where every row is right,
    the likeliest temperature would be 0 and the model certain of everything.

    Args:
        logits: (N, K).
        targets: (N,) indices for a softmax; (N, K) zeros and ones for independent sigmoids.
        multi_label: the logits are those of sigmoids.

    Returns:
        A temperature between 0.05 and 20; 1.0 where there is nothing to fit.
    """
    wide: NDArray[np.float64] = np.asarray(logits, np.float64)
    if not wide.size or (not multi_label and wide.shape[1] < 2):
        return 1.0
    spread = 1 / (len(wide) + 2)
    return _least(_sigmoid_loss(wide, targets, spread) if multi_label else _softmax_loss(wide, targets, spread))


def _softmax_loss(logits: NDArray[np.float64], targets: NDArray[Any], spread: float) -> Callable[[float], float]:
    top = logits.max(axis=1)
    own = logits[np.arange(len(logits)), targets]
    below_top = float((top - (1 - spread) * own - spread * logits.mean(axis=1)).mean())
    shifted = logits - top[:, None]
    return lambda temperature: float(np.log(np.exp(shifted / temperature).sum(axis=1)).mean()) + below_top / temperature


def _sigmoid_loss(logits: NDArray[np.float64], targets: NDArray[Any], spread: float) -> Callable[[float], float]:
    smooth = np.asarray(targets, np.float64) * (1 - spread) + spread / 2
    linear, size = float((np.maximum(logits, 0) - logits * smooth).mean()), np.abs(logits)
    return lambda temperature: linear / temperature + float(np.log1p(np.exp(-size / temperature)).mean())


def _least(loss: Callable[[float], float], tolerance: float = 1e-4) -> float:
    """Return the temperature of least loss by golden section on its logarithm.

    Both losses are convex in 1 / temperature, so there is one minimum and the section can't miss it.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(math.exp(left)), loss(math.exp(right))
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(math.exp(right))
    return math.exp((low + high) / 2)


def choose_thresholds(
    probabilities: NDArray[np.floating[Any]], gold: NDArray[Any], *, borrowed: float = 8.0
) -> tuple[float, ...]:
    """Return for each label the probability from which it should be given, for the best F1 on these rows.

    A label with few gold rows would get a threshold by chance. So each label's counts are joined by those of
    `borrowed` gold rows as they are in all labels together: rare labels lean on the whole, frequent ones on themselves.

    Args:
        probabilities: (N, K), calibrated.
        gold: (N, K) zeros and ones.
        borrowed: gold rows, as counted over all labels, that are added to each label's own.

    Returns:
        K thresholds between 0.005 and 0.995; 0.5 where no label has a gold row.
    """
    n_labels = int(probabilities.shape[1])
    gold = np.asarray(gold, np.bool_)
    if not gold.any():
        return (0.5,) * n_labels
    # (G, K): rows that pass each threshold, counted from histograms so that memory does not grow with rows times G.
    place = np.searchsorted(_TRIED, probabilities, side="right")
    cells = place + np.arange(n_labels) * (len(_TRIED) + 1)
    shape = (n_labels, len(_TRIED) + 1)
    given, hits = (
        np.cumsum(np.bincount(part, minlength=shape[0] * shape[1]).reshape(shape)[:, ::-1], axis=1)[:, -2::-1].T.astype(
            np.float64
        )
        for part in (cells.ravel(), cells[gold])
    )
    n_gold = gold.sum(axis=0).astype(np.float64)
    share = borrowed / n_gold.sum()
    hits, given = hits + share * hits.sum(axis=1, keepdims=True), given + share * given.sum(axis=1, keepdims=True)
    f1 = 2 * hits / (given + n_gold + borrowed)
    thresholds = [_middle_of_best(f1[:, label]) for label in range(n_labels)]
    return tuple(thresholds)


def _middle_of_best(f1: NDArray[np.float64]) -> float:
    """Return the middle of the run of best thresholds, the run nearest one half where there are several."""
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    middles = [float((_TRIED[run[0]] + _TRIED[run[-1]]) / 2) for run in runs]
    _, nearest = min((abs(middle - 0.5), middle) for middle in middles)
    return round(nearest, 6)


def abstain_threshold(
    confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], wanted_precision: float, *, level: float = 0.95
) -> float:
    """Return the least probability from which answers are right at least as often as wanted.

    A hundred shares of the rows are tried, from all of them down; the first is taken whose lower confidence bound of
    precision (Wilson, one-sided) reaches what is wanted. Each share tried is one more chance to be lucky: with a
    hundred the promise is still kept 19 times in 20, with every row on its own it is not.

    Args:
        confidence: (N,) probabilities of the best label on validation rows.
        correct: (N,) whether that label is right.
        wanted_precision: share of the answers that should be right; 0 never abstains.
        level: how sure to be.

    Returns:
        The threshold; 0.0 where nothing needs to be held back, 1.0 where no share of the rows is good enough.
    """
    if wanted_precision <= 0.0:
        return 0.0
    n = len(confidence)
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = np.asarray(confidence, np.float64)[order], np.cumsum(correct[order])
    for part in range(_SHARES, 0, -1):
        size = n * part // _SHARES
        # Rows of one probability are answered, or held back, together.
        while 0 < size < n and ranked[size] == ranked[size - 1]:
            size += 1
        if size == 0:
            break
        if wilson_ends(int(hits[size - 1]), size, level=2 * level - 1)[0] >= wanted_precision:
            return 0.0 if size == n else float((ranked[size] + ranked[size - 1]) / 2)
    return 1.0
