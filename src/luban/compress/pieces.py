"""Which pieces of a tokeniser's vocabulary may go, and a `tokenizer.json` without them.

Two promises, for WordPiece, Unigram and BPE (byte-level, too):

- A text that came out as pieces which stay comes out as the same pieces.
- A text that came out without the unknown token still does: what was one piece falls back to smaller ones, at worst to
  characters or bytes, and pieces for all of these stay.

A character may stand in pieces and have no piece of its own. WordPiece and Unigram then get a new piece for it, whose
vector is the mean of those that it stands in; or the pieces that it stands in stay, where that is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luban.errors import LubanError

BELOW_LOWEST = 10.0
"""How far below the lowest score Unigram puts a character that no piece has (`tokenizers` has it as a constant). A new
piece with this score takes part in no path that was the best before."""
_NEVER_MADE = re.compile(r"[\[<].*[\]>]")
"""Pieces such as `[unused7]`, which no text comes out as."""


@dataclass(frozen=True)
class Trimmed:
    """A vocabulary after pieces were cut. Legend: V tokens that it has now."""

    tokenizer_json: str
    old_ids: np.ndarray
    """(V,) int64: the id that each token had before; -1 for a new piece."""
    made_of: Mapping[int, list[int]]
    """New piece, by its id now -> the ids before of the pieces whose vectors it shall be the mean of."""
    n_spelling: int
    """Pieces that are there so that every text can be spelled."""
    n_extra: int
    """Pieces beyond those and the needed ones."""

    def new_ids(self, n_before: int) -> np.ndarray:
        """Return (n_before,) int64: the id now of each id before; -1 where it was cut."""
        found = np.full(n_before, -1, np.int64)
        kept = self.old_ids >= 0
        found[self.old_ids[kept]] = np.flatnonzero(kept)
        return found


@dataclass
class _Family:
    """What one kind of model says of its pieces."""

    ids: dict[str, int]
    """Piece -> id."""
    spelling: set[str]
    """Pieces that must stay, so that every text can be spelled."""
    new: dict[str, list[int]] = field(default_factory=dict)
    """New piece -> ids of those that it is made of."""
    parts: dict[str, list[str]] = field(default_factory=dict)
    """BPE: piece -> the pieces that merges make it of."""
    affixes: tuple[str, str] = ("", "")
    """What stands before a piece that goes on a word, and behind one that ends it."""

    def bare(self, piece: str) -> str:
        """Return the characters of the text that a piece stands for."""
        before, behind = self.affixes
        piece = piece[len(before) :] if before and piece.startswith(before) and len(piece) > len(before) else piece
        return piece[: -len(behind)] if behind and piece.endswith(behind) and len(piece) > len(behind) else piece


def trim(tokenizer_json: str, needed: Iterable[int], *, extra: int, fixed: Iterable[int] = ()) -> Trimmed:
    """Return a vocabulary of the needed tokens, those with which every text can be spelled, and some others.

    Args:
        tokenizer_json: the text of a `tokenizer.json`.
        needed: ids of the pieces that the data come out as.
        extra: how many others stay: those with the lowest ids, which are the most frequent ones in the order in which
            all three kinds are made, of the pieces that are spelled with the needed pieces' characters.
        fixed: ids of tokens that stay whatever they are, besides special and added ones.

    Raises:
        LubanError: a tokeniser of whole words, which has nothing to fall back to.
    """
    value = json.loads(tokenizer_json)
    model = value["model"]
    added = {token["content"]: int(token["id"]) for token in value.get("added_tokens", ())}
    family = _family(model, set(added))
    pieces = {index: piece for piece, index in family.ids.items()}
    tokens = pieces | {index: content for content, index in added.items()}
    needed = [index for index in needed if index in pieces]
    kept = {*added.values(), *_named(value.get("post_processor")), *fixed} & set(tokens)
    kept |= {family.ids[piece] for piece in family.spelling}
    n_spelling = len(kept)
    for index in needed:
        _keep(index, kept, pieces, family)
    n_needed = len(kept)
    letters = {letter for index in needed for letter in family.bare(pieces[index])}
    for index in sorted(pieces):
        if len(kept) - n_needed >= extra:
            break
        piece = pieces[index]
        if index not in kept and not _NEVER_MADE.fullmatch(piece) and letters.issuperset(family.bare(piece)):
            _keep(index, kept, pieces, family)
    inside = sorted(index for index in kept if index in pieces)
    outside = sorted(kept - set(inside))
    old_ids = np.array([*inside, *([-1] * len(family.new)), *outside], np.int64)
    made_of = {len(inside) + number: ids for number, ids in enumerate(family.new.values())}
    renumbered = {int(old): new for new, old in enumerate(old_ids) if old >= 0}
    _rewrite(value, [pieces[index] for index in inside], list(family.new), renumbered)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Trimmed(text, old_ids, made_of, n_spelling + len(family.new), len(kept) - n_needed)


def _keep(index: int, kept: set[int], pieces: Mapping[int, str], family: _Family) -> None:
    """Add a piece and all that merges make it of."""
    waiting = {index}
    while waiting:
        kept |= waiting
        waiting = {family.ids[part] for index in waiting for part in family.parts.get(pieces[index], ())} - kept


def _kind(model: Mapping[str, Any]) -> str:
    """Return the kind of a model; files of early versions leave it out."""
    if "type" in model:
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model["vocab"], list) else "WordPiece"


def _family(model: Mapping[str, Any], added: set[str]) -> _Family:
    """Return what the model's kind says; added tokens are found in a text before the model sees it."""
    match _kind(model):
        case "WordPiece":
            return _wordpiece(model, added)
        case "Unigram":
            return _unigram(model, added)
        case "BPE":
            return _bpe(model)
        case other:
            raise LubanError(
                f"vocabulary: a tokeniser of the kind {other} has whole words only; without one, its texts are unknown",
                hint="leave vocabulary out of the plan, or choose a base that reads pieces of words",
            )


def _wordpiece(model: Mapping[str, Any], added: set[str]) -> _Family:
    """WordPiece takes the longest piece, again and again, and gives up the whole word where none fits.

    With a piece for every character inside a word that a piece inside a word holds, only the word's first piece could
    fail to fit, or leave a character that has none. Pieces that begin a word so stay, and so the first piece is the one
    it was.
    """
    ids: dict[str, int] = model["vocab"]
    before = str(model.get("continuing_subword_prefix", "##"))
    inside = {
        piece[len(before) :]: index for piece, index in ids.items() if piece.startswith(before) and piece != before
    }
    first = {piece for piece in ids if piece == before or not piece.startswith(before)}
    spelled = {rest for rest in inside if len(rest) == 1}
    new = _lonely(inside, spelled)
    known = spelled | set(new)
    hard = {piece for piece in first - added if not (piece[0] in first and known.issuperset(piece[1:]))}
    singles = {piece for piece in first if len(piece) == 1} | {before + letter for letter in spelled}
    unknown = {str(model["unk_token"])} & set(ids)
    return _Family(
        ids, singles | hard | unknown, {before + letter: of for letter, of in new.items()}, affixes=(before, "")
    )


def _unigram(model: Mapping[str, Any], added: set[str]) -> _Family:
    """Unigram takes the path of the highest score; it may be unknown only at characters with no piece of their own.

    With a piece for every character that a piece holds, such characters are in no piece at all, and every path passes
    them alike: what stays is scored as it was.
    """
    ids = {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    spelling = {piece for piece in ids if len(piece) == 1}
    unknown = model.get("unk_id")
    named = {model["vocab"][unknown][0]} if unknown is not None else set()
    # The lowest score stays, since that of an unknown character is counted from it.
    lowest = min(model["vocab"], key=lambda entry: float(entry[1]))[0]
    if model.get("byte_fallback"):  # what has no piece is bytes, and never unknown
        return _Family(ids, spelling | named | {lowest} | _bytes(ids))
    made = {piece: index for piece, index in ids.items() if piece not in named | added}
    return _Family(ids, spelling | named | {lowest}, _lonely(made, spelling))


def _bpe(model: Mapping[str, Any]) -> _Family:
    """BPE begins with characters (or bytes) and merges neighbours, the earliest merge first.

    No merge is undone later. With all that a piece is ever merged of, whichever way led to it is still there.
    """
    ids: dict[str, int] = model["vocab"]
    before, behind = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    family = _Family(ids, set(), affixes=(before, behind))
    for left, right in map(_pair, model["merges"]):
        family.parts.setdefault(left + right[len(before) :], []).extend((left, right))
    family.spelling = {piece for piece in ids if len(family.bare(piece)) == 1} | _bytes(ids)
    family.spelling |= {str(model["unk_token"])} & set(ids) if model.get("unk_token") else set()
    if model.get("ignore_merges"):  # a word that is a piece is found whole, though its characters may have none
        known = {family.bare(piece) for piece in family.spelling}
        family.spelling |= {piece for piece in ids if not known.issuperset(family.bare(piece))}
    return family


def _bytes(ids: Iterable[str]) -> set[str]:
    return {piece for piece in ids if re.fullmatch(r"<0x[0-9A-F]{2}>", piece)}


def _lonely(pieces: Mapping[str, int], spelled: set[str]) -> dict[str, list[int]]:
    """Return characters that have no piece of their own -> ids of the pieces they stand in, in a settled order."""
    found: dict[str, list[int]] = {}
    for piece, index in sorted(pieces.items(), key=lambda entry: entry[1]):
        for letter in dict.fromkeys(piece):
            if letter not in spelled:
                found.setdefault(letter, []).append(index)
    return found


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _named(node: Any) -> set[int]:
    """Return the ids that a post-processor puts around texts."""
    if isinstance(node, list):
        return {index for part in node for index in _named(part)}
    if not isinstance(node, dict):
        return set()
    found = {index for part in node.get("special_tokens", {}).values() for index in part["ids"]}
    found |= {int(node[end][1]) for end in ("cls", "sep") if end in node}
    return found | _named(node.get("processors"))


def _rewrite(value: dict[str, Any], inside: list[str], new: list[str], renumbered: Mapping[int, int]) -> None:
    """Change a tokenizer.json's values, in place, to these pieces and these numbers."""
    model = value["model"]
    kept = {*inside, *new}
    match _kind(model):
        case "Unigram":
            scores = dict(model["vocab"])
            lowest = min(map(float, scores.values())) - BELOW_LOWEST
            model["vocab"] = [*([piece, scores[piece]] for piece in inside), *([piece, lowest] for piece in new)]
            if model.get("unk_id") is not None:
                model["unk_id"] = renumbered[model["unk_id"]]
        case kind:
            if kind == "BPE":
                before = len(model.get("continuing_subword_prefix") or "")
                whole = [(merge, *_pair(merge)) for merge in model["merges"]]
                model["merges"] = [
                    merge for merge, left, right in whole if {left, right, left + right[before:]} <= kept
                ]
            model["vocab"] = {piece: number for number, piece in enumerate([*inside, *new])}
    for token in value.get("added_tokens", ()):
        token["id"] = renumbered[token["id"]]
    _renumber(value.get("post_processor"), renumbered)
    if value.get("padding"):
        value["padding"]["pad_id"] = renumbered.get(value["padding"]["pad_id"], 0)


def _renumber(node: Any, renumbered: Mapping[int, int]) -> None:
    if isinstance(node, list):
        for part in node:
            _renumber(part, renumbered)
    elif isinstance(node, dict):
        for part in node.get("special_tokens", {}).values():
            part["ids"] = [renumbered[index] for index in part["ids"]]
        for end in ("cls", "sep"):
            if end in node:
                node[end][1] = renumbered[node[end][1]]
        _renumber(node.get("processors"), renumbered)
