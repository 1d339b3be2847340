"""Where a model is worse than elsewhere: by length, by script, and by any column that has few enough values.

Each slice is tested against the rows outside it, and the tests are corrected for their number (Holm 1979): among
twenty slices one would look bad by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luban.data.units import split
from luban.evaluate.measure import Gold, Measure
from luban.metrics.interval import Rows, bootstrap, sure, wilson
from luban.records import Prediction, Score

if TYPE_CHECKING:
    import pyarrow as pa

LEAST = 20
"""Rows without which a slice is not shown."""
MOST_VALUES = 20
"""Values of a column, at most, for it to divide rows without being asked for."""
ALPHA = 0.05
_RESAMPLES = 500
_SCRIPTS = {
    "han": "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]",
    "latin": "[A-Za-zÀ-ɏ]",
    "kana": "[\u3040-\u30ff]",
    "hangul": "[\u1100-\u11ff\uac00-\ud7af]",
    "cyrillic": "[\u0400-\u052f]",
    "arabic": "[\u0600-\u06ff\u0750-\u077f]",
    "devanagari": "[\u0900-\u097f]",
    "thai": "[\u0e00-\u0e7f]",
    "greek": "[\u0370-\u03ff]",
    "hebrew": "[\u0590-\u05ff]",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _SCRIPTS.items()}


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that have something in common, and how the model does on them."""

    by: str
    """`length`, `script`, or the column."""
    value: str
    score: Score
    """The main score on these rows."""
    rest: float
    """The main score on all other rows."""
    p: float
    """Chance of so low a score were the slice like the rest, corrected for the number of slices."""
    is_below: bool
    """Clearly worse than the rest."""

    def to_json(self) -> dict[str, Any]:
        """Return the form in which a slice stands in report.json."""
        return asdict(self) | {"score": self.score.to_json()}


def slices(
    measure: Measure, gold: Gold, predictions: Sequence[Prediction], table: pa.Table, columns: Sequence[str] = ()
) -> list[Slice]:
    """Return every slice with enough rows, the order being length, script, the columns asked for, other columns.

    Args:
        measure: how the task is scored.
        gold: what is right for each row.
        predictions: one a row.
        table: the rows, a Dataset's table.
        columns: columns to divide by, whatever their number of values; `meta.` may be left out.
    """
    n = len(predictions)
    if n < 2 * LEAST:
        return []
    counts, statistic = measure.main_counts(gold, predictions)
    drawn: list[tuple[str, str, Score, float, float]] = []
    for by, values in divisions(table, columns):
        names, kind_of, times = np.unique(np.array(values), return_inverse=True, return_counts=True)
        # With fewer rows on either side there is nothing to compare.
        kinds = [kind for kind in np.argsort(-times, kind="stable")[:MOST_VALUES] if LEAST <= times[kind] <= n - LEAST]
        for kind in sorted(kinds, key=lambda kind: _in_order(str(names[kind]))):
            inside, value = kind_of == kind, str(names[kind])
            score, deviation = _measured(counts[inside], measure, statistic)
            rest, rest_deviation = _measured(counts[~inside], measure, statistic)
            spread = float(np.hypot(deviation, rest_deviation))
            step = (score.value - rest.value) / spread if spread else 0.0
            drawn.append((by, value, score, rest.value, NormalDist().cdf(step)))
    corrected = _holm([p for *_, p in drawn])
    return [
        Slice(by, value, score, rest, p, p < ALPHA)
        for (by, value, score, rest, _), p in zip(drawn, corrected, strict=True)
    ]


def _measured(counts: NDArray[Any], measure: Measure, statistic: Any) -> tuple[Score, float]:
    """Return the main score of some rows, and its standard error."""
    n = len(counts)
    if measure.answers_rows:
        score = wilson(int(counts.sum()), n)
        # Agresti and Coull's share, which is not without error where all rows are right.
        share = (score.value * n + 2) / (n + 4)
        return score, float(np.sqrt(share * (1 - share) / (n + 4)))
    found = bootstrap(Rows.group(counts), statistic, resamples=_RESAMPLES)[measure.main]
    score = sure(float(found.value), float(found.low), float(found.high), n)
    return score, (score.high - score.low) / (2 * NormalDist().inv_cdf(0.975))


def _holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected so that all of them hold at once (Holm 1979)."""
    corrected = [1.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def _in_order(value: str) -> tuple[float, str]:
    """Return a key that puts ranges in the order of their numbers."""
    number = re.match(r"-?\d+(\.\d+)?", value)
    return (float(number[0]) if number else float("inf"), value)


def divisions(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield what rows are divided by, and each row's value."""
    texts: list[str] = table.column("text").to_pylist()
    tokens = table.column("tokens").to_pylist() if "tokens" in table.column_names else map(split, texts)
    yield "length", _quarters(np.array([len(row) for row in tokens], np.float64))
    yield "script", [script(text) for text in texts]
    asked = [column if column in table.column_names else f"meta.{column}" for column in columns]
    others = [name for name in table.column_names if name.startswith("meta.") and name not in asked]
    for name in dict.fromkeys([*(column for column in asked if column in table.column_names), *others]):
        values = table.column(name).to_pylist()
        if values and isinstance(values[0], list | dict):
            continue
        distinct = len(set(values))
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if name in asked and is_number and distinct > MOST_VALUES:
            yield name.removeprefix("meta."), _quarters(np.array(values, np.float64))
        elif name in asked or 2 <= distinct <= MOST_VALUES:
            yield name.removeprefix("meta."), ["" if value is None else str(value) for value in values]


def _quarters(values: NDArray[np.float64]) -> list[str]:
    """Return for each value the range of its quarter of the rows, e.g. `9-14`; equal values stay together."""
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    place = np.searchsorted(edges, values, side="left")
    names = {}
    for part in np.unique(place):
        low, high = values[place == part].min(), values[place == part].max()
        names[part] = f"{low:g}" if low == high else f"{low:g}-{high:g}"
    return [names[part] for part in place]


def script(text: str) -> str:
    """Return the script of a text: that of most letters, `han+latin` and the like where two share it, or `none`.

    A Han character counts as two letters, since it says about as much.
    """
    if text.isascii():
        return "latin" if _PATTERNS["latin"].search(text) else "none"
    counts = {name: len(pattern.findall(text)) * (2 if name == "han" else 1) for name, pattern in _PATTERNS.items()}
    total = sum(counts.values())
    if not total:
        return "none"
    # Han among kana is Japanese.
    if counts["kana"] * 10 >= total:
        counts["kana"] += counts.pop("han")
    strong = sorted((name for name, count in counts.items() if count * 4 >= total), key=lambda name: -counts[name])
    return "+".join(sorted(strong[:2]))
