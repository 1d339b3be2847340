"""Where people live, by the grammar of addresses: Chinese from large to small, English from small to large."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luban.data.people import words

_PROVINCE = "|".join(words("provinces_zh"))
_BIG = "|".join(words("towns_zh"))
_NUM = r"(?:[0-9A-Za-z]+(?:[-#][0-9A-Za-z]+)*|[一二三四五六七八九十百零]+|[甲乙丙丁])"
_HOUSE = rf"(?:{_NUM}(?:号楼|号院|号|弄|座|栋|幢|单元|楼|层|室|户|房|支弄|组|期|区|门)[, ]?)"
_WAY = "(?:大街|大道|街道|胡同|路|街|道|巷|弄|里|村|庄|镇|乡|坊|桥|段|条|屯|组)"
_ESTATE = f"(?:{'|'.join(words('estates_zh'))})"
_CJK = "[\u4e00-\u9fff]"
_REGION = rf"(?:(?:{_PROVINCE})(?:省|市|(?:壮族|回族|维吾尔)?自治区|特别行政区)?[, ]?|(?:{_BIG})市?[, ]?)"
_MIDDLE = rf"(?:{_CJK}{{1,6}}?(?:自治州|自治县|地区|新区|市|盟|州|区|县|旗|镇|乡|街道)[, ]?){{0,3}}"
_CHINESE = re.compile(
    rf"{_REGION}{_MIDDLE}{_CJK}{{0,12}}?(?:{_WAY}|{_ESTATE})[, ]?(?:{_CJK}{{0,8}}?{_HOUSE})+(?:[, ]?\d{{6}}(?!\d))?"
    rf"|{_REGION}{_MIDDLE}{_CJK}{{0,12}}?{_WAY}{_CJK}{{2,10}}?{_ESTATE}(?!{_CJK}{{0,2}}{_ESTATE})"
    rf"|{_CJK}{{0,14}}(?:{_WAY}|{_ESTATE}){_HOUSE}+(?:{_CJK}{{0,8}}?{_HOUSE})*(?:[, ]?\d{{6}}(?!\d))?"
)
_LEAD = re.compile(rf"{_CJK}*(?:{'|'.join(words('leads_to_addresses_zh'))})")
_SUFFIX = f"(?:{'|'.join(one.capitalize() for one in words('ways_en'))})s?"
"""Words for ways: USPS Publication 28, appendix C1."""
_INNER = r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Room|Rm|Flat|#)\.? ?#?[\w-]+)?"
_TOWN = r"(?:[,\n]+ ?|, | )(?:[A-Z][\w'.-]+ ?){1,4}"
_STATE_ZIP = r",? (?:[A-Z]{2}|[A-Z][a-z]+),? \d{5}(?:-\d{4})?"
_NOT_INSIDE = r"(?<![\w#$.,-])"
_ENGLISH = re.compile(
    rf"{_NOT_INSIDE}(?:Flat \w+, )?\d{{1,6}}[A-Za-z]?(?:-\d+)? (?:[NSEW]{{1,2}}\.? |North |South |East |West )?"
    rf"(?:[A-Z0-9][\w'’.-]* ){{1,4}}?{_SUFFIX}\b\.?(?: [NSEW]{{1,2}}\b)?{_INNER}(?:{_TOWN}{_STATE_ZIP})?"
    rf"|{_NOT_INSIDE}\d{{1,6}} (?:[A-Z][\w'’.-]* ?){{1,5}}{_INNER}{_TOWN}{_STATE_ZIP}"
    r"|\b(?:P\.? ?O\.? Box|PO box|PSC|Unit|CMR|USNS|USNV|USS|USCGC) [\w-]+,? ?(?:Box \d+)?"
    rf"(?:[,\s]+(?:[A-Z][\w'.-]+ ?){{1,3}}{_STATE_ZIP})"
    r"|\b[Pp]\.? ?[Oo]\.? [Bb]ox \d+"
)
_SMALL = re.compile(
    rf"{_NOT_INSIDE}\d{{1,5}} (?!(?:(?:minute|min|hour|day|week|month|year|mile|block|time)s?|of|or|and|to|the)\b)"
    r"(?:[a-z]+ ){1,2}(?:street|avenue|road|lane|drive|boulevard|st|ave|rd|ln|blvd)\b\.?"
    r"(?:,? (?:apt|apartment|suite|unit|#)\.? ?\w+)?"
)
_HAS_DIGIT = re.compile(r"\d")


def places(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of whatever reads as an address down to a house or a post box; a town alone is none.

    Args:
        text: in plain characters.
    """
    if not text.isascii() and _MARK.search(text):
        for match in _CHINESE.finditer(text):
            start, end = match.span()
            lead = _LEAD.match(text, start, end)
            start = start if lead is None else lead.end()
            end = start + len(text[start:end].rstrip(", "))
            if end - start >= 4:
                yield start, end
    if _HAS_DIGIT.search(text):
        for match in _ENGLISH.finditer(text):
            yield match.span()
        for match in _SMALL.finditer(text):
            yield match.span()


_MARK = re.compile(f"{_WAY}|{_ESTATE}")
