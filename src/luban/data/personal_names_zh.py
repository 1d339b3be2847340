"""Chinese names: a surname, and a given name of one or two characters.

They are known where a word before says that a name comes ("姓名", "联系人", "我叫"), where one after is said to people
("先生", "老师"), where a form was filled in ("王伟，男，"), or where three characters are hardly anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luban.data.people import signs, words

_SURNAMES = signs("surnames_zh")
_RARE_SURNAMES = signs("rare_surnames_zh")
"""Surnames that are much more often something else: only after a word that says that a name comes."""
_COMPOUND = words("compound_surnames_zh")
_GIVEN = signs("given_zh")
"""Characters that given names are made of."""
_HARDLY_ELSE = signs("surnames_hardly_else_zh")
"""Surnames that hardly begin another word of three characters; with two of the next they are a name anywhere."""
_TYPICAL = signs("given_typical_zh")
_SINGLE = signs("given_single_zh")
"""Characters that with one of those surnames are hardly anything but a name of two."""
_WORDS = frozenset(words("not_names_zh"))
_NEVER_GIVEN = frozenset("我你他她它您们这那的了在是和有不为以于又也就都")
_HAN = re.compile("[\u4e00-\u9fff]+")
_SURNAME = re.compile(f"[{''.join(sorted(_SURNAMES | _RARE_SURNAMES | {one[0] for one in _COMPOUND}))}]")
_BEFORE = re.compile(
    rf"(?:{'|'.join(words('before_zh'))})(?:的名字|的姓名|姓名|名字|信息|资料)?[是为叫系]?\s*[::：,，、\-（(「“\"'‘]?\s*$"
)
_MILD_BEFORE = re.compile(rf"(?:{'|'.join(words('mild_before_zh'))})\s*[:：“\"]?$")
_FAMILY = re.compile("(?:我|免贵|她|他|人家|本人|客户)姓$")
_AFTER = re.compile("|".join(words("after_zh")))
_SHORT_TITLES = frozenset(("哥", "姐", "总", "工"))
_PLAIN_TITLES = ("先生", "女士", "小姐", "老师")
_OWNS = re.compile(rf"(?:本人)?的(?:{'|'.join(words('owned_zh'))})")
_ALONE_AFTER = re.compile(
    r"[ ,，、]{0,2}(?:[男女](?:[,，。、 ]|$)|\d{4,6}年|\d{6}|[（(]\s*(?:[男女]|身份证|电话|手机|\d{6})|"
    rf"(?:亲)?[收启](?:[,，。、 ]|$)|{'|'.join(words('in_forms_zh'))})"
)
"""What follows a name that begins a part of a sentence, as in a form that was filled in."""
_FILLED_IN = re.compile(r"([\u4e00-\u9fff]{2,4})[ ,，]{1,2}[男女](?:[,，。、 ]|$)")
_END = re.compile(
    r"$|[^\u4e00-\u9fff]|[的在是和与跟给向把被让说住有要想也都已将对从到于就还能会不没用很太了吗呢吧啊呀及或等并]|"
    rf"(?:周[一二三四五六日末]|{'|'.join(words('after_names_zh'))})"
)


def chinese_names(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of whatever is a Chinese name by the words around it.

    Args:
        text: in plain characters.
    """
    end = 0
    for match in _SURNAME.finditer(text):
        at = match.start()
        if at >= end and (found := _name_at(text, at, is_rare=match[0] in _RARE_SURNAMES)):
            yield at, found
            end = found


def _name_at(text: str, at: int, *, is_rare: bool) -> int:
    """Return where the name ends that begins here; 0 where none does."""
    if text[at] not in _SURNAMES and not is_rare and not text.startswith(_COMPOUND, at):
        return 0
    if text[at : at + 2] in _WORDS or (at and text[at] == text[at - 1] == "谢"):
        return 0
    if (at == 0 or _HAN.match(text, at - 1) is None) and (filled := _FILLED_IN.match(text, at)):
        return filled.end(1)
    if is_rare and not text.startswith(_COMPOUND, at):
        if text.startswith(_PLAIN_TITLES, at + 1) and (at == 0 or _HAN.match(text, at - 1) is None):
            return at + 1
        return _after_a_word_for_it(text, at, at + 1) if _BEFORE.search(text[max(0, at - 12) : at]) else 0
    first = at + (2 if text.startswith(_COMPOUND, at) else 1)
    if text[at] != "任" and text.startswith(_PLAIN_TITLES, first):
        return first  # 陈小姐 is no 陈小 that is called 姐
    lengths = [n for n in (2, 1) if _can_be_given(text, first, n)]
    for n in (*lengths, 0):
        match = _AFTER.match(text, first + n)
        title = "" if match is None else match[0]
        if (
            title
            and (n or text[at] != "任")
            and (n or title not in _SHORT_TITLES or _ends(text, first + len(title)))
            and (n != 1 or title != "总")
        ):
            if n == 0 and at and text[at - 1] in "老小" and title in _SHORT_TITLES:
                continue
            return first + n
    before = text[max(0, at - 12) : at]
    if _BEFORE.search(before):
        return _after_a_word_for_it(text, at, first)
    if _FAMILY.search(before) and _stops(text, first):
        return first
    if not lengths:
        return 0
    if _MILD_BEFORE.search(before):
        return first + next((n for n in lengths if _ends(text, first + n)), lengths[0])
    if at == 0 or _HAN.match(text, at - 1) is None:
        for n in lengths:
            if _ALONE_AFTER.match(text, first + n) or (_ends(text, first + n) and _HAN.match(text, first + n)):
                return first + n
    for n in lengths:
        if _OWNS.match(text, first + n):
            return first + n
    return _bare(text, at, first, lengths)


def _bare(text: str, at: int, first: int, lengths: list[int]) -> int:
    """Return where a name ends that nothing announces; 0 where what stands here may well be something else."""
    hardly_else = text[at] in _HARDLY_ELSE
    if 2 in lengths:
        typical = sum(sign in _TYPICAL for sign in text[first : first + 2])
        enough = typical + hardly_else + _ends(text, first + 2)
        if enough >= 2 or (enough and _ends(text, first + 2) and _HAN.match(text, first + 2)):
            return first + 2
    if 1 in lengths and hardly_else and text[first] in _SINGLE:
        after = text[first + 1 : first + 2]
        if after not in _GIVEN or _ends(text, first + 1):
            return first + 1
    return 0


def _after_a_word_for_it(text: str, at: int, first: int) -> int:
    """Return where the name ends that is announced here; what comes after it must not look like a part of it."""
    known = [n for n in (2, 1) if _can_be_given(text, first, n)]
    for n in known:
        if _ends(text, first + n):
            return first + n
    for n in (2, 1):
        given = text[first : first + n]
        if len(given) == n and _HAN.fullmatch(given) and not _NEVER_GIVEN & set(given) and _stops(text, first + n):
            return first + n
    return first + known[0] if known else 0


def _stops(text: str, at: int) -> bool:
    return at >= len(text) or _HAN.match(text, at) is None


def _can_be_given(text: str, at: int, n: int) -> bool:
    given = text[at : at + n]
    return len(given) == n and all(sign in _GIVEN for sign in given)


def _ends(text: str, at: int) -> bool:
    return _END.match(text, at) is not None
