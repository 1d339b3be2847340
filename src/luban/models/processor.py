"""From texts to token ids: cleaning, the base's prefix, tokenising, and the cutting of long rows into windows.

The same object encodes in training and in the engine. It needs the Rust tokeniser and numpy, never torch.

Legend: N rows, W windows, T tokens of all windows, C tokens that one window has room for besides special tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from luban.data.clean import Cleaner
from luban.errors import CorruptBundle
from luban.files import read_json, write_json, write_text
from luban.models.vocabulary import Vocabulary
from luban.records import Encoded

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

    def __init__(self, settings: ProcessorSettings, vocabulary: str | Vocabulary) -> None:
        """Store the settings and the vocabulary.

        Args:
            settings: all else that decides how a text becomes tokens.
            vocabulary: what turns texts into tokens, or the text of a `tokenizer.json`, which is opened.

        Raises:
            ValueError: the vocabulary can't be read, or the window has no room for text beside special tokens and
                prefix.
        """
        self.settings = settings
        self.vocabulary = Vocabulary(vocabulary) if isinstance(vocabulary, str) else vocabulary
        self._cleaner = Cleaner(settings.clean, settings.replace)
        self.pad_id, self._tail = self.vocabulary.pad_id, self.vocabulary.tail
        self._head = [*self.vocabulary.head, *self._prefix_ids()]
        self.room = settings.max_length - len(self._head) - len(self._tail)
        if self.room < 1:
            raise ValueError(
                f"max_length {settings.max_length} has no room for text beside "
                f"{len(self._head) + len(self._tail)} special tokens"
            )

    @classmethod
    def from_dir(cls, folder: Path) -> Processor:
        """Read a processor that `to_dir` wrote; its vocabulary is shared with all that have the same."""
        try:
            values = read_json(folder / PROCESSOR)
            settings = ProcessorSettings(**{**values, "clean": tuple(values["clean"])})
            return cls(settings, Vocabulary.shared((folder / TOKENIZER).read_text("utf-8")))
        except (TypeError, KeyError, ValueError) as error:
            raise CorruptBundle(f"{folder / PROCESSOR} can't be read: {error}", hint="make the folder again") from error

    def to_dir(self, folder: Path) -> None:
        """Write `processor.json` and `tokenizer.json`, the latter without the space that some bases' files have."""
        write_json(folder / PROCESSOR, asdict(self.settings))
        write_text(folder / TOKENIZER, self.vocabulary.compact_json)

    @property
    def tokenizer_json(self) -> str:
        """The text of the `tokenizer.json`."""
        return self.vocabulary.tokenizer_json

    @property
    def vocabulary_size(self) -> int:
        """Tokens that there are."""
        return self.vocabulary.size

    def facts(self) -> dict[str, Any]:
        """Return what another program needs beside the tokeniser to make the same windows, as JSON values.

        Returns:
            `before` and `after`, token ids around each window, the prefix's among them; `room`, tokens of text between
            them; `pad_id`; `unknown_id`, for a unit of which the tokeniser leaves nothing; `special_tokens`, each of
            which gets a space behind its first character where a text spells it out; `long_text`, `stride`, and the
            cleaning steps `clean` with `replace`.
        """
        return {
            "before": self._head, "after": self._tail, "room": self.room, "pad_id": self.pad_id,
            "unknown_id": self.vocabulary.unknown_id, "special_tokens": self.vocabulary.special_tokens,
            "long_text": self.settings.long_text, "stride": self.settings.stride,
            "clean": list(self.settings.clean), "replace": dict(self.settings.replace),
        }  # fmt: skip

    def tokenizer(self, *, of_units: bool = False) -> str:
        """Return the text of a `tokenizer.json`, for other programs: as it is, or as units are tokenised."""
        return self.vocabulary.units_json if of_units else self.vocabulary.compact_json

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that token ids spell, special tokens left out."""
        return self.vocabulary.decode(rows)

    def clean(self, texts: Sequence[str]) -> list[str]:
        """Clean texts as they are cleaned before tokenising."""
        return self._cleaner(texts)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N,) tokens that each text would take uncut, special tokens and prefix included."""
        bodies = self.vocabulary.texts(self._plain(texts))
        extra = len(self._head) + len(self._tail)
        return np.fromiter((len(ids) + extra for ids in bodies), np.int64, len(bodies))

    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Tokenise N texts: one window each, or several for a long one where the settings say `chunk`."""
        bodies = self.vocabulary.texts(self._plain(texts))
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
        encodings = self.vocabulary.units(words)
        windows: list[list[int]] = []
        marks: list[list[int]] = []
        owners: list[int] = []
        for row, (tokens, of_units) in enumerate(encodings):
            ids, first = self._mark(tokens, of_units, len(words[row]))
            for start in self._starts(len(ids), max(self.settings.stride, self.room // 4)):
                windows.append(ids[start : start + self.room])
                marks.append(first[start : start + self.room])
                owners.append(row)
        head, tail = [-1] * len(self._head), [-1] * len(self._tail)
        encoded = self._assemble(windows, np.array(owners, np.int64), len(rows))
        units = _flat(part for mark in marks for part in (head, mark, tail))
        return Encoded(encoded.ids, encoded.offsets, encoded.rows, encoded.n_rows, units=units)

    def _prefix_ids(self) -> list[int]:
        return self.vocabulary.texts([self.settings.prefix.rstrip()])[0] if self.settings.prefix else []

    def _plain(self, texts: Sequence[str]) -> list[str]:
        """Return cleaned texts, with special tokens that are spelt out in them broken up."""
        return [self.vocabulary.plain(text) for text in self._cleaner(texts)]

    def _plain_units(self, units: Sequence[str]) -> list[str]:
        return [self.vocabulary.plain(unit) for unit in self._cleaner.clean_tokens(units)]

    def _mark(self, ids: list[int], words: list[int | None], n_units: int) -> tuple[list[int], list[int]]:
        """Return a row's ids, and for each token the index of the unit that begins there, or -1."""
        before = [None, *words][: len(words)]
        first = [-1 if word is None or word == last else word for word, last in zip(words, before, strict=True)]
        if len({*words} - {None}) == n_units:
            return ids, first
        # A unit of characters that the tokeniser throws away still wants its answer: it gets the unknown token.
        by_unit: dict[int, list[int]] = {}
        for token, word in zip(ids, words, strict=True):
            if word is not None:
                by_unit.setdefault(word, []).append(token)
        pieces = [by_unit.get(unit, [self.vocabulary.unknown_id]) for unit in range(n_units)]
        marks = [[unit] + [-1] * (len(piece) - 1) for unit, piece in enumerate(pieces)]
        return list(itertools.chain(*pieces)), list(itertools.chain(*marks))

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
