"""Finds personal data in texts: mail addresses, telephone and identity numbers, bank cards, network addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("email", "identity number", "bank card", "ip address", "phone")

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_IDENTITY = re.compile(
    r"(?<![0-9A-Za-z])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[0-9Xx](?![0-9A-Za-z])"
)
_CARD = re.compile(r"(?<![0-9A-Za-z])(?:\d[ -]?){12,18}\d(?![0-9A-Za-z])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_MAYBE_PHONE = re.compile(r"(?:\d[\s().\-/]{0,3}){6,}\d")
_NO_PHONE = re.compile(r"(?:19|20)\d\d\s*[./\-]\s*\d")  # a date
_INSIDE = re.compile(r"[A-Za-z0-9/=.%_]$")  # of an address, a number, a word
_DIGITS = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), 0xFF0B, 0xFF0D, 0xFF0E, 0xFF20)}
_REGIONS = ("CN", "US")


@dataclass(frozen=True, slots=True)
class Personal:
    """One stretch of a text that tells of a person."""

    kind: str
    """One of `KINDS`."""
    start: int
    end: int
    """One past the last character."""


def find_personal(text: str) -> list[Personal]:
    """Return the personal data in a text, in its order.

    Identity numbers (mainland China, GB 11643) and bank cards count only if their check digit is right; telephone
    numbers if they are valid in China, in the United States, or with their country's code. Names and addresses are
    not looked for.
    """
    if not any(map(str.isdigit, text)) and "@" not in text and "＠" not in text:
        return []
    text = text.translate(_DIGITS)  # full-width digits, one for one
    found: list[Personal] = []
    for one in _by_form(text):
        if not any(one.start < other.end and other.start < one.end for other in found):
            found.append(one)
    return sorted(found, key=lambda one: one.start)


def mask(text: str, found: list[Personal]) -> str:
    """Return a text with the inside of its personal data starred, so that a report can show it."""
    for one in reversed(found):
        stretch = text[one.start : one.end]
        kept = min(3, len(stretch) // 4)
        text = text[: one.start + kept] + "*" * (len(stretch) - 2 * kept) + text[one.end - kept :]
    return text


def _by_form(text: str) -> Iterator[Personal]:
    for match in _EMAIL.finditer(text):
        yield Personal("email", *match.span())
    if not _MAYBE_PHONE.search(text) and not _IPV4.search(text):
        return
    for match in _IDENTITY.finditer(text):
        if _identity_is_right(match.group()):
            yield Personal("identity number", *match.span())
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if digits[0] in "3456" and len(set(digits)) > 1 and _luhn(digits):
            yield Personal("bank card", *match.span())
    for match in _IPV4.finditer(text):
        if _is_ip(match.group()):
            yield Personal("ip address", *match.span())
    yield from _phones(text)


def _phones(text: str) -> Iterator[Personal]:
    if not _MAYBE_PHONE.search(text):
        return
    import phonenumbers

    for region in _REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            if not _NO_PHONE.match(match.raw_string) and not _INSIDE.search(text[: match.start]):
                yield Personal("phone", match.start, match.end)


def _identity_is_right(number: str) -> bool:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(weight * int(digit) for weight, digit in zip(weights, number, strict=False))
    return "10X98765432"[total % 11] == number[-1].upper()


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _is_ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    # 1.2.3.4 is more often a version or a numbering than an address; so is anything that begins with 0.
    return not (address.is_unspecified or address.is_multicast or text.startswith("0.")) and len(text) > 7
