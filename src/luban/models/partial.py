"""A large Unigram vocabulary, opened in part: a tokeniser over just those pieces that occur in the texts at hand.

A Unigram model cuts a text into the likeliest row of pieces (Kudo 2018). Pieces that do not occur in the text have no
say in that, so that a tokeniser without them gives the same tokens. To build one over 250,000 pieces takes 0.7 s; to
read them as JSON and build one over a hundred of them takes 0.25 s. It is what a first answer waits for.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_LARGE = 2**20
"""Characters of a tokeniser's JSON from which opening it in part gains more than it takes."""
_MODEL_KEYS = {"type", "unk_id", "vocab", "byte_fallback"}
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class PartialUnigram:
    """The pieces of a Unigram model with their scores, and tokenisers over some of them."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        """Take a tokeniser's JSON, parsed.

        Raises:
            ValueError: it is no Unigram model, or one whose tokens depend on more than the pieces in a text.
        """
        model = definition["model"]
        vocabulary, unknown = model["vocab"], model.get("unk_id")
        self._ids: dict[str, int] = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        self._scores: list[float] = [score for _, score in vocabulary]
        added = definition["added_tokens"]
        plain = all(token["special"] and self._ids.get(token["content"]) == token["id"] for token in added)
        if model["type"] != "Unigram" or not set(model) <= _MODEL_KEYS or unknown is None or not plain:
            raise ValueError("not a Unigram model with special tokens alone beside its pieces")
        if len(self._ids) < len(vocabulary):
            raise ValueError("a piece stands twice among the pieces")
        self._byte_fallback = bool(model.get("byte_fallback"))
        self._longest = max(map(len, self._ids))
        # The lowest score tells what an unknown character costs.
        always = [unknown, self._scores.index(min(self._scores))]
        self._always = {vocabulary[number][0]: number for number in always} | self._bytes()
        self.special_tokens = [token["content"] for token in added]
        self._steps = skeleton(definition)
        self._unit_steps = skeleton(without_boundaries(definition))

    @classmethod
    def read(cls, tokenizer_json: str) -> PartialUnigram | None:
        """Return a tokeniser opened in part, or None where it is small, of another kind, or can't be read so."""
        if len(tokenizer_json) < _LARGE:
            return None
        try:
            with _no_collection():
                return cls(json.loads(tokenizer_json))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None  # the tokeniser as a whole tells what is wrong with it

    def __len__(self) -> int:
        return len(self._scores)

    def token_to_id(self, token: str) -> int | None:
        """Return a token's id, or None where there is no such token."""
        return self._ids.get(token)

    def special_ids(self) -> tuple[list[int], list[int]]:
        """Return the special tokens that are put before and after a text."""
        return special_ids(self._over(self._steps, "a")[0])

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text's tokens, without special tokens."""
        tokenizer, ids = self._over(self._steps, *texts)
        found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[ids[token] for token in encoding.ids] for encoding in found]

    def units(self, rows: Sequence[list[str]]) -> list[tuple[list[int], list[int | None]]]:
        """Return for each row of units the ids of its tokens, and which unit each is of; see `unit_tokenizer`."""
        tokenizer, ids = self._over(self._unit_steps, *(unit for row in rows for unit in row))
        found: list[Encoding] = tokenizer.encode_batch(rows, is_pretokenized=True, add_special_tokens=False)
        return [([ids[token] for token in encoding.ids], encoding.word_ids) for encoding in found]

    def _over(self, steps: Tokenizer, *texts: str) -> tuple[Tokenizer, list[int]]:
        """Return a tokeniser over the pieces in some texts, and its ids -> the whole one's."""
        from tokenizers import Tokenizer
        from tokenizers.models import Unigram

        kept = {**self._always, **self._within({*_cut(steps, texts)})}
        pieces = [(piece, self._scores[number]) for piece, number in kept.items()]
        tokenizer = Tokenizer(Unigram(pieces, 0, self._byte_fallback))
        for step in ("normalizer", "pre_tokenizer", "post_processor"):
            if (found := getattr(steps, step)) is not None:
                setattr(tokenizer, step, found)
        return tokenizer, list(kept.values())

    def _within(self, words: Iterable[str]) -> dict[str, int]:
        """Return every piece that stands in a word, with its id."""
        known, longest, found = self._ids.get, self._longest, {}
        for word in words:
            for start in range(len(word)):
                for end in range(start + 1, min(start + longest, len(word)) + 1):
                    if (number := known(piece := word[start:end])) is not None:
                        found[piece] = number
        return found

    def _bytes(self) -> dict[str, int]:
        return {byte: self._ids[byte] for byte in _BYTES if byte in self._ids} if self._byte_fallback else {}


def _cut(steps: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    """Yield what a tokeniser's model is given of some texts."""
    normalise = steps.normalizer.normalize_str if steps.normalizer is not None else str
    for text in dict.fromkeys(texts):
        plain = normalise(text)
        if steps.pre_tokenizer is None:
            yield plain
        else:
            yield from (word for word, _ in steps.pre_tokenizer.pre_tokenize_str(plain))


def skeleton(definition: Mapping[str, Any]) -> Tokenizer:
    """Return a tokeniser with all steps of a definition but the model's, and no added tokens."""
    from tokenizers import Tokenizer

    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    steps = {**definition, "model": model, "added_tokens": [], "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(steps))


def special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokeniser puts before and after a text."""
    encoding = tokenizer.encode("a")
    mask = encoding.special_tokens_mask
    body = [position for position, special in enumerate(mask) if not special]
    if not body:
        return [], []
    return encoding.ids[: body[0]], encoding.ids[body[-1] + 1 :]


def without_boundaries(node: Any) -> Any:
    """Return a tokeniser's JSON in which no step puts a word boundary before its input."""
    if isinstance(node, list):
        return [without_boundaries(part) for part in node]
    if not isinstance(node, dict):
        return node
    changed = {key: without_boundaries(value) for key, value in node.items() if key not in ("model", "added_tokens")}
    kept = {key: node[key] for key in ("model", "added_tokens") if key in node}
    if node.get("type") == "Metaspace":
        changed.pop("add_prefix_space", None)  # the older spelling of prepend_scheme
        changed["prepend_scheme"] = "never"
    if node.get("type") == "ByteLevel" and "add_prefix_space" in node:
        changed["add_prefix_space"] = False
    return {**changed, **kept}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from going over half a million new lists again and again: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
