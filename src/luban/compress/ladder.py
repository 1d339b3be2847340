"""The plans that a search tries, from those that take seconds to those that train again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from luban.project.schema import Plugin

Plan = tuple[Plugin, ...]

_SHALLOW, _HALF, _DEEP = 2 / 3, 1 / 2, 1 / 3
_NARROW = 0.5
_TIMES_HALVED = 2
_WORTHWHILE = 0.2
"""Share of all tokens that a shorter window must spare before a search tries it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides which plans make sense for a model."""

    n_layers: int
    has_vocabulary: bool = True
    """It reads tokens, whose vocabulary can be cut down to what the data need."""
    windows: tuple[int, ...] = ()
    """Shorter windows that may pay, in tokens, the longest first."""


def ladder(shape: Shape) -> list[Plan]:
    """Return plans from cheap to dear: first what is only converted, then what is trained again.

    Later plans join what earlier ones did, so that a search which is stopped has tried the best bargains.
    """
    words: Plan = (Plugin(kind="vocabulary"),) if shape.has_vocabulary else ()
    eight, four = _quantised("static", 8), _quantised("weights", 4)
    found: list[Plan] = [(eight,), (*words, eight), (*words, four)] if words else [(eight,), (four,)]
    half, two_thirds = half_of(shape.n_layers), math.ceil(_SHALLOW * shape.n_layers)
    if half < shape.n_layers:
        found.append((*words, _early(half), eight))
    for share in (_SHALLOW, _HALF, _DEEP):
        keep = math.ceil(share * shape.n_layers)
        if keep < shape.n_layers:
            found.append((*words, _layers(keep), eight))
    for tokens in shape.windows:
        found.append((*words, _window(tokens), eight))
        if half < shape.n_layers:
            found.append((*words, _window(tokens), _layers(half), eight))
    narrow = Plugin(kind="prune", options={"width": _NARROW})
    found.append((*words, narrow, eight))
    if half < two_thirds < shape.n_layers:
        found.append((*words, _layers(two_thirds), _early(half_of(two_thirds)), eight))
    if half < shape.n_layers:
        found += [(*words, _layers(half), four), (*words, _layers(half), narrow, eight)]
    return found


def half_of(n_layers: int) -> int:
    """Return half of so many layers, rounded up: what methods keep, or end early after, where nobody says."""
    return math.ceil(_HALF * n_layers)


def windows(lengths: np.ndarray) -> tuple[int, ...]:
    """Return the halves of the longest window, and of that, that spare enough tokens to be tried.

    Args:
        lengths: (W,) tokens of the training rows' windows.
    """
    longest = int(lengths.max(initial=0))
    halves = [longest >> times for times in range(1, _TIMES_HALVED + 1)]
    return tuple(
        tokens for tokens in halves if np.maximum(lengths - tokens, 0).sum() >= _WORTHWHILE * max(1, lengths.sum())
    )


def _window(tokens: int) -> Plugin:
    return Plugin(kind="window", options={"tokens": tokens})


def _layers(keep: int) -> Plugin:
    return Plugin(kind="layers", options={"keep": keep})


def _early(after: int) -> Plugin:
    return Plugin(kind="early-exit", options={"after": after})


def _quantised(how: str, bits: int) -> Plugin:
    return Plugin(kind="quantise", options={"how": how, "bits": bits})
