"""Texts cut into parts that can be left out, so that what is left reads as if they had never been there.

A part is a word with the marks that touch it. Where words are not set apart by spaces, as in Chinese, it is what the
base's tokeniser takes for one piece.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from luban.data import units
from luban.models.vocabulary import Vocabulary

Place = tuple[int, int]
"""First character of a part, and one past its last, in code points."""
_OPENING = frozenset({"Ps", "Pi"})


def cut(text: str, vocabulary: Vocabulary) -> list[Place]:
    """Return where the parts of a text stand, in its order; all but white space belongs to one."""
    found = units.split(text)
    if len(found) < 2:
        return found
    token = np.full(len(text), -1)
    for number, (start, end) in enumerate(vocabulary.places(text)):
        token[start:end] = number
    kinds = [_mark(text[start:end]) for start, end in found]
    parts = [found[0]]
    for before, here, (start, end) in zip(kinds[:-1], kinds[1:], found[1:], strict=True):
        touches = parts[-1][1] == start
        one_piece = touches and token[start] >= 0 and token[start - 1] == token[start]
        opens = before in _OPENING and parts[-1][1] - parts[-1][0] == 1
        closes = here.startswith("P") and here not in _OPENING
        if touches and (one_piece or opens or closes):
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
    return parts


def grouped(text: str, places: Sequence[Place], most: int) -> list[list[Place]]:
    """Return the parts in `most` groups of neighbours, about as long as each other, or in fewer where there are fewer.

    A group ends where a sentence or a clause does, if one does near by.
    """
    n_parts = len(places)
    if n_parts <= most:
        return [[place] for place in places]
    near = n_parts // (3 * most)
    bounds = [0]
    for group in range(1, most):
        wanted = group * n_parts // most
        around = sorted(range(wanted - near, wanted + near + 1), key=lambda bound: abs(bound - wanted))
        bounds.append(next((bound for bound in around if _ends(text, places[bound - 1])), wanted))
    bounds.append(n_parts)
    return [list(places[first:last]) for first, last in pairwise(bounds)]


def left_out(text: str, places: Sequence[Place], kept: Sequence[bool] | np.ndarray) -> str:
    """Return a text without the parts that are not kept.

    Where several spaces would meet, the first stays; where two words would meet, a space stands between them.
    """
    if all(kept):
        return text
    pieces: list[str] = []
    gap, before, dropped = "", "", False
    at = 0
    for (start, end), keep in zip(places, kept, strict=True):
        gap = gap or text[at:start]
        at = end
        if not keep:
            dropped = True
            continue
        part = text[start:end]
        if not before:
            gap = "" if dropped else gap
        elif dropped and not gap and len(units.join([before, part])) > len(before) + len(part):
            gap = " "
        pieces += (gap, part)
        gap, before, dropped = "", part, False
    return "".join(pieces)


def _mark(part: str) -> str:
    """Return the kind of a mark (`Po`, `Ps`, ...) as Unicode has it; empty for what is no mark."""
    kind = unicodedata.category(part[0])
    return kind if len(part) == 1 and kind.startswith("P") else ""


def _ends(text: str, place: Place) -> bool:
    """Tell whether a sentence or a clause ends with a part."""
    return unicodedata.category(text[place[1] - 1]).startswith("P") or text[place[1] : place[1] + 1] == "\n"
