"""People's names, known by the words around them: no model. A model that tags names finds more; see `find_personal`.

English: capitalised words after a title, an introduction or a word for a person; or two of which the first is a common
given name; in small letters, after "my name is" and its like alone. Chinese: see `personal_names_zh`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luban.data.people import words
from luban.data.personal_names_zh import chinese_names

_GIVEN = frozenset(words("given_en"))
_AMBIGUOUS = frozenset(words("ambiguous_given_en"))
"""Given names that are also places, months, things or verbs: alone they are no names."""
_ALONE = _GIVEN - _AMBIGUOUS
_NO_SURNAMES = frozenset(words("no_surnames_en"))
_NOT_NAMES = frozenset(words("not_names_en"))

_WORD = (
    r"[A-Z][a-zà-öø-ÿ]+(?:['’-][A-Z]?[a-zà-öø-ÿ]+|(?:(?<=Mc)|(?<=Mac)|(?<=[DL]e)|(?<=Di)|(?<=La))[A-Z][a-z]+)?"
    r"|[OD]['’][A-Z][a-z]+"
)
_PART = rf"(?:{_WORD}|[A-Z]\.)"
_FULL = rf"(?:{_WORD})(?: (?:{_PART}|van|von|de|del|la|der|bin|al)(?!\w))* ?(?:{_WORD})|(?:{_WORD})"
_TITLED = re.compile(rf"\b(?i:{'|'.join(words('titles_en'))})\.? ((?:{_PART})(?: (?:{_WORD}|[A-Z]\.)){{0,2}})")
_NAMED = (
    r"\bmy (?:full |legal |last |first |maiden )?name is|\bname['’]s"
    r"|\bname(?: on (?:the )?\w+)?(?: ?: ?| is | was | of |\b)"
)
_GIVES = rf"\b(?:{'|'.join(words('gives_en'))})(?: [\w$.,£€]+){{0,3}} (?:to|by|for|from)"
_SAID = re.compile(
    rf"(?i:{_NAMED}|\b(?:{'|'.join(words('before_names_en')).replace('_', ' ')})|{_GIVES}"
    r"|\b(?:from|by|under the name(?: of)?|in the name of|on behalf of|cc|to|for|with|between)|\bby name)"
    rf" *[:,(\"“-]?\s*[\"“]?((?-i:{_FULL}))"
)
_SMALL = re.compile(
    r"\b(?:my (?:full |legal )?name is|my name['’]s|the name(?:['’]s| is)|name ?:|call me|i am called|this is) *"
    r"([a-z]+(?:['’-][a-z]+)?(?: [a-z]+(?:['’-][a-z]+)?){0,2})", re.I
)  # fmt: skip
_HERE = re.compile(rf"(?<![\w'’])((?:{_WORD})(?: (?:{_WORD}))?) (?:here|speaking|again)\b")
_PAIR = re.compile(rf"(?<![\w'’])({_WORD})(?: (?:[A-Z]\.|{_WORD}))? (?:{_WORD})(?!\w)")
_STRONG = re.compile(
    r"(?i)(?:name|called|named|call me|dear|regards|sincerely|signed|ask for|speak|spoke|holder|payee|beneficiary|"
    r"recipient|attn|i am|i['’]m|this is|hi|hello|hey|c/o)"
)
_RELATED = re.compile(
    r"(?i)(?:friend|wife|husband|son|daughter|brother|sister|mother|father|mom|dad|boss|cousin|uncle|aunt|neighbou?r|fianc|"
    r"roommate|colleague|patient|landlord|tenant)"
)
_CAPITALISED = re.compile(r"(?<![\w'’@.])[A-Z]\w+(?![\w@])")


def names(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of whatever is a name by the words around it.

    Args:
        text: in plain characters.
    """
    if not text.isascii():
        yield from chinese_names(text)
    yield from _english(text)


def _english(text: str) -> Iterator[tuple[int, int]]:
    capitalised = [match for match in _CAPITALISED.finditer(text) if match[0].lower() not in _NOT_NAMES]
    known = any(match[0].lower() in _GIVEN for match in capitalised)
    if known:
        for match in _PAIR.finditer(text):
            if end := _pair(match):
                yield match.start(), end
    # The first word of a sentence is capitalised anyway, and nothing before it says that a name comes.
    if capitalised and capitalised[-1].start() > 1:
        for match in _TITLED.finditer(text):
            yield match.span(1)
        for match in _SAID.finditer(text):
            start, end = _without_other_words(match)
            if start < end and _is_introduced(text, match, start, end):
                yield start, end
    if known:
        for match in _HERE.finditer(text):
            if match[1].split()[0].lower() in _GIVEN:
                yield match.span(1)
        for match in capitalised:
            if match[0].lower() in _ALONE:
                yield match.span()
    lower = text.lower()
    if "name" in lower or "call" in lower or "this is" in lower:
        for match in _SMALL.finditer(text):
            start, end = _without_other_words(match)
            words = text[start:end].lower().split()
            if words and (words[0] in _ALONE or not match[0].lower().startswith(("this is", "call me"))):
                yield start, end


def _pair(match: re.Match[str]) -> int:
    """Return where a given name and what follows it end; 0 where they are no name."""
    words = match[0].split()
    given, last = words[0].lower(), words[-1].lower()
    if given not in _GIVEN:  # Mary-Ann
        given = given.partition("-")[0]
    if given not in _GIVEN or last in _NO_SURNAMES or (given in _AMBIGUOUS and last in _NOT_NAMES):
        return 0
    if len(words) == 3 and words[1][1:] != "." and words[1].lower() in _NO_SURNAMES:
        return 0
    return match.end()


def _without_other_words(match: re.Match[str]) -> tuple[int, int]:
    """Return start and end of the words of a match's group that can be a name's."""
    start, words = match.start(1), match[1].split(" ")
    while words and words[0].lower() in _NOT_NAMES:
        start += len(words.pop(0)) + 1
    kept = 0
    while kept < len(words) and words[kept].lower() not in _NOT_NAMES:
        kept += 1
    return start, start + len(" ".join(words[:kept]))


def _is_introduced(text: str, match: re.Match[str], start: int, end: int) -> bool:
    words = text[start:end].lower().split()
    if words[0] in _GIVEN or _RELATED.match(match[0]):
        return True
    return _STRONG.match(match[0]) is not None and (len(words) > 1 or _ends(text, end))


def _ends(text: str, at: int) -> bool:
    return (
        at >= len(text)
        or text[at] in '.,;:!?)"”\n'
        or text.startswith((" and ", " from ", " speaking", " here", " calling"), at)
    )
