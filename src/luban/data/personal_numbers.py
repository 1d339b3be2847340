"""What has a form and, where there is one, a check digit: numbers of people, cards, cars, telephones, machines."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from datetime import date

_Spans = Iterator[tuple[int, int]]
_B = r"(?<![0-9A-Za-z])"
_E = r"(?![0-9A-Za-z])"

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://([^\s/:@]{1,128}:[^\s/@]{1,256})@")
_IN_QUERY = re.compile(
    r"[?&](?:access_token|api_?key|auth|pass(?:word|wd)?|pwd|secret|token|sig(?:nature)?)=([^\s&#]+)", re.I
)
_SECRET = re.compile(
    rf"{_B}(?:luban_[0-9a-f]{{16}}_[\w-]{{43}}|AKIA[0-9A-Z]{{16}}|gh[pousr]_\w{{36,}}|sk-[\w-]{{20,}})",
    re.ASCII,
)
_PASSWORD = re.compile(
    r"(?:\bpass(?:word|code)\b|\bpin\b|密码|口令)\s*(?:is|was|=|:|是|为)+\s*[\"'“]?([!-~]*\d[!-~]*)", re.I
)

_IDENTITY = re.compile(rf"{_B}[1-9](?:[ -]?\d){{16}}[ -]?[0-9Xx]{_E}")
_IDENTITY_OLD = re.compile(
    r"(?:身份证|identity card|\bID card)\D{0,12}?([1-9]\d{5}\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3})(?!\d)"
)
_SSN = re.compile(rf"{_B}(?!000|666|9)\d{{3}}([- ])(?!00)\d\d\1(?!0000)\d{{4}}{_E}(?!-\d)")
_SSN_BARE = re.compile(r"(?:\bSSN\b|social security)\D{0,24}?((?!000|666|9)\d{9})(?!\d)", re.I)
_IBAN = re.compile(rf"{_B}[A-Za-z]{{2}}\d\d(?: ?[A-Za-z0-9]{{4}}){{2,7}}(?: ?[A-Za-z0-9]{{1,3}})?{_E}")
_IBAN_LENGTHS = {
    "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES":
    24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IT": 27, "LT": 20,
    "LU": 20, "LV": 21, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI":
    19, "SK": 24, "TR": 26, "UA": 29,
}  # fmt: skip
_CARD = re.compile(rf"{_B}\d(?:[ -]{{0,2}}\d){{11,18}}{_E}")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\w)", re.A)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", re.A)
_PASSPORT = re.compile(rf"(?:passport|护照|通行证).{{0,24}}?{_B}([A-Z]{{0,2}}\d{{6,9}}){_E}", re.I | re.S)
_PASSPORT_TOO = re.compile(rf"{_B}(?:[A-Z]\d{{8}}|\d{{9}}){_E}", re.I)
_PASSPORT_CN = re.compile(rf"{_B}E[A-HJ-NP-Z]\d{{7}}{_E}|{_B}[EG]\d{{8}}{_E}")
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领"
_PROVINCE = re.compile(rf"[{_PROVINCES}] ?[A-Za-z]")
_PLATE = re.compile(
    rf"[{_PROVINCES}] ?[A-HJ-NP-Z][-·•. ]?"
    rf"(?:[DF][A-HJ-NP-Z0-9]\d{{4}}|\d{{5}}[DF]|"
    rf"(?=(?:[A-Z]*\d){{2}})[A-HJ-NP-Z0-9]{{4}}[A-HJ-NP-Z0-9挂学警港澳]){_E}", re.I
)  # fmt: skip
_PLATE_SAID = re.compile(
    r"(?i:(?:licen[cs]e|number|registration) plate|\bplate|\bregistration|\breg\b|车牌)"
    r"(?i:[ ,#:：是为]|number|no\b\.?|号码?|is|was|of|reads)*"
    rf"(?=[A-Z -]{{0,6}}\d)([A-Z0-9]{{1,4}}(?:[ -]?[A-Z0-9]{{1,4}}){{1,2}}){_E}"
)
_MOBILE = re.compile(r"(?<![0-9A-Za-z_/=.%+])(?:\(?(?:\+|00)?86\)?[ -]{0,2})?1[ -]?[3-9](?:[ -]?\d){9}(?!\d|\.\d)")
_LANDLINE = re.compile(
    r"(?<![0-9A-Za-z_/=.%+-])(?:(?:\+|00)86[ -]?)?(?:\(0(?:10|2\d|[3-9]\d\d)\)|0(?:10|2\d|[3-9]\d\d))[ -]{0,2}"
    r"[1-9]\d{2,3}[ -]?\d{4}(?:(?:转|[-#]|ext\.? ?)\d{1,6})?(?!\d|\.\d)"
)
_AMERICAN = re.compile(
    r"(?<![0-9A-Za-z_/=%+.-])(?:\+?1[-. ]?)?(?:\([2-9]\d\d\)[-. ]?|[2-9]\d\d[-. ])[2-9]\d\d[-. ]\d{4}"
    r"(?: ?(?:x|ext\.?|extension) ?\d{1,6})?(?!\d|[-.]\d)", re.I
)  # fmt: skip
_ABROAD = re.compile(r"(?<![0-9A-Za-z])(?:\+|00)[1-9](?:[ ().-]{0,3}\d){6,14}(?!\d)(?: ?(?:x|ext\.?) ?\d{1,6})?", re.I)
_SAID = re.compile(
    r"(?:phone|\btel\b|telephone|mobile|\bcell\b|whatsapp|\bcall|\btext|\bdial\b|\bring\b|\bfax\b|\breach|"
    r"hotline|(?:my|her|his|their|our|your|contact|new|old) number\b|"
    r"电话|手机|座机|联系方式|致电|拨打|热线|传真|打给)[^\d.!?。！？\n]{0,24}?(?<![0-9A-Za-z])"
    r"(\+?\(?\d(?:[ ().-]{0,2}\d){6,14})(?!\d)(?: ?(?:x|ext\.?|转) ?\d{1,6})?", re.I
)  # fmt: skip
_NO_PHONE = re.compile(r"(?:19|20)\d\d\s*[./-]?\s*(?:0?[1-9]|1[0-2])\s*[./-]?\s*(?:0?[1-9]|[12]\d|3[01])(?!\d)")
_ACCOUNT = re.compile(
    r"(?:\bqq|微信|vx|wechat|weixin|支付宝|alipay|telegram)(?:号码?|账号|帐号|账户| ?id)?"
    r"\s*(?:是|为|叫|is|:|：| )\s*[@\"“]?([A-Za-z0-9][\w.-]{4,29})", re.I | re.A
)  # fmt: skip
_ACCOUNT_NUMBER = re.compile(
    r"(?:\baccount(?: number| no\.?| #)?|\bacct\b|\brouting number|银行账号|银行帐号|账号|帐号|账户|户头)"
    r"[^\d.!?。！？\n]{0,12}?(?<![0-9A-Za-z])(\d(?:[ -]?\d){6,19})(?!\d)", re.I
)  # fmt: skip
_DIGIT = re.compile("[0-9]")
_SIX_DIGITS = re.compile(r"(?:\d[\s().\-/]{0,3}){5}\d")


def numbers(text: str, kinds: Collection[str]) -> Iterator[tuple[str, int, int]]:
    """Yield kind, start and end of whatever has one of these forms, in the order of `personal.NUMBERS`.

    Args:
        text: in plain characters.
        kinds: what is wanted.
    """
    has_digit = _DIGIT.search(text) is not None
    if not has_digit and "@" not in text and "=" not in text:
        return
    has_number = has_digit and _SIX_DIGITS.search(text) is not None
    for kind, needs, find in _FINDERS:
        if kind in kinds and (needs is _ANY or (has_digit if needs is _DIGIT else has_number)):
            for start, end in find(text):
                yield kind, start, end


def _credentials(text: str) -> _Spans:
    if "://" in text:
        for match in _IN_URL.finditer(text):
            yield match.span(1)
    if "=" in text:
        for match in _IN_QUERY.finditer(text):
            yield match.span(1)
    if "_" in text or "-" in text or "AKIA" in text:
        for match in _SECRET.finditer(text):
            yield match.span()
    lower = text.lower()
    if "pass" in lower or "pin" in lower or "密码" in text or "口令" in text:
        for match in _PASSWORD.finditer(text):
            # The sentence goes on behind it; a password that ends so is hidden but for its last sign.
            yield match.start(1), match.start(1) + len(match[1].rstrip(";,.)\"'"))


def _emails(text: str) -> _Spans:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.span()


def _identities(text: str) -> _Spans:
    for match in _IDENTITY.finditer(text):
        if _identity_is_right(re.sub("[ -]", "", match.group())):
            yield match.span()
    for match in _IDENTITY_OLD.finditer(text):
        yield match.span(1)
    for match in _SSN.finditer(text):
        yield match.span()
    for match in _SSN_BARE.finditer(text):
        yield match.span(1)


def _ibans(text: str) -> _Spans:
    for match in _IBAN.finditer(text):
        # What follows in capitals looks like one more group: the longest stretch that checks is it.
        groups = match.group().split(" ")
        for n in range(len(groups), 0, -1):
            candidate = " ".join(groups[:n])
            if _iban_is_right(candidate.replace(" ", "").upper()):
                yield match.start(), match.start() + len(candidate)
                break


def _cards(text: str) -> _Spans:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _is_issued(digits) and len(set(digits)) > 1 and _luhn(digits):
            yield match.span()


def _ips(text: str) -> _Spans:
    if text.count(".") >= 3:
        for match in _IPV4.finditer(text):
            if _is_ip(match.group()):
                yield match.span()
    if text.count(":") >= 2:
        for match in _IPV6.finditer(text):
            if len(match.group()) > 5 and _is_ip(match.group()):
                yield match.span()


def _passports(text: str) -> _Spans:
    for match in _PASSPORT.finditer(text):
        yield match.span(1)
    if "passports" in text.lower() or "护照" in text:
        for match in _PASSPORT_TOO.finditer(text):
            yield match.span()
    for match in _PASSPORT_CN.finditer(text):
        yield match.span()


def _plates(text: str) -> _Spans:
    if not text.isascii() and _PROVINCE.search(text):
        for match in _PLATE.finditer(text):
            yield match.span()
    for match in _PLATE_SAID.finditer(text):
        yield match.span(1)


def _phones(text: str) -> _Spans:
    for pattern in (_AMERICAN, _MOBILE, _LANDLINE):
        for match in pattern.finditer(text):
            if not _NO_PHONE.match(match.group()):
                yield match.span()
    if "+" in text or "00" in text:
        for match in _ABROAD.finditer(text):
            if _is_possible(match.group()):
                yield match.span()
    for match in _SAID.finditer(text):
        if not _NO_PHONE.match(match[1]):
            yield match.start(1), match.end()


def _accounts(text: str) -> _Spans:
    for pattern in (_ACCOUNT, _ACCOUNT_NUMBER):
        for match in pattern.finditer(text):
            if any(map(str.isdigit, match[1])):
                yield match.span(1)


_ANY = re.compile("")
_FINDERS: tuple[tuple[str, re.Pattern[str], Callable[[str], _Spans]], ...] = (
    ("credentials", _ANY, _credentials),
    ("email", _ANY, _emails),
    ("identity number", _SIX_DIGITS, _identities),
    ("iban", _SIX_DIGITS, _ibans),
    ("bank card", _SIX_DIGITS, _cards),
    ("ip address", _DIGIT, _ips),
    ("passport", _SIX_DIGITS, _passports),
    ("plate", _DIGIT, _plates),
    ("phone", _SIX_DIGITS, _phones),
    ("account", _DIGIT, _accounts),
)
"""Kind, what a text must have for it to be looked for, and what looks."""


def _identity_is_right(number: str) -> bool:
    """Tell whether the day of birth exists and the check digit is right (GB 11643-1999, ISO 7064 MOD 11-2)."""
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(weight * int(digit) for weight, digit in zip(weights, number, strict=False))
    return 1850 < born.year < 2100 and "10X98765432"[total % 11] == number[-1].upper()


def _luhn(digits: str) -> bool:
    """Tell whether the check digit is right (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _is_issued(digits: str) -> bool:
    """Tell whether cards begin so: 3 to 6, Mastercard's 2221 to 2720, JCB's old 1800 and 2131, UnionPay's 81 and 9.

    Of 12 digits there are Maestro's alone.
    """
    if len(digits) == 12:
        return digits[0] == "6" or digits[:2] in ("50", "56", "57", "58")
    return (
        digits[0] in "34569" or digits[:2] == "81" or 2221 <= int(digits[:4]) <= 2720 or digits[:4] in ("1800", "2131")
    )


def _iban_is_right(number: str) -> bool:
    """Tell whether length and check digits are right (ISO 13616, MOD 97-10)."""
    if not 15 <= len(number) <= 34 or not number[:2].isalpha():
        return False
    if number[:2] in _IBAN_LENGTHS and len(number) != _IBAN_LENGTHS[number[:2]]:
        return False
    return int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1


def _is_ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    # 1.2.3.4 is more often a version or a numbering than an address; so is anything that begins with 0.
    return not (address.is_unspecified or address.is_multicast or text.startswith("0.")) and len(text) > 7


def _is_possible(text: str) -> bool:
    """Tell whether a number with its country's code has a length that this country uses."""
    import phonenumbers

    number = "+" + re.sub(r"\D", "", re.split("[xXe]", text)[0]).lstrip("0")
    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(number, None)))
    except phonenumbers.NumberParseException:
        return False
