"""Units: what a tag stands on. Each CJK character is one, else each word, else each other visible character.

Imported where bundles answer, so nothing heavy here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from luban.errors import DataError, Problem

if TYPE_CHECKING:
    import regex

# Scripts written without spaces between words whose characters are words or near to them: Han with its extensions,
# compatibility forms and iteration marks, kana, bopomofo. Hangul is written with spaces, so its words stay whole.
HAN = r"\u3005-\u3007\u3021-\u3029\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ranges of Han characters, for the inside of a character class."""
CJK = HAN + r"\u3040-\u30ff\u31f0-\u31ff\u3100-\u312f\u31a0-\u31bf\uff66-\uff9f"
"""Ranges of CJK letters, for the inside of a character class."""
# Beside these no space is written either: CJK punctuation and full-width forms.
_CLOSED_UP = CJK + r"\u3000-\u303f\ufe30-\ufe4f\uff01-\uff65\uffe0-\uffee"

_CLOSED_UP_START = re.compile(f"[{_CLOSED_UP}]")
_CJK_CHARACTER = re.compile(f"[{CJK}]")


@cache
def _unit_pattern(characters: bool) -> regex.Pattern[str]:
    import regex  # knows combining marks (Devanagari, Arabic, Thai), at which `\w` of `re` breaks words

    if characters:
        return regex.compile(r"\S\p{M}*")
    letter = rf"[[\p{{L}}\p{{N}}]--[{CJK}]]"
    word = rf"{letter}[\p{{M}}]*"
    return regex.compile(rf"(?V1)(?:{word})+(?:['’\-‐‑](?:{word})+)*|[{CJK}]\p{{M}}*|\S\p{{M}}*")


def pattern(*, characters: bool = False) -> str:
    """Return what `split` finds units by, for other programs: a pattern of the package regex."""
    return str(_unit_pattern(characters).pattern)


def split(text: str, *, characters: bool = False) -> list[tuple[int, int]]:
    """Return (start, end) of each unit of a text, in code points; white space belongs to none.

    Args:
        text: any text.
        characters: make every visible character a unit, as data sets do that were annotated character by character.
    """
    return [match.span() for match in _unit_pattern(characters).finditer(text)]


def join(tokens: Sequence[str]) -> str:
    """Return the text of some tokens: no space beside a CJK character, one space otherwise.

    Tokens that are all single characters, CJK among them, were cut character by character, so that nothing stands
    between them at all: `1 9 6 6 年` is `1966年`.
    """
    if all(len(token) == 1 for token in tokens) and any(map(_CJK_CHARACTER.match, tokens)):
        return "".join(tokens)
    parts: list[str] = []
    closed = True  # nothing before the first token
    for token in tokens:
        if not token:
            continue
        if not closed and not _CLOSED_UP_START.match(token):
            parts.append(" ")
        parts.append(token)
        closed = _CLOSED_UP_START.match(token[-1]) is not None
    return "".join(parts)


def locate(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Return (start, end) of each token in a text that holds them in this order, with anything between them.

    Raises:
        DataError: a token is not in what is left of the text.
    """
    places: list[tuple[int, int]] = []
    position = 0
    for number, token in enumerate(tokens, 1):
        start = text.find(token, position)
        if start < 0:
            problem = Problem(
                f"token {number} of {len(tokens)}",
                f"{token[:40]!r}",
                f"text to be found in {text[position:][:40]!r}",
                hint="the tokens must stand in the text, unchanged and in order",
            )
            raise DataError([problem])
        position = start + len(token)
        places.append((start, position))
    return places
