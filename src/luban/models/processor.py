"""From texts to token ids: cleaning, the base's prefix, tokenising, and the cutting of long rows into windows.

The same object encodes in training and in the engine. It needs the Rust tokeniser and numpy, never torch.

Legend: N rows, W windows, T tokens of all windows, C tokens that one window has room for besides special tokens.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luban.data.clean import Cleaner
from luban.errors import CorruptBundle
from luban.files import read_json, write_json, write_text
from luban.records import Encoded

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PROCESSOR = "processor.json"
TOKENIZER = "tokenizer.json"
LongText = Literal["truncate", "head_tail", "chunk"]


@dataclass(frozen=True, kw_only=True)
class ProcessorSettings:
    """Everything but the vocabulary that decides how a text becomes tokens."""

    max_length: int
    """Longest window in tokens, special tokens and prefix included."""
    prefix: str = ""
    """What the base wants before every text, e.g. `query: `."""
    long_text: LongText = "truncate"
    """Text beyond the window: cut off, kept as its head and its tail, or read in several windows."""
    stride: int = 0
    """Tokens that neighbouring windows of one row share."""
    clean: tuple[str, ...] = ()
    """Cleaning steps in order."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """The user's replacements, for the cleaning step `replace`."""


class Processor:
    """Encodes texts, or texts already cut into units, as windows of token ids."""

    def __init__(self, settings: ProcessorSettings, tokenizer_json: str) -> None:
        """Store the settings and build the tokeniser from the text of a `tokenizer.json`.

        Raises:
            ValueError: the window has no room for text beside special tokens and prefix.
        """
        self.settings = settings
        self.tokenizer_json = tokenizer_json
        self._cleaner = Cleaner(settings.clean, settings.replace)
        self._texts = _tokenizer(tokenizer_json)
        self._units: Tokenizer | None = None
        self._specials = _specials(self._texts)
        head, tail = _special_ids(self._texts)
        prefix = self._texts.encode(settings.prefix.rstrip(), add_special_tokens=False).ids if settings.prefix else []
        self._head = [*head, *prefix]
        self._tail = tail
        self.pad_id = _pad_id(self._texts)
        self.room = settings.max_length - len(self._head) - len(self._tail)
        if self.room < 1:
            raise ValueError(
                f"max_length {settings.max_length} has no room for text beside "
                f"{len(self._head) + len(self._tail)} special tokens"
            )

    @classmethod
    def from_dir(cls, folder: Path) -> Processor:
        """Read a processor that `to_dir` wrote."""
        try:
            values = read_json(folder / PROCESSOR)
            settings = ProcessorSettings(**{**values, "clean": tuple(values["clean"])})
            return cls(settings, (folder / TOKENIZER).read_text("utf-8"))
        except (TypeError, KeyError, ValueError) as error:
            raise CorruptBundle(f"{folder / PROCESSOR} can't be read: {error}", hint="make the folder again") from error

    def to_dir(self, folder: Path) -> None:
        """Write `processor.json` and `tokenizer.json`."""
        write_json(folder / PROCESSOR, asdict(self.settings))
        write_text(folder / TOKENIZER, self.tokenizer_json)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._texts.get_vocab_size())

    def clean(self, texts: Sequence[str]) -> list[str]:
        """Clean texts as they are cleaned before tokenising."""
        return self._cleaner(texts)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N,) tokens that each text would take uncut, special tokens and prefix included."""
        encodings = self._texts.encode_batch_fast(self._plain(texts), add_special_tokens=False)
        extra = len(self._head) + len(self._tail)
        return np.fromiter((len(encoding) + extra for encoding in encodings), np.int64, len(encodings))

    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Tokenise N texts: one window each, or several for a long one where the settings say `chunk`."""
        encodings = self._texts.encode_batch_fast(self._plain(texts), add_special_tokens=False)
        bodies = [encoding.ids for encoding in encodings]
        if max(map(len, bodies), default=0) <= self.room:
            return self._assemble(bodies, np.arange(len(bodies)), len(bodies))
        windows: list[list[int]] = []
        rows: list[int] = []
        for row, ids in enumerate(bodies):
            pieces = [ids] if len(ids) <= self.room else self._cut(ids)
            windows += pieces
            rows += [row] * len(pieces)
        return self._assemble(windows, np.array(rows), len(bodies))

    def encode_units(self, rows: Sequence[Sequence[str]], spaced: Sequence[Sequence[bool]]) -> Encoded:
        """Tokenise N rows that are already cut into units, keeping where each unit's first token stands.

        A row longer than the window is always read in overlapping windows, since every unit wants an answer.

        Args:
            rows: the units of each row, words or characters.
            spaced: for each unit, whether white space (or the start of the text) stands before it.
        """
        words = [
            [f" {unit}" if space else unit for unit, space in zip(plain, spaces, strict=True)]
            for plain, spaces in zip(map(self._plain_units, rows), spaced, strict=True)
        ]
        encodings = self._unit_tokenizer().encode_batch(words, is_pretokenized=True, add_special_tokens=False)
        windows: list[list[int]] = []
        marks: list[list[int]] = []
        owners: list[int] = []
        for row, encoding in enumerate(encodings):
            ids, first = self._mark(encoding, len(words[row]))
            for start in self._starts(len(ids), max(self.settings.stride, self.room // 4)):
                windows.append(ids[start : start + self.room])
                marks.append(first[start : start + self.room])
                owners.append(row)
        head, tail = [-1] * len(self._head), [-1] * len(self._tail)
        encoded = self._assemble(windows, np.array(owners, np.int64), len(rows))
        units = _flat(part for mark in marks for part in (head, mark, tail))
        return Encoded(encoded.ids, encoded.offsets, encoded.rows, encoded.n_rows, units=units)

    def _plain(self, texts: Sequence[str]) -> list[str]:
        """Return cleaned texts in which nothing is taken for a special token: a text must not end itself early."""
        return [self._specials.sub(_broken_up, text) for text in self._cleaner(texts)]

    def _unit_tokenizer(self) -> Tokenizer:
        """Return a tokeniser that adds no word boundary before a unit: the unit's own space tells of one."""
        if self._units is None:
            self._units = _tokenizer(json.dumps(_without_boundaries(json.loads(self.tokenizer_json))))
        return self._units

    def _plain_units(self, units: Sequence[str]) -> list[str]:
        return [self._specials.sub(_broken_up, unit) for unit in self._cleaner.clean_tokens(units)]

    def _mark(self, encoding: Encoding, n_units: int) -> tuple[list[int], list[int]]:
        """Return a row's ids, and for each token the index of the unit that begins there, or -1."""
        ids, words = encoding.ids, encoding.word_ids
        before = [None, *words][: len(words)]
        first = [-1 if word is None or word == last else word for word, last in zip(words, before, strict=True)]
        if len({*words} - {None}) == n_units:
            return ids, first
        # A unit of characters that the tokeniser throws away still wants its answer: it gets the unknown token.
        unknown = self._unknown_id()
        by_unit: dict[int, list[int]] = {}
        for token, word in zip(ids, words, strict=True):
            if word is not None:
                by_unit.setdefault(word, []).append(token)
        pieces = [by_unit.get(unit, [unknown]) for unit in range(n_units)]
        marks = [[unit] + [-1] * (len(piece) - 1) for unit, piece in enumerate(pieces)]
        return list(itertools.chain(*pieces)), list(itertools.chain(*marks))

    def _unknown_id(self) -> int:
        for token in ("[UNK]", "<unk>"):
            if (found := self._texts.token_to_id(token)) is not None:
                return int(found)
        return self.pad_id

    def _cut(self, ids: list[int]) -> list[list[int]]:
        """Cut the tokens of one long text as the settings say."""
        if self.settings.long_text == "truncate":
            return [ids[: self.room]]
        if self.settings.long_text == "head_tail":
            tail = self.room // 2
            return [ids[: self.room - tail] + ids[len(ids) - tail :]]
        return [ids[start : start + self.room] for start in self._starts(len(ids), self.settings.stride)]

    def _starts(self, n_tokens: int, stride: int) -> range:
        """Return where the windows over `n_tokens` begin; neighbours share `stride` tokens."""
        step = max(1, self.room - stride)
        return range(0, max(1, n_tokens - min(stride, self.room - 1)), step)

    def _assemble(self, windows: Sequence[list[int]], rows: np.ndarray, n_rows: int) -> Encoded:
        """Put special tokens around windows and lay them end to end."""
        extra = len(self._head) + len(self._tail)
        lengths = np.fromiter((len(window) + extra for window in windows), np.int64, len(windows))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        ids = _flat(part for window in windows for part in (self._head, window, self._tail))
        return Encoded(ids, offsets, rows.astype(np.int64), n_rows)


def _flat(parts: Iterable[list[int]]) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(parts), np.int32)


def _tokenizer(text: str) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises a bare Exception
        raise ValueError(f"the tokeniser can't be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _specials(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Return what finds special tokens spelt out in a text; some models hold them as pieces of words, too."""
    spelt = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return re.compile("|".join(spelt) or r"(?!)")


def _broken_up(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokeniser puts before and after a text."""
    encoding = tokenizer.encode("a")
    mask = encoding.special_tokens_mask
    body = [position for position, special in enumerate(mask) if not special]
    if not body:
        return [], []
    return encoding.ids[: body[0]], encoding.ids[body[-1] + 1 :]


def _pad_id(tokenizer: Tokenizer) -> int:
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    return 0


def _without_boundaries(node: Any) -> Any:
    """Return a tokeniser's JSON in which no step puts a word boundary before its input."""
    if isinstance(node, list):
        return [_without_boundaries(part) for part in node]
    if not isinstance(node, dict):
        return node
    changed = {key: _without_boundaries(value) for key, value in node.items() if key not in ("model", "added_tokens")}
    kept = {key: node[key] for key in ("model", "added_tokens") if key in node}
    if node.get("type") == "Metaspace":
        changed.pop("add_prefix_space", None)  # the older spelling of prepend_scheme
        changed["prepend_scheme"] = "never"
    if node.get("type") == "ByteLevel" and "add_prefix_space" in node:
        changed["add_prefix_space"] = False
    return {**changed, **kept}
