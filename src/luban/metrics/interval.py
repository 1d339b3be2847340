"""How sure a score is: intervals by resampling rows, and tests that compare two models on the same rows.

Every score here is a function of sums over rows (how often each label was right, given, asked for). Rows with equal
counts are interchangeable, so a resample is drawn as how often each distinct kind of row appears: exactly the
bootstrap over rows (Efron 1979), at a cost that follows the number of kinds, not of rows.

Legend: N rows, C distinct kinds of rows, D counts a row, R resamples, M values of a statistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luban.records import Score

Floats = NDArray[np.floating[Any]]
Statistic = Callable[[Floats, int], Mapping[str, Floats]]
"""Sums (R, D) over N rows, and N -> named values, each (R,) or (R, M)."""

LEVEL = 0.95
RESAMPLES = 1000
SEED = 13
_BLOCK_CELLS = 2**21
_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class Rows:
    """Per-row counts, with equal rows kept once."""

    kinds: Floats
    """(C, D) the distinct rows."""
    kind_of: NDArray[np.int64]
    """(N,) which of them each row is."""

    @classmethod
    def group(cls, counts: NDArray[Any]) -> Rows:
        """Group equal rows of (N, D) counts."""
        counts = np.ascontiguousarray(counts)
        if counts.shape[0] == 0 or counts.shape[1] == 0:
            return cls(np.zeros((0, counts.shape[1])), np.zeros(counts.shape[0], np.int64))
        packed = np.packbits(counts, axis=1) if counts.dtype == np.bool_ else counts
        keys = packed.view(np.dtype((np.void, packed.dtype.itemsize * packed.shape[1]))).ravel()
        _, first, kind_of = np.unique(keys, return_index=True, return_inverse=True)
        return cls(counts[first].astype(np.float64), kind_of.astype(np.int64).ravel())

    @property
    def n(self) -> int:
        """N, the number of rows."""
        return len(self.kind_of)

    @property
    def times(self) -> NDArray[np.int64]:
        """(C,) how often each kind occurs."""
        return np.bincount(self.kind_of, minlength=len(self.kinds))

    def total(self) -> Floats:
        """(1, D) the sums over all rows, in the form that a statistic takes."""
        return (self.times[None, :] @ self.kinds).reshape(1, -1)

    def resampled(self, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Floats]:
        """Yield blocks of (b, D) sums over resampled rows, `resamples` in all."""
        if self.n == 0:
            return
        rng = np.random.default_rng(seed)
        n, n_kinds = self.n, len(self.kinds)
        # One binomial draw costs about as much as drawing and counting ten rows.
        by_kind = n_kinds * 10 <= n
        block = max(1, _BLOCK_CELLS // (n_kinds if by_kind else max(n, n_kinds)))
        kinds = self.kinds.astype(np.float32) if n < _EXACT_IN_FLOAT32 else self.kinds
        shares = self.times / n
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            if by_kind:
                times = rng.multinomial(n, shares, size=size)
            else:
                drawn = self.kind_of[rng.integers(0, n, size=(size, n), dtype=np.int32)]
                drawn += np.arange(size)[:, None] * n_kinds
                times = np.bincount(drawn.ravel(), minlength=size * n_kinds).reshape(size, n_kinds)
            yield (times.astype(kinds.dtype) @ kinds).astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """Values with their ends; each (M,), or a scalar array."""

    value: Floats
    low: Floats
    high: Floats

    def score(self, n: int, index: int | None = None) -> Score:
        """Return one value as a Score measured on `n` rows."""
        value, low, high = (float(part if index is None else part[index]) for part in (self.value, self.low, self.high))
        return sure(value, low, high, n)


def bootstrap(
    rows: Rows,
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
    within: tuple[float, float] | None = (0.0, 1.0),
) -> dict[str, Interval]:
    """Return the values of a statistic with percentile intervals, the same for the same seed.

    The ends are moved by the bootstrap's own estimate of bias (Efron and Tibshirani 1993, section 10.2), because
    macro averages over rare labels and calibration errors are biased in resamples, by as much as the interval is wide.

    Args:
        rows: per-row counts.
        statistic: sums (R, D) over N rows, and N -> named values.
        resamples: how many resamples are drawn.
        level: the interval's probability.
        seed: start of the random numbers.
        within: the range that the statistic can take; None where it has no bounds.
    """
    whole = {name: np.asarray(value[0], dtype=np.float64) for name, value in statistic(rows.total(), rows.n).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in whole}
    for sums in rows.resampled(resamples, seed):
        for name, value in statistic(sums, rows.n).items():
            drawn[name].append(np.asarray(value, dtype=np.float64))
    return {name: _interval(value, drawn[name], level, within) for name, value in whole.items()}


def _interval(value: Floats, drawn: list[Floats], level: float, within: tuple[float, float] | None) -> Interval:
    if not drawn:
        ends = within or (-math.inf, math.inf)
        return Interval(value, np.full_like(value, ends[0]), np.full_like(value, ends[1]))
    values = np.concatenate(drawn)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    bias = values.mean(axis=0) - value
    low, high = np.minimum(low - bias, value), np.maximum(high - bias, value)
    if within is not None:
        low, high = np.clip(low, *within), np.clip(high, *within)
    return Interval(value, low, high)


def sure(value: float, low: float, high: float, n: int) -> Score:
    """Return a Score; one that no resample moves (all right, or all wrong) takes Wilson's interval for `n` rows."""
    if low == high and value in (0.0, 1.0):
        low, high = wilson_ends(value * n, n)
    return Score(value, low, high, n)


def wilson(successes: float, n: int, *, level: float = LEVEL) -> Score:
    """Return a share with Wilson's interval (Wilson 1927), exact enough from the first row on.

    With no rows the value is 0 and the interval is everything: nothing is known.
    """
    low, high = wilson_ends(successes, n, level=level)
    return Score(successes / n if n else 0.0, low, high, n)


def wilson_ends(successes: float, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the ends of Wilson's interval for `successes` of `n`."""
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if successes <= 0 else max(0.0, middle - half), 1.0 if successes >= n else min(1.0, middle + half))


def on_logit_scale(value: float, deviation: float, n: int, *, level: float = LEVEL) -> Score:
    """Return a Score in (0, 1) whose normal interval is taken on the logit scale, so that it stays inside.

    Args:
        value: the estimate.
        deviation: its standard error.
        n: rows it was measured on.
        level: the interval's probability.
    """
    if not 0.0 < value < 1.0 or deviation <= 0.0:
        return sure(value, value, value, n)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle, half = math.log(value / (1 - value)), z * deviation / (value * (1 - value))
    return Score(value, _expit(middle - half), _expit(middle + half), n)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of one model minus the same score of another, on the same rows."""

    value: float
    low: float
    """Lower end of the 95% interval, from resampling rows for both models at once."""
    high: float
    p: float
    """Two-sided p: how often a difference as large would be seen were there none."""
    n: int

    @property
    def is_clear(self) -> bool:
        """The interval leaves out zero."""
        return self.low > 0.0 or self.high < 0.0

    def to_json(self) -> dict[str, float | int | bool]:
        """Return the form in which it stands in report.json."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "n": self.n,
            "is_clear": self.is_clear,
        }


def paired(
    one: NDArray[Any],
    other: NDArray[Any],
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Compare two models by resampling rows for both at once (Efron and Tibshirani 1993; Koehn 2004).

    Args:
        one: (N, D) counts of the one model.
        other: (N, D) counts of the other, on the same rows.
        statistic: sums (R, D) over N rows, and N -> named values, each (R,).
        resamples: how many resamples are drawn.
        level: the interval's probability.
        seed: start of the random numbers.

    Returns:
        The differences `one - other` by name.

    Raises:
        ValueError: the rows are not the same.
    """
    if one.shape != other.shape:
        raise ValueError(f"counts of two models on the same rows have one shape; got {one.shape} and {other.shape}")
    width = one.shape[1]
    rows = Rows.group(np.concatenate([one, other], axis=1))

    def difference(sums: Floats) -> dict[str, Floats]:
        left, right = statistic(sums[:, :width], rows.n), statistic(sums[:, width:], rows.n)
        return {name: left[name] - right[name] for name in left}

    whole = {name: float(value[0]) for name, value in difference(rows.total()).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in whole}
    for sums in rows.resampled(resamples, seed):
        for name, values in difference(sums).items():
            drawn[name].append(values)
    result: dict[str, Difference] = {}
    for name, value in whole.items():
        ends = _interval(np.asarray(value), drawn[name], level, (-1.0, 1.0))
        p = _p_value(np.concatenate(drawn[name]), value) if drawn[name] else 1.0
        result[name] = Difference(value, float(ends.low), float(ends.high), p, rows.n)
    return result


def _p_value(values: Floats, value: float) -> float:
    """Return the share of resamples, centred on no difference, that differ at least as much (Hall and Wilson 1991)."""
    centred = np.abs(values - values.mean())
    return float((np.count_nonzero(centred >= abs(value) - 1e-12) + 1) / (len(values) + 1))


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p of McNemar's exact test (McNemar 1947).

    Args:
        only_one: rows that only the one model has right.
        only_other: rows that only the other has right.
    """
    n = only_one + only_other
    if n == 0:
        return 1.0
    # The tail of Binomial(n, 1/2) up to the smaller count, summed from its largest term down, relative to it.
    least = min(only_one, only_other)
    largest = math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1) - n * math.log(2)
    term = total = 1.0
    for count in range(least, 0, -1):
        term *= count / (n - count + 1)
        total += term
        if term < 1e-17 * total:
            break
    return min(1.0, 2.0 * math.exp(largest) * total)
