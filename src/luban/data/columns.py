"""Tells what a column holds by its values."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from luban.data import tags as tagging
from luban.data.problems import Misfit

KINDS = ("empty", "text", "category", "labels", "tokens", "tags", "spans", "number", "time", "id", "object")
SEPARATORS = ("|", ";", "；", "、", "，", ",")

_TAG = re.compile(r"O|[BIMESLUW][-_].+", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?(?:[ T].*)?")
_ID = re.compile(r"[\w\-:./]+", re.ASCII)


@dataclass(frozen=True)
class Column:
    """One column of a file as it was looked at."""

    name: str
    kind: str
    """One of `KINDS`."""
    missing: float
    """Share of the rows without a value."""
    n_distinct: int
    """Different values (of lists: different elements) among the rows looked at."""
    distinct_share: float
    """Different values by values."""
    mean_length: float
    """Characters of a text, elements of a list."""
    told: str
    """What was seen, in words."""
    separator: str | None = None
    """labels: what stands between them where they are one string."""
    values: Sequence[Any] = field(default=(), repr=False)
    """The values that were looked at; None where there is none."""


def describe(name: str, values: Sequence[Any]) -> Column:
    """Return what a column holds, judged by some of its rows' values."""
    values = [None if _absent(value) else value for value in values]
    present = [value for value in values if value is not None]
    missing = 1.0 - len(present) / max(1, len(values))
    if not present:
        return Column(name, "empty", 1.0, 0, 0.0, 0.0, "no values", values=values)
    if _most(isinstance(value, str) and value[:1] in ("[", "{") for value in present):
        parsed = [_parsed(value) for value in values]
        if _most(isinstance(value, list | dict) for value in parsed if value is not None):
            values, present = parsed, [value for value in parsed if value is not None]
    kind, separator = _kind(present)
    parts = _elements(present, separator) if kind in ("labels", "tokens", "tags") else present
    n_distinct = len({_key(part) for part in parts})
    lengths = [len(value) if isinstance(value, str | list | dict) else len(str(value)) for value in present]
    mean_length = sum(lengths) / len(lengths)
    described = {
        "text": f"{mean_length:.0f} characters on average, {n_distinct / len(parts):.0%} of the values differ",
        "category": f"{n_distinct} values over {len(present)} rows looked at",
        "labels": f"lists of {n_distinct} values over {len(present)} rows looked at",
        "tokens": f"lists of {mean_length:.0f} tokens on average",
        "tags": f"{n_distinct} tags",
        "spans": "stretches of text with labels",
        "number": "numbers",
        "time": "times",
        "id": "a different word in each row",
        "object": "objects",
    }
    share = n_distinct / max(1, len(parts))
    return Column(name, kind, missing, n_distinct, share, mean_length, described[kind], separator, values)


def _kind(present: Sequence[Any]) -> tuple[str, str | None]:
    if _most(isinstance(value, list) for value in present):
        return _kind_of_lists(present), None
    if _most(isinstance(value, dict) for value in present):
        if _most(isinstance(value.get("choices"), list) for value in present if isinstance(value, dict)):
            return "labels", None
        return ("spans" if _most(_is_spans(value) for value in present) else "object"), None
    texts = [value if isinstance(value, str) else str(value) for value in present]
    if _most(isinstance(value, datetime.date) for value in present) or _most(map(_TIME.fullmatch, texts)):
        return "time", None
    if _most(_NUMBER.fullmatch(text) for text in texts) or not _most(isinstance(value, str) for value in present):
        whole = all(text.removesuffix(".0").lstrip("+-").isdigit() for text in set(texts))
        return ("category" if _is_category(texts) and (whole or len(set(texts)) <= 10) else "number"), None
    return _kind_of_texts(texts)


def _kind_of_lists(present: Sequence[Any]) -> str:
    filled = [value for value in present if value]
    elements = [part for value in filled for part in value]
    if not elements:
        return "spans"
    if _most(isinstance(part, dict) for part in elements):
        inner = [part.get("value", part) for part in elements if isinstance(part, dict)]
        if _most(isinstance(part, dict) and "choices" in part for part in inner):
            return "labels"
    few = len({_key(part) for part in elements}) <= max(2, 0.2 * len(elements))
    if not _most(isinstance(part, str) for part in elements):
        if few and _most(isinstance(part, int) for part in elements):
            return "labels"
        return "spans" if _most(_is_spans(value) for value in filled) else "object"
    if _most(isinstance(part, str) and _TAG.fullmatch(part) for part in elements):
        return "tags"
    return "labels" if few and len(elements) <= 6 * len(filled) else "tokens"


def _kind_of_texts(texts: Sequence[str]) -> tuple[str, str | None]:
    words = [word for text in texts[:500] for word in text.split()]
    if len(words) > 2 * min(len(texts), 500) and "O" in words and _most(map(_TAG.fullmatch, words)):
        return "tags", None
    separator = _separator(texts)
    if separator:
        return "labels", separator
    if _is_category(texts):
        return "category", None
    differ = len(set(texts)) == len(texts)
    short = sum(map(len, texts)) <= 40 * len(texts)
    if differ and short and _most(_ID.fullmatch(text) and re.search(r"\d", text) for text in texts):
        return "id", None
    return "text", None


def _is_category(texts: Sequence[str]) -> bool:
    """Tell whether values are few, short, and come again: at most one in five (one in two where rows are few)."""
    n_distinct = len(set(texts))
    if sum(map(len, texts)) > 60 * len(texts) or n_distinct > 2000:
        return False
    return n_distinct <= max(2, len(texts) // (5 if len(texts) >= 100 else 2))


def _separator(texts: Sequence[str]) -> str | None:
    """Return what divides cells into a few names that come again, where it does in one cell of twenty."""
    n_distinct = len(set(texts))
    for mark in SEPARATORS:
        divided = sum(mark in text for text in texts)
        if divided < max(2, 0.05 * len(texts)):
            continue
        parts = [part.strip() for text in texts for part in text.split(mark)]
        names = set(parts)
        # In `New York, NY` or `sports/football` there are more names than different cells.
        few = len(names) <= 500 and 5 * len(names) <= len(parts) and len(names) <= n_distinct
        if few and sum(map(len, names)) <= 30 * len(names):
            return mark
    return None


def _is_spans(value: Any) -> bool:
    try:
        return bool(tagging.spans_of(value)) or not value
    except Misfit:
        return False


def _elements(present: Sequence[Any], separator: str | None) -> list[Any]:
    if separator:
        return [part.strip() for value in present for part in str(value).split(separator)]
    return [
        part
        for value in present
        for part in (value if isinstance(value, list) else value.split() if isinstance(value, str) else [value])
    ]


def _most(found: Any) -> bool:
    """Tell whether 95 of 100 are true, and there are any."""
    flags = [bool(flag) for flag in found]
    return bool(flags) and sum(flags) >= 0.95 * len(flags)


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _parsed(value: Any) -> Any:
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _key(value: Any) -> Hashable:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)
