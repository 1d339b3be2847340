"""Numbers, times and foreign text as words that are safe to print and easy to read."""

from __future__ import annotations

import unicodedata

UNWRAPPED = 400
"""Width in columns of what is written to a file or a pipe: a line stays one line there, for grep."""
_SHOWN_AS = {"\n": "⏎", "\r": "", "\t": " "}
_HIDDEN = frozenset({"Cc", "Cs", "Co", "Cn"})
# They reorder what stands beside them, so that a line reads as what it is not (Boucher and Anderson 2021).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def safe(text: str, *, lines: bool = False) -> str:
    r"""Return a text that can't command the terminal: control and direction characters are written as `\x1b`.

    Args:
        text: whatever stood in a data file, an error or an argument.
        lines: keep the ends of lines; else they are shown as one sign.
    """
    return "".join(_safe(character, lines) for character in text)


def _safe(character: str, lines: bool) -> str:
    if character.isprintable() and character not in _BIDI:
        return character
    if lines and character == "\n":
        return character
    if character in _SHOWN_AS:
        return _SHOWN_AS[character]
    if unicodedata.category(character) in _HIDDEN or character in _BIDI or character in "\u2028\u2029":
        return character.encode("unicode_escape").decode("ascii")
    return character


def count(number: float) -> str:
    """Return a count with its thousands apart: `12,345`."""
    return f"{number:,.0f}"


def counted(number: float, what: str) -> str:
    """Return a count with what it counts, whose plural has an s: `1 row`, `12,345 rows`."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def rate(number: float) -> str:
    """Return a rate with two or three digits that matter: `1,820`, `45.2`, `0.31`."""
    if number >= 100:
        return count(number)
    return f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def seconds(length_s: float) -> str:
    """Return a length of time: `0.4 s`, `12 s`, `3:05`, `1:02:03`, `2 days 3:00:00`."""
    if length_s < 9.95:
        return f"{max(length_s, 0.0):.1f} s"
    whole = round(length_s)
    if whole < 60:
        return f"{whole} s"
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, left = divmod(rest, 60)
    clock = f"{hours}:{minutes:02}:{left:02}" if hours or days else f"{minutes}:{left:02}"
    return f"{days} day{'' if days == 1 else 's'} {clock}" if days else clock


def left(length_s: float) -> str:
    """Return an estimate of the time left, no finer than it is known: `8 s left`, `3:05 left`."""
    whole = max(length_s, 0.0)
    return f"{seconds(max(round(whole), 1)) if whole >= 10 else f'{max(round(whole), 1)} s'} left"


def megabytes(size_mb: float) -> str:
    """Return a size: `87 MB`, `1.4 GB`."""
    if size_mb >= 999.5:
        return f"{size_mb / 1000:.1f} GB"
    return f"{size_mb:.0f} MB" if size_mb >= 9.95 else f"{size_mb:.1f} MB"


def percent(share: float) -> str:
    """Return a share in percent, whole numbers where that says enough: `44%`, `0.3%`, `99.7%`."""
    hundred = 100 * share
    whole = 1 <= hundred <= 99 or hundred in (0, 100)
    return f"{hundred:.0f}%" if whole else f"{hundred:.1f}%"
