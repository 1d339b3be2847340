"""Rows that repeat or nearly repeat each other, found in time that grows with the number of rows.

Texts are compared by their character n-grams, so that Chinese needs no words: MinHash (Broder 1997) and banding
(Leskovec et al., Mining of Massive Datasets, 3.4) find pairs that may be alike, and each is then measured exactly.
The hash family is datasketch's; it is applied to a million n-grams at once instead of text by text, which is 50 times
faster.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from luban.data.units import CJK

SIMILARITY = 0.8
"""Share of n-grams that two texts have in common (Jaccard) from which they count as near duplicates."""
# 21 bands of 6: a pair at 0.8 is missed once in 600 times, at 0.9 once in 8 million; at 0.5 one in four is looked at.
_BANDS, _ROWS = 21, 6
_SHARD_GRAMS = 1 << 20
_NOT_TEXT = re.compile(r"[\W_]+")
_CJK = re.compile(f"[{CJK}]")


@dataclass(frozen=True)
class Duplicates:
    """Which of N rows belong together; a group is named by its first row."""

    exact: np.ndarray
    """(N,) int64: the first row whose text is the same but for case, width, punctuation and white space."""
    near: np.ndarray
    """(N,) int64: the first row that is reached by going from near duplicate to near duplicate."""


def key(text: str) -> str:
    """Return a text without what makes no difference: case, width, punctuation, white space.

    A text of nothing else is compared as it is.
    """
    if text.isascii():
        return _NOT_TEXT.sub("", text).lower() or text.strip()
    return _NOT_TEXT.sub("", unicodedata.normalize("NFKC", text).casefold()) or text.strip()


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' n-grams, 0 to 1."""
    a, b = _grams(key(one)), _grams(key(other))
    return len(a & b) / len(a | b) if a | b else 1.0


def find(texts: Sequence[str], at_least: float = SIMILARITY) -> Duplicates:
    """Return the groups of equal and of nearly equal texts.

    Args:
        texts: N texts.
        at_least: Jaccard similarity from which two texts are near duplicates.
    """
    first: dict[str, int] = {}
    exact = np.fromiter((first.setdefault(key(text), row) for row, text in enumerate(texts)), np.int64, len(texts))
    keys = list(first)
    parents = list(range(len(keys)))
    known: dict[int, frozenset[str]] = {}

    def grams(number: int) -> frozenset[str]:
        if number not in known:
            if len(known) > 200_000:
                known.clear()
            known[number] = _grams(keys[number])
        return known[number]

    for one, other in _candidates(keys):
        root, other_root = _root(parents, one), _root(parents, other)
        if root == other_root:
            continue
        a, b = grams(one), grams(other)
        if min(len(a), len(b)) < at_least * max(len(a), len(b)):
            continue
        common = len(a & b)
        if common >= at_least * (len(a) + len(b) - common):
            parents[max(root, other_root)] = min(root, other_root)
    rows = np.fromiter(first.values(), np.int64, len(keys))
    roots = np.fromiter((_root(parents, number) for number in range(len(keys))), np.int64, len(keys))
    near_of_first = np.zeros(len(texts), np.int64)
    near_of_first[rows] = rows[roots]
    return Duplicates(exact, near_of_first[exact])


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _width(text: str) -> int:
    """Return the length of n-grams: 2 in text that is mostly CJK, whose characters tell more, else 3."""
    return 3 if text.isascii() or 2 * len(_CJK.findall(text)) < len(text) else 2


def _grams(text: str) -> frozenset[str]:
    width = _width(text)
    padded = text + "\0" * (width - 1)
    return frozenset(padded[place : place + width] for place in range(len(text)))


def _candidates(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield pairs that fall together in a band: each member of a bucket with the first and with the one before it."""
    bands = _band_keys(keys)
    if bands.shape[1] < 2:
        return
    pairs = []
    for band in bands:
        order = np.argsort(band, kind="stable")
        same = band[order][1:] == band[order][:-1]
        after, before = order[1:][same], order[:-1][same]
        starts = np.flatnonzero(np.concatenate([[True], ~same]))
        firsts = order[starts[np.searchsorted(starts, np.flatnonzero(same) + 1, side="right") - 1]]
        pairs += [before * len(keys) + after, firsts * len(keys) + after]
    for pair in np.unique(np.concatenate(pairs)).tolist():
        yield divmod(pair, len(keys))


def _band_keys(keys: Sequence[str]) -> np.ndarray:
    """Return (bands, N) uint64: texts that agree in one number agree in all minima of a band."""
    from datasketch import MinHash

    multipliers, offsets = (part.astype(np.uint32) for part in MinHash(_BANDS * _ROWS).permutations)
    out = np.empty((_BANDS, len(keys)), np.uint64)
    for start, stop in _shards(keys):
        hashes, begins = _gram_hashes(keys[start:stop])
        for band in range(_BANDS):
            mixed = np.zeros(stop - start, np.uint64)
            for number in range(band * _ROWS, (band + 1) * _ROWS):
                minima = np.minimum.reduceat(hashes * multipliers[number] + offsets[number], begins)
                mixed = (mixed ^ minima) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
            out[band, start:stop] = mixed
    return out


def _shards(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for stop, text in enumerate(keys):
        if size + len(text) > _SHARD_GRAMS and stop > start:
            yield start, stop
            start, size = stop, 0
        size += len(text)
    if start < len(keys):
        yield start, len(keys)


def _gram_hashes(keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (G,) uint32 hashes of all n-grams, and (N,) where each text's begin; an empty text has one."""
    padded = [(text or " ") + "\0\0" for text in keys]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    narrow = np.repeat(np.fromiter((_width(text) == 2 for text in keys), bool, len(keys)), lengths)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    third = np.where(narrow[:-2], np.uint32(0), codes[2:])
    grams = codes[:-2] * np.uint32(0x9E3779B1) + codes[1:-1] * np.uint32(0x85EBCA77) + third * np.uint32(0xC2B2AE3D)
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), bool)
    inside[ends - 1] = inside[ends - 2] = False
    counts = lengths - 2
    return _mix(grams[inside[:-2]]), np.cumsum(counts) - counts


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread 32-bit values (the finaliser of MurmurHash3), as datasketch does before it permutes them."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    mixed: np.ndarray = values ^ (values >> np.uint32(16))
    return mixed
