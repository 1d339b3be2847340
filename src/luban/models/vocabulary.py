"""A base's vocabulary: from texts, or units of them, to the ids of their tokens. Opened when it is first needed.

Processors that were read from folders with equal `tokenizer.json` share one, whatever else their settings say: ten
tasks on one base hold it once. A large vocabulary may be opened in part at first (`luban.models.partial`).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from luban.files import digest_bytes
from luban.models.partial import PartialUnigram, skeleton, special_ids, without_boundaries

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_CHARACTERS = 2_000
"""Texts of a call up to which a vocabulary opened in part is used; over all calls, 20 times as many.

A character takes 4 us then, so that by the time the whole vocabulary is opened, 0.2 s more were spent than need be.
"""


class Vocabulary:
    """Turns texts into token ids; several threads may use it at once."""

    def __init__(self, tokenizer_json: str, *, in_part: bool = False) -> None:
        """Build the tokeniser from the text of a `tokenizer.json`.

        Args:
            tokenizer_json: the vocabulary, and the steps around it.
            in_part: open a large Unigram vocabulary in part, until many texts are encoded.

        Raises:
            ValueError: it can't be read.
        """
        self.tokenizer_json = tokenizer_json
        self._opening = threading.RLock()
        self._whole: Tokenizer | None = None
        self._units: Tokenizer | None = None
        self._n_in_part = 0
        self._partial = PartialUnigram.read(tokenizer_json) if in_part else None
        if self._partial is None:
            texts = self._whole_tokenizer()
            self.special_tokens = _special_tokens(texts)
            self.size = int(texts.get_vocab_size())
            self.head, self.tail = special_ids(texts)
            token_to_id = texts.token_to_id
        else:
            self.special_tokens = list(self._partial.special_tokens)
            self.size = len(self._partial)
            self.head, self.tail = self._partial.special_ids()
            token_to_id = self._partial.token_to_id
        self._specials = _specials(self.special_tokens)
        self.pad_id = _first_id(token_to_id, ("[PAD]", "<pad>", "<|endoftext|>", "</s>"), 0)
        self.unknown_id = _first_id(token_to_id, ("[UNK]", "<unk>"), self.pad_id)

    @classmethod
    def shared(cls, tokenizer_json: str) -> Vocabulary:
        """Return the vocabulary of this text that a processor has open, or one opened now, in part if it is large.

        Raises:
            ValueError: it can't be read.
        """
        key = digest_bytes(tokenizer_json.encode())
        with _opening:
            found = _open.get(key)
            if found is None:
                found = _open[key] = cls(tokenizer_json, in_part=True)
            return found

    @property
    def is_whole(self) -> bool:
        """Whether every piece is open, not just those of the texts at hand."""
        return self._whole is not None

    @cached_property
    def compact_json(self) -> str:
        """The text without the space that some bases' files have."""
        return _compact(json.loads(self.tokenizer_json))

    @property
    def units_json(self) -> str:
        """The text of a `tokenizer.json` that tokenises as `units` does."""
        return _compact(without_boundaries(json.loads(self.tokenizer_json)))

    def plain(self, text: str) -> str:
        """Return a text in which nothing is taken for a special token: a text must not end itself early."""
        return self._specials.sub(_broken_up, text)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text's tokens, without special tokens."""
        if (partial := self._partial_for(sum(map(len, texts)))) is not None:
            return partial.texts(texts)
        found = self._whole_tokenizer().encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def places(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each token of a text, in code points."""
        found: list[tuple[int, int]] = self._whole_tokenizer().encode(text, add_special_tokens=False).offsets
        return found

    def units(self, rows: Sequence[list[str]]) -> list[tuple[list[int], list[int | None]]]:
        """Return for each row of units the ids of its tokens, and which unit each is of."""
        if (partial := self._partial_for(sum(len(unit) for row in rows for unit in row))) is not None:
            return partial.units(rows)
        found = self._unit_tokenizer().encode_batch(rows, is_pretokenized=True, add_special_tokens=False)
        return [(encoding.ids, encoding.word_ids) for encoding in found]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that token ids spell, special tokens left out."""
        found: list[str] = self._whole_tokenizer().decode_batch([list(row) for row in rows])
        return found

    def _partial_for(self, n_characters: int) -> PartialUnigram | None:
        """Return the vocabulary opened in part, if it is open and has not been asked for much yet."""
        partial = self._partial
        if partial is None:
            return None
        self._n_in_part += n_characters
        few = n_characters <= MOST_CHARACTERS and self._n_in_part <= 20 * MOST_CHARACTERS
        return partial if few else None

    def _whole_tokenizer(self) -> Tokenizer:
        with self._opening:
            if self._whole is None:
                self._whole = _tokenizer(self.tokenizer_json)
                self._partial = None
            return self._whole

    def _unit_tokenizer(self) -> Tokenizer:
        """Return a tokeniser that adds no word boundary before a unit: the unit's own space tells of one."""
        with self._opening:
            if self._units is None:
                whole, steps = self._whole_tokenizer(), without_boundaries(json.loads(self.tokenizer_json))
                if all(token["special"] for token in steps["added_tokens"]):  # then a text is never cut at one
                    units = skeleton(steps)
                    units.model = whole.model  # shared: a second vocabulary would take as much time and memory again
                    self._units = units
                else:
                    self._units = _tokenizer(json.dumps(steps))
            return self._units


_open: WeakValueDictionary[str, Vocabulary] = WeakValueDictionary()
"""SHA-256 of a `tokenizer.json` -> the vocabulary that processors have open."""
_opening = threading.Lock()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]


def _specials(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return what finds special tokens spelt out in a text; some models hold them as pieces of words, too."""
    return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")


def _broken_up(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def _first_id(token_to_id: Callable[[str], int | None], tokens: Iterable[str], otherwise: int) -> int:
    """Return the id of the first of some tokens that there is."""
    return next((int(found) for token in tokens if (found := token_to_id(token)) is not None), otherwise)
