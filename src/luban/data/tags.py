"""Tag schemes (BIO, IOB1, BIOES, BMES, BMEWO, BILOU, plain) and spans, brought to one form: BIO over units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luban.data import units
from luban.data.problems import Misfit

OUTSIDE = "O"
UNNAMED = "ENTITY"
"""Label of entities whose tags are bare letters."""

_PREFIXED = re.compile(r"([BIMESLUW])[-_](.+)", re.DOTALL)
_BARE = re.compile(r"[BIMESLUW]")
_BEGINS = frozenset("BSUW")
_ENDS = frozenset("ESLUW")


def is_prefixed(tags: Iterable[str]) -> bool:
    """Tell whether tags say where an entity begins (`B-PER`, `S-PER`), rather than naming labels alone (`PER`)."""
    return any(_PREFIXED.fullmatch(tag) or _BARE.fullmatch(tag) for tag in tags)


def to_bio(tags: Sequence[str], *, prefixed: bool = True) -> tuple[list[str], int]:
    """Return tags as BIO, and how many had to be mended.

    Mended is a tag that goes on with an entity where none of its label is open (`I-PER` after `O`, after another
    label, or after the end of an entity): it begins one.

    Args:
        tags: one row's tags in any of the schemes; `O` or nothing where there is no entity.
        prefixed: False for plain labels, where each run of one label is an entity.
    """
    bio: list[str] = []
    n_mended = 0
    open_label: str | None = None
    for tag in tags:
        if tag in (OUTSIDE, "", "o", "_"):
            bio.append(OUTSIDE)
            open_label = None
            continue
        if prefixed and (match := _PREFIXED.fullmatch(tag)):
            letter, label = match.groups()
        elif prefixed and _BARE.fullmatch(tag):
            letter, label = tag, UNNAMED
        else:
            letter, label = ("I" if open_label == tag else "B"), tag
        begins = letter in _BEGINS
        if not begins and open_label != label:
            begins = True
            n_mended += 1
        bio.append(f"{'B' if begins else 'I'}-{label}")
        open_label = None if letter in _ENDS else label
    return bio, n_mended


@dataclass(frozen=True, slots=True)
class RawSpan:
    """A span as a file gives it, end exclusive."""

    start: int
    end: int
    label: str
    mention: str | None = None
    """The text that the span should cover, where the file says it."""


def spans_of(value: Any) -> list[RawSpan]:
    """Return the spans in any of the known forms.

    Known are: CLUENER's `{label: {mention: [[start, last], ...]}}` (the last character is part of the span), lists of
    `[start, end, label]` (doccano), lists of objects with `start`/`start_offset`/`begin`, `end`/`end_offset` and
    `label`/`labels`/`type`/`entity`, and Label Studio's results.

    Raises:
        Misfit: another form.
    """
    if value is None:
        return []
    if isinstance(value, Mapping):
        return list(_cluener(value))
    if not isinstance(value, list | tuple):
        raise Misfit(f"a {type(value).__name__}", "a list of spans")
    return [span for item in value for span in _from_item(item)]


def _cluener(value: Mapping[str, Any]) -> Iterator[RawSpan]:
    wanted = "{label: {mention: [[start, last], ...]}}"
    for label, mentions in value.items():
        if not isinstance(mentions, Mapping):
            raise Misfit(f"{label!r}: a {type(mentions).__name__}", wanted)
        for mention, places in mentions.items():
            if not isinstance(places, list | tuple):
                raise Misfit(f"{mention!r}: a {type(places).__name__}", wanted)
            for place in places:
                if not (isinstance(place, list | tuple) and len(place) == 2):
                    raise Misfit(f"{mention!r}: {place!r}"[:80], wanted)
                start, last = _whole(place[0]), _whole(place[1])
                yield RawSpan(start, last + 1, str(label), str(mention))


def _from_item(item: Any) -> Iterator[RawSpan]:
    if isinstance(item, list | tuple):
        if len(item) != 3:
            raise Misfit(f"a span of {len(item)} values", "[start, end, label]")
        yield RawSpan(_whole(item[0]), _whole(item[1]), _label(item[2]))
        return
    if not isinstance(item, Mapping):
        raise Misfit(f"a {type(item).__name__}", "[start, end, label], or an object with start, end and label")
    value = item.get("value", item)
    if not isinstance(value, Mapping):
        raise Misfit(f"value: a {type(value).__name__}", "an object with start, end and labels")
    if "choices" in value and "start" not in value:
        return  # Label Studio: a choice over the whole text, beside the spans
    start = _first(value, "start", "start_offset", "begin", "start_pos", "from")
    end = _first(value, "end", "end_offset", "stop", "end_pos", "to")
    if start is None or end is None:
        if item.get("type") in ("relation", "textarea", "rating", "taxonomy"):
            return
        raise Misfit(f"an object with {', '.join(map(str, value)) or 'nothing'}"[:80], "start, end and label")
    labels = _first(value, "labels", "label", "type", "entity", "tag", "entity_type")
    if labels is None:
        raise Misfit("a span with no label", "start, end and label")
    mention = _first(value, "text", "mention", "word")
    for label in labels if isinstance(labels, list | tuple) else [labels]:
        yield RawSpan(_whole(start), _whole(end), _label(label), mention if isinstance(mention, str) else None)


def _first(value: Mapping[str, Any], *names: str) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise Misfit(f"{value!r}"[:60], "a whole number of characters")
    return int(value)


def _label(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise Misfit(f"the label {value!r}"[:60], "a name")
    return str(value).strip()


def place(text: str, spans: Sequence[RawSpan]) -> tuple[list[str], list[str], int]:
    """Cut a text into units and tag them by its spans.

    A span's edge inside a unit splits the unit. White space at a span's ends is left out of it. Of spans that
    overlap the longest stays (BIO holds one label a unit), then the first.

    Returns:
        Tokens, BIO tags, and how many spans gave way to others.

    Raises:
        Misfit: a span that is empty, leaves the text, or does not cover the mention it claims.
    """
    fitted = [_fit(text, span) for span in spans]
    taken: list[tuple[int, int, str]] = []
    n_dropped = 0
    for start, end, label in sorted(set(fitted), key=lambda span: (span[0] - span[1], span[0], span[2])):
        if any(start < other_end and other_start < end for other_start, other_end, _ in taken):
            n_dropped += 1
        else:
            taken.append((start, end, label))
    taken.sort()
    edges = sorted({edge for start, end, _ in taken for edge in (start, end)})
    tokens: list[str] = []
    tags: list[str] = []
    current = 0
    for start, end in _cut(units.split(text), edges):
        while current < len(taken) and taken[current][1] <= start:
            current += 1
        inside = current < len(taken) and taken[current][0] <= start
        tokens.append(text[start:end])
        if inside:
            tags.append(f"{'B' if start == taken[current][0] else 'I'}-{taken[current][2]}")
        else:
            tags.append(OUTSIDE)
    return tokens, tags, n_dropped


def _fit(text: str, span: RawSpan) -> tuple[int, int, str]:
    start, end = span.start, span.end
    if span.mention is not None and text[max(start, 0) : max(end, 0)] != span.mention:
        # Label Studio counts in UTF-16 units, as browsers do: the same but where characters lie beyond the first plane.
        start, end = _from_utf16(text, start), _from_utf16(text, end)
        if text[max(start, 0) : max(end, 0)] != span.mention:
            raise Misfit(
                f"{span.label!r} at {span.start} to {span.end}: {text[max(span.start, 0) : max(span.end, 0)][:30]!r}",
                f"{span.mention[:30]!r}, as the file says itself",
                "the text was changed after it was annotated",
            )
    if not 0 <= start < end <= len(text):
        raise Misfit(f"{span.label!r} from {start} to {end}", f"0 <= start < end <= {len(text)}, the text's length")
    covered = text[start:end]
    if not covered.strip():
        raise Misfit(f"{span.label!r} from {start} to {end}: white space alone", "a span with something in it")
    return start + len(covered) - len(covered.lstrip()), end - len(covered) + len(covered.rstrip()), span.label


def _from_utf16(text: str, place: int) -> int:
    """Return the code point at which a UTF-16 offset stands."""
    if place < 0:
        return place
    return len(text.encode("utf-16-le", "surrogatepass")[: 2 * place].decode("utf-16-le", "ignore"))


def _cut(places: Sequence[tuple[int, int]], edges: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield places cut at the edges that lie inside them."""
    position = 0
    for start, end in places:
        while position < len(edges) and edges[position] <= start:
            position += 1
        while position < len(edges) and edges[position] < end:
            yield start, edges[position]
            start = edges[position]
            position += 1
        yield start, end
