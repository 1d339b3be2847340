"""Cleaning steps. They travel in the bundle, so that serving cleans exactly as training did.

Each step looks first whether a text can need it, so that clean text costs one scan; ftfy and OpenCC are imported
only when a text needs them. Imported where bundles answer, so nothing heavy here.
"""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from luban.errors import Problem, ProjectError, did_you_mean

STEPS: dict[str, str] = {
    "unicode": "mend wrongly decoded text, ligatures, line ends and lone surrogates; compose accents (NFC)",
    "control": "remove control, zero-width and direction characters",
    "width": "full-width letters, digits and punctuation become half-width",
    "html": "remove tags, comments, scripts and styles; resolve entities",
    "whitespace": "one space for any run of white space, none at the ends",
    "case": "lower case",
    "simplify": "traditional Chinese becomes simplified",
    "replace": "the project's own replacements, longest first",
    "noise": "remove web addresses, mentions and emoji; shorten repeated punctuation",
}
"""Name of each step -> what it does."""

_MAX_ROUNDS = 8
_MAX_REMEMBERED = 100_000


class Cleaner:
    """Cleans texts by steps in order.

    Cleaning is deterministic, and cleaning clean text changes nothing: a text that changes goes through the steps
    again until it stays as it is (a removed tag may lay open another). `replace` takes part in the first round only,
    since what it writes is the user's wish even where it contains what it replaces.
    """

    def __init__(self, steps: Sequence[str], replace: Mapping[str, str] | None = None) -> None:
        """Check the steps.

        Args:
            steps: names out of `STEPS`.
            replace: for the step `replace`: what is replaced -> with what.

        Raises:
            ProjectError: a step that is not known, or something empty to replace.
        """
        problems = [
            Problem("data.clean", repr(step), "a cleaning step", hint=did_you_mean(str(step), STEPS))
            for step in steps
            if step not in STEPS
        ]
        replace = dict(replace or {})
        if "" in replace:
            problems.append(Problem("data.replace", "an empty text to replace", "one character or more"))
        if problems:
            raise ProjectError(problems)
        self.steps = tuple(steps)
        self.replace = replace
        self._first = [_replacer(replace) if step == "replace" else _BY_NAME[step] for step in self.steps]
        self._again = [_BY_NAME[step] for step in self.steps if step != "replace"]
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the cleaned texts, one for each. Lone surrogates, which no tokeniser takes, are always replaced."""
        return [self._clean(text) for text in texts]

    def clean_token(self, token: str) -> str:
        """Return one token cleaned; empty where nothing of it remains."""
        known = self._tokens.get(token)
        if known is None:
            known = self._clean(token)
            with self._lock:
                if len(self._tokens) >= _MAX_REMEMBERED:
                    self._tokens.clear()
                self._tokens[token] = known
        return known

    def clean_tokens(self, tokens: Sequence[str]) -> list[str]:
        """Return tokens cleaned one by one, so that there are as many as before."""
        return [self.clean_token(token) for token in tokens]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return {"steps": list(self.steps), "replace": dict(self.replace)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cleaner:
        """Return the cleaner that `to_json` wrote."""
        return cls(tuple(value["steps"]), value["replace"])

    def _clean(self, text: str) -> str:
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)
        steps = self._first
        for _ in range(_MAX_ROUNDS):
            before = text
            for step in steps:
                text = step(text)
            if text == before:
                break
            steps = self._again
        return text


_SURROGATE = re.compile(r"[\ud800-\udfff]")

# What ftfy can't change under the settings below: ASCII without carriage returns, escapes and other controls, and CJK
# text, its punctuation and the typographic marks that Chinese shares with others. Measured against ftfy in the tests.
_FTFY_IDLE = re.compile(
    r"[\t\n -~\u2014\u2018\u2019\u201c\u201d\u2026"
    r"\u3000-\u3017\u3041-\u3094\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uff01-\uff5e]*"
)


def _unicode(text: str) -> str:
    if _FTFY_IDLE.fullmatch(text):
        return text
    fix = _ftfy()
    for _ in range(_MAX_ROUNDS):
        fixed = fix(text)
        if fixed == text:
            break
        text = fixed
    return text


@cache
def _ftfy() -> Callable[[str], str]:
    import ftfy

    # Width, entities and controls are steps of their own, and curly quotes are the ordinary ones of Chinese.
    config = ftfy.TextFixerConfig(
        unescape_html=False, fix_character_width=False, uncurl_quotes=False, remove_control_chars=False, explain=False
    )
    return lambda text: ftfy.fix_text(text, config)


# ZWJ and ZWNJ stay: emoji sequences and Persian are spelled with them.
_SEPARATORS = re.compile(r"[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def _control(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub("", _SEPARATORS.sub(" ", text))


_HALF_WIDTH = {0x3000: 0x20, **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}}
_HALF_WIDTH |= dict(zip(range(0xFFE0, 0xFFE7), map(ord, "¢£¬¯¦¥₩"), strict=True))
_FULL_WIDTH = re.compile(r"[\u3000\uff01-\uff5e\uffe0-\uffe6]")


def _width(text: str) -> str:
    if text.isascii() or not _FULL_WIDTH.search(text):
        return text
    return text.translate(_HALF_WIDTH)


# Hidden stretches are found by hand: a lazy `.*?` would look to the end of the text from each opening that is never
# closed, which is quadratic, and texts come from strangers.
_HIDDEN_START = re.compile(r"<!--|<(script|style)\b", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<![a-zA-Z\[][^<>]*>|<\?[^<>]*>")
_BREAKING = re.compile(
    r"</?(?:p|br|div|li|ul|ol|tr|td|th|table|h[1-6]|hr|section|article|blockquote|pre|option|dd|dt)\b", re.IGNORECASE
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def _html(text: str) -> str:
    if "<" in text:
        text = _TAG.sub(lambda tag: " " if _BREAKING.match(tag.group()) else "", _without_hidden(text))
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
    return text


def _without_hidden(text: str) -> str:
    parts: list[str] = []
    position = 0
    lowered = ""
    unclosed: set[str] = set()
    for match in _HIDDEN_START.finditer(text):
        if match.start() < position:
            continue
        end = "-->" if match.group(1) is None else f"</{match.group(1).lower()}"
        if end in unclosed:
            continue
        lowered = lowered or re.sub(r"[A-Z]+", lambda capitals: capitals.group().lower(), text)
        stop = lowered.find(end, match.end())
        close = stop if end == "-->" else text.find(">", stop)
        if stop < 0 or close < 0:
            unclosed.add(end)
            continue
        parts += [text[position : match.start()], " "]
        position = close + (3 if end == "-->" else 1)
    return "".join([*parts, text[position:]])


def _whitespace(text: str) -> str:
    return " ".join(text.split())


def _case(text: str) -> str:
    return text.lower()


def _simplify(text: str) -> str:
    if text.isascii() or _traditional()[0].isdisjoint(text):
        return text
    _, singles, phrases, pattern = _traditional()
    parts = pattern.split(text)  # what matched stands at odd places
    return "".join(phrases[part] if place % 2 else part.translate(singles) for place, part in enumerate(parts))


@cache
def _traditional() -> tuple[frozenset[str], dict[int, str], dict[str, str], re.Pattern[str]]:
    """Return the characters without which nothing changes, both tables (old -> simplified), and the phrases' pattern.

    The tables are OpenCC's. Its Python converter takes 0.4 ms a text, which is too slow to serve; the match here,
    leftmost and then longest, is that of OpenCC itself.
    """
    from importlib.resources import files

    def table(name: str) -> dict[str, str]:
        lines = (files("opencc") / "dictionary" / name).read_text("utf-8").split("\n")
        pairs = (line.strip().split("\t") for line in lines if "\t" in line)
        return {old: new.split(" ")[0] for old, new in pairs}

    singles = {old: new for old, new in table("TSCharacters.txt").items() if old != new}
    phrases = table("TSPhrases.txt")
    changing = {*singles}
    for old, new in phrases.items():
        if old != new and changing.isdisjoint(old):
            changing |= {*old} - {*new}
    pattern = re.compile("(" + "|".join(sorted(phrases, key=lambda old: (-len(old), old))) + ")")
    return frozenset(changing), str.maketrans(singles), phrases, pattern


def _replacer(replace: Mapping[str, str]) -> Callable[[str], str]:
    if not replace:
        return lambda text: text
    pattern = re.compile("|".join(re.escape(old) for old in sorted(replace, key=lambda old: (-len(old), old))))
    return lambda text: pattern.sub(lambda match: replace[match.group()], text)


_NOT_IN_LINK = r"\s\u3000-\u303f\u4e00-\u9fff\uff01-\uff5e<>\"'"
_LINK = re.compile(rf"(?:https?://|www\.)[^{_NOT_IN_LINK}]*[^{_NOT_IN_LINK},.;:!?()@]", re.IGNORECASE)
_MENTION = re.compile(r"(?<![\w.@])@[\w\-]{1,40}(?:[:：])?")
_EMOJI = re.compile(
    r"[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2190-\u21ff\u2300-\u23ff\ufe0f\u200d\u20e3\U000e0020-\U000e007f]"
)
_REPEATED = re.compile(r"([^\w\s])\1+")


def _noise(text: str) -> str:
    text = _LINK.sub(" ", text)
    text = _MENTION.sub(" ", text)
    text = _EMOJI.sub("", text)
    return _REPEATED.sub(r"\1", text)


_BY_NAME: dict[str, Callable[[str], str]] = {
    "unicode": _unicode,
    "control": _control,
    "width": _width,
    "html": _html,
    "whitespace": _whitespace,
    "case": _case,
    "simplify": _simplify,
    "noise": _noise,
}
