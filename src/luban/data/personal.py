"""Finds what tells of a person: one set of recognisers for the check of data, for logs, and for files that are shared.

`personal_numbers` knows what has a form (numbers, addresses of machines and mail), `personal_names` and
`personal_places` what is known by its words. They all read a text in which full-width characters, unusual digits,
dashes and spaces are plain and invisible characters are left out; what they find is told by its place in the original.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

NUMBERS = (
    "credentials", "email", "identity number", "iban", "bank card", "ip address", "passport", "plate", "phone",
    "account",
)  # fmt: skip
"""Kinds that have a form, in the order in which they are looked for: what is found first is not found again."""
WORDS = ("address", "name")
KINDS = (*NUMBERS, *WORDS)

_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufe0f]+")
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\u30fc"
_PLAIN = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}, **{ord(one): " " for one in _SPACES},
    **{ord(one): "-" for one in _DASHES}, ord("。"): "。", ord("＠"): "@",
}  # fmt: skip
_ODD_DIGIT = re.compile(r"[^\D0-9]")
_SPOKEN = re.compile("[零〇一二三四五六七八九幺两](?:[- ]?[零〇一二三四五六七八九幺两]){6,}")
_SPOKEN_DIGITS = str.maketrans("零〇一二三四五六七八九幺两", "0012345678912")

Finder = Callable[[Sequence[str]], Sequence[Iterable["Personal"]]]
"""What finds more in texts, as they are, many at once: a model (`luban.bundle.names`), or another library."""


@dataclass(frozen=True, slots=True)
class Personal:
    """One stretch of a text that tells of a person."""

    kind: str
    """One of `KINDS`, or what another finder calls it."""
    start: int
    end: int
    """One past the last character."""


def find_personal(text: str, kinds: Collection[str] = KINDS) -> list[Personal]:
    """Return the personal data in a text, in its order; no two overlap.

    Args:
        text: any text.
        kinds: what is looked for.
    """
    plain, places = _seen_through(text)
    found: list[Personal] = []
    taken = bytearray(len(plain))
    for one in _recognised(plain, kinds):
        # What was found already is marked, so that the time does not grow with the square of what is found.
        if not any(taken[one.start : one.end]):
            taken[one.start : one.end] = b"\1" * (one.end - one.start)
            found.append(one)
    if places is not None:
        found = [Personal(one.kind, places(one.start), places(one.end - 1) + 1) for one in found]
    return sorted(found, key=lambda one: one.start) if len(found) > 1 else found


def find_all(
    texts: Sequence[str], kinds: Collection[str] = KINDS, finders: Sequence[Finder] = ()
) -> list[list[Personal]]:
    """Return the personal data in each text, as `find_personal` does, and what others find beside it.

    What overlaps becomes one stretch, of the kind of its longest part: nothing that anyone found is left to be read.

    Args:
        texts: any texts.
        kinds: what is looked for; a finder's kinds that are not among them are left out.
        finders: what looks beside the recognisers here; each is asked once, for all texts.
    """
    found = [find_personal(text, kinds) for text in texts]
    for finder in finders:
        for place, more in enumerate(finder(texts)):
            if wanted := [one for one in more if one.kind in kinds and one.start < one.end]:
                found[place] = _joined([*found[place], *wanted])
    return found


def mask(text: str, found: list[Personal]) -> str:
    """Return a text with the inside of its personal data starred, so that a report can show it."""
    for one in reversed(found):
        stretch = text[one.start : one.end]
        kept = min(3, len(stretch) // 4)
        text = text[: one.start + kept] + "*" * (len(stretch) - 2 * kept) + text[one.end - kept :]
    return text


def _recognised(plain: str, kinds: Collection[str]) -> Iterator[Personal]:
    numbers, names, places = _recognisers()
    for kind, start, end in numbers(plain, kinds):
        yield Personal(kind, start, end)
    if "address" in kinds:
        for start, end in places(plain):
            yield Personal("address", start, end)
    if "name" in kinds:
        for start, end in names(plain):
            yield Personal("name", start, end)


@cache
def _recognisers() -> tuple[
    Callable[[str, Collection[str]], Iterator[tuple[str, int, int]]],
    Callable[[str], Iterator[tuple[int, int]]],
    Callable[[str], Iterator[tuple[int, int]]],
]:
    from luban.data.personal_names import names
    from luban.data.personal_numbers import numbers
    from luban.data.personal_places import places

    return numbers, names, places


def _seen_through(text: str) -> tuple[str, Callable[[int], int] | None]:
    """Return a text in plain characters, and what turns a place in it into one of the original; None where they agree.

    All but the invisible characters are replaced one for one.
    """
    if text.isascii():
        return text, None
    places = None
    if _INVISIBLE.search(text):
        text, places = _without_invisible(text)
    text = text.translate(_PLAIN)
    text = _ODD_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0], match[0])), text)
    if _SPOKEN.search(text):
        text = _SPOKEN.sub(lambda match: match[0].translate(_SPOKEN_DIGITS), text)
    return text, places


def _without_invisible(text: str) -> tuple[str, Callable[[int], int]]:
    parts: list[str] = []
    starts: list[int] = []
    shifts: list[int] = []
    at = kept = 0
    for match in (*_INVISIBLE.finditer(text), None):
        end = len(text) if match is None else match.start()
        if end > at:
            starts.append(kept)
            shifts.append(at - kept)
            parts.append(text[at:end])
            kept += end - at
        if match is not None:
            at = match.end()
    return "".join(parts), lambda place: place + shifts[bisect_right(starts, place) - 1]


def _joined(found: Iterable[Personal]) -> list[Personal]:
    """Return stretches in their order, those that overlap as one, of the kind of the longest."""
    joined: list[tuple[Personal, int]] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        length = one.end - one.start
        if joined and one.start < joined[-1][0].end:
            before, longest = joined[-1]
            kind = one.kind if length > longest else before.kind
            joined[-1] = Personal(kind, before.start, max(before.end, one.end)), max(longest, length)
        else:
            joined.append((one, length))
    return [one for one, _ in joined]
