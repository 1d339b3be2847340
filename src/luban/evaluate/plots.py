"""Plots as inline SVG: plain strings, crisp at any size, coloured by the page's own style sheet.

Every text that comes from outside is escaped here, since templates take SVG as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import markupsafe
from markupsafe import Markup

from luban.evaluate.words import percent, printable


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, on a line of a dot plot."""

    name: str
    value: float
    low: float
    high: float
    is_main: bool = False


def escape(text: str) -> Markup:
    """Return a text as it may stand in SVG."""
    return markupsafe.escape(printable(text))


def _svg(width: float, height: float, title: str, parts: Iterable[str], kind: str) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg class="plot {kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about as many as asked for."""
    span = max(high - low, 1e-9)
    size = 10 ** math.floor(math.log10(span / about))
    step = min((size * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(span / step - about))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _tick(value: float, step: float) -> str:
    return percent(value, 0 if step >= 0.00999 and abs(step * 100 - round(step * 100)) < 1e-6 else 1)


def dots(rows: Sequence[Dot], title: str) -> Markup:
    """Return a dot-and-interval plot, one line a row; a value far to the left of the main one is an arrow."""
    width, left, right, step = 640.0, 190.0, 60.0, 38.0
    main = next((row for row in rows if row.is_main), rows[0])
    near = [row for row in rows if row.value >= main.value - 0.25] or [main]
    low, high = min(row.low for row in near), max(row.high for row in near)
    room = max(0.02, (high - low) * 0.12)
    low, high = max(0.0, low - room), min(1.0, high + room)
    height = step * len(rows) + 30

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    parts = []
    marks = ticks(low, high)
    for mark in marks:
        parts.append(_line(at(mark), 4, at(mark), height - 24, "grid"))
        parts.append(
            _text(at(mark), height - 8, _tick(mark, marks[1] - marks[0] if len(marks) > 1 else 1), "axis", "middle")
        )
    for place, row in enumerate(rows):
        y = step * place + step / 2 + 2
        kind = "main" if row.is_main else "other"
        parts.append(_text(left - 14, y + 4, _cut(row.name, 26), f"name {kind}", "end"))
        parts.append(_text(width - right + 12, y + 4, percent(row.value), f"figure {kind}"))
        if row.value < low:
            parts.append(f'<path d="M{left + 10:.1f},{y - 5:.1f} l-8,5 l8,5" class="arrow"/>')
            continue
        parts.append(_line(at(max(row.low, low)), y, at(min(row.high, high)), y, f"whisker {kind}"))
        radius = 6 if row.is_main else 5
        parts.append(f'<circle cx="{at(row.value):.1f}" cy="{y:.1f}" r="{radius}" class="dot {kind}"/>')
    return _svg(width, height, title, parts, "dots")


def strip(
    value: float,
    low: float,
    high: float,
    span: tuple[float, float],
    whole: float | None,
    title: str,
    *,
    is_bad: bool = False,
) -> Markup:
    """Return a small plot of one value and its interval for a table; `whole` is drawn as a line to compare with."""
    width, height, pad = 150.0, 18.0, 6.0

    def at(number: float) -> float:
        inside = min(max(number, span[0]), span[1])
        return pad + (inside - span[0]) / max(span[1] - span[0], 1e-9) * (width - 2 * pad)

    kind = "bad" if is_bad else "main"
    parts = [_line(pad, height / 2, width - pad, height / 2, "grid")]
    if whole is not None:
        parts.append(_line(at(whole), 1, at(whole), height - 1, "whole"))
    parts.append(_line(at(low), height / 2, at(high), height / 2, f"whisker {kind}"))
    parts.append(f'<circle cx="{at(value):.1f}" cy="{height / 2:g}" r="4" class="dot {kind}"/>')
    return _svg(width, height, title, parts, "strip")


@dataclass(frozen=True, slots=True)
class _Square:
    """A square plot of shares: x from 0 to 1, y from `y_from` to 1."""

    y_from: float = 0.0
    size: float = 340.0
    left: float = 56.0
    right: float = 328.0
    top: float = 12.0
    floor: float = 288.0

    def x(self, share: float) -> float:
        return self.left + share * (self.right - self.left)

    def y(self, share: float) -> float:
        return self.floor - (share - self.y_from) / (1 - self.y_from) * (self.floor - self.top)

    def frame(self, x_title: str, y_title: str) -> list[str]:
        """Return the grid, ticks and titles."""
        parts = []
        for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
            parts.append(_text(self.x(mark), self.floor + 18, percent(mark, 0), "axis", "middle"))
        marks = ticks(self.y_from, 1.0, 4)
        for mark in marks:
            parts += [
                _line(self.left, self.y(mark), self.right, self.y(mark), "grid"),
                _text(self.left - 8, self.y(mark) + 4, _tick(mark, marks[-1] - marks[-2]), "axis", "end"),
            ]
        x, y = (self.left + self.right) / 2, (self.top + self.floor) / 2
        parts.append(_text(x, self.size - 6, x_title, "axis title", "middle"))
        parts.append(_text(12, y, y_title, "axis title", "middle", f' transform="rotate(-90 12 {y:.1f})"'))
        return parts


def reliability(bins: Sequence[Mapping[str, Any]], title: str, x_title: str, y_title: str) -> Markup:
    """Return a reliability diagram: for each bin the share that is right against the probability given."""
    square = _Square()
    parts = square.frame(x_title, y_title)
    most = max((part["n"] for part in bins), default=0)
    for part in bins:
        if not part["n"]:
            continue
        left, right = square.x(part["low"]), square.x(part["high"])
        tall = max(1.0, part["n"] / most * (square.floor - square.top) * 0.3)
        parts.append(
            f'<rect x="{left + 0.5:.1f}" y="{square.floor - tall:.1f}" width="{max(right - left - 1, 1):.1f}" '
            f'height="{tall:.1f}" class="bar"><title>{part["n"]:,}</title></rect>'
        )
    parts.append(_line(square.x(0), square.y(0), square.x(1), square.y(1), "ideal"))
    for part in bins:
        if not part["n"]:
            continue
        x, y = square.x(part["confidence"]), square.y(part["accuracy"])
        parts.append(_line(x, square.y(part["accuracy_low"]), x, square.y(part["accuracy_high"]), "whisker main"))
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="dot main"><title>'
            f"{percent(part['confidence'])} → {percent(part['accuracy'])} ({part['n']:,})</title></circle>"
        )
    return _svg(square.size, square.size, title, parts, "square")


def risk(curve: Sequence[Mapping[str, Any]], title: str, x_title: str, y_title: str) -> Markup:
    """Return accuracy against the share of answers that is given, with its interval as a band."""
    least = min(point["accuracy"]["low"] for point in curve)
    square = _Square(y_from=min(0.95, math.floor(least * 20) / 20))

    def at(x: float, y: float) -> str:
        return f"{square.x(x):.1f},{square.y(y):.1f}"

    upper = [at(point["coverage"], point["accuracy"]["high"]) for point in curve]
    lower = [at(point["coverage"], point["accuracy"]["low"]) for point in reversed(curve)]
    middle = [at(point["coverage"], point["accuracy"]["value"]) for point in curve]
    parts = [
        *square.frame(x_title, y_title),
        f'<polygon points="{" ".join(upper + lower)}" class="band"/>',
        f'<polyline points="{" ".join(middle)}" class="curve"/>',
    ]
    return _svg(square.size, square.size, title, parts, "square")


def scatter(points: Sequence[tuple[float, float, str, str]], title: str, x_title: str, y_title: str) -> Markup:
    """Return points of cost against quality, with the cost on a logarithmic scale.

    Args:
        points: for each its cost (above 0), its quality as a share, its name, and how it is drawn: `main` for the one
            chosen, `kept` for the frontier, or `beaten`.
        title: what a screen reader says.
        x_title: what the cost is.
        y_title: what the quality is.
    """
    left, right, top, floor, size = 72.0, 332.0, 12.0, 288.0, 340.0
    costs = [math.log10(cost) for cost, *_ in points]
    low, high = min(costs), max(costs)
    pad = max((high - low) * 0.08, 0.05)
    low, high = low - pad, high + pad
    shares = [share for _, share, *_ in points]
    room = max((max(shares) - min(shares)) * 0.1, 0.005)
    bottom, ceiling = min(shares) - room, max(shares) + room

    def x(cost: float) -> float:
        return left + (math.log10(cost) - low) / (high - low) * (right - left)

    def y(share: float) -> float:
        return floor - (share - bottom) / (ceiling - bottom) * (floor - top)

    parts = []
    steps = [step * 10.0**power for power in range(-3, 7) for step in (1, 2, 5)]
    for mark in [step for step in steps if low <= math.log10(step) <= high]:
        parts.append(_line(x(mark), top, x(mark), floor, "grid"))
        parts.append(_text(x(mark), floor + 18, f"{mark:g}", "axis", "middle"))
    marks = ticks(bottom, ceiling, 4)
    for mark in marks:
        parts.append(_line(left, y(mark), right, y(mark), "grid"))
        parts.append(_text(left - 8, y(mark) + 4, _tick(mark, marks[-1] - marks[-2]), "axis", "end"))
    parts.append(_text((left + right) / 2, size - 6, x_title, "axis title", "middle"))
    middle = (top + floor) / 2
    parts.append(_text(12, middle, y_title, "axis title", "middle", f' transform="rotate(-90 12 {middle:.1f})"'))
    for cost, share, name, kind in sorted(points, key=lambda point: point[3] == "main"):
        parts.append(
            f'<circle cx="{x(cost):.1f}" cy="{y(share):.1f}" r="{6 if kind == "main" else 4.5}" class="dot {kind}">'
            f"<title>{escape(name)}</title></circle>"
        )
    return _svg(size, size, title, parts, "square")


def heatmap(labels: Sequence[str], matrix: Sequence[Sequence[int]], title: str, gold: str, given: str) -> Markup:
    """Return a confusion matrix; cells are shaded by their share of the row, and numbered where there is room."""
    n = len(labels)
    cell = 44.0 if n <= 8 else 30.0 if n <= 14 else 20.0
    longest = max(len(_cut(label, 22)) + sum(ord(letter) > 0x2E7F for letter in _cut(label, 22)) for label in labels)
    left = max(80.0, min(190.0, 34 + 7.2 * longest))
    is_flat = longest * 7 <= cell
    top = 44.0 if is_flat else min(150.0, 36 + 5.4 * longest)
    width, height = left + cell * n + top * 0.75, top + cell * n + 8
    parts = [_text(left - 8, 14, f"{gold} ↓", "axis title", "end"), _text(left + 4, 14, f"{given} →", "axis title")]
    for place, label in enumerate(labels):
        y, x = top + cell * place + cell / 2, left + cell * place + cell / 2
        shown = f"<title>{escape(label)}</title>"
        parts.append(
            f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" class="tick" text-anchor="end">{shown}'
            f"{escape(_cut(label, 22))}</text>"
        )
        turn = 'text-anchor="middle"' if is_flat else f'transform="rotate(-45 {x:.1f} {top - 6:.1f})"'
        parts.append(f'<text x="{x:.1f}" y="{top - 6:.1f}" class="tick" {turn}>{shown}{escape(_cut(label, 22))}</text>')
    for row, counts in enumerate(matrix):
        total = sum(counts)
        for column, count in enumerate(counts):
            x, y = left + cell * column, top + cell * row
            share = count / total if total else 0.0
            kind = "right" if row == column else "wrong"
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:g}" height="{cell - 2:g}" rx="2" '
                f'class="cell"/>'
            )
            if not count:
                continue
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:g}" height="{cell - 2:g}" rx="2" '
                f'class="cell {kind}" fill-opacity="{0.08 + 0.92 * share:.2f}"><title>{escape(labels[row])} → '
                f"{escape(labels[column])}: {count:,} ({percent(share)})</title></rect>"
            )
            if cell >= 30:
                dark = " inverse" if share > 0.55 else ""
                shown = f"{count:,}" if count < 10_000 else f"{count // 1000}k"
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, shown, f"count{dark}", "middle"))
    return _svg(width, height, title, parts, "heatmap")


def _cut(text: str, at_most: int) -> str:
    """Return a text for a narrow place; a Chinese character takes two columns."""
    columns = 0
    for place, letter in enumerate(text):
        columns += 2 if ord(letter) > 0x2E7F else 1
        if columns > at_most:
            return text[:place].rstrip() + "…"
    return text
