"""The tiny base: quick, the same every time, and able to learn."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tokenizers

from luban import files
from luban.errors import Conflict
from luban.models import tiny as tiny_bases
from luban.models.base import BaseFolder, find, load_body

TEXTS = ["my card has not come yet", "the card is lost", "我的卡还没到", "卡丢了 card"]


def tokenizer(base: BaseFolder) -> tokenizers.Tokenizer:
    """Return a base's tokeniser."""
    return tokenizers.Tokenizer.from_file(str(base.folder / "tokenizer.json"))


def test_made_in_a_moment_and_whole(tmp_path: Path) -> None:
    started = time.process_time()
    made = tiny_bases.make(tmp_path / "tiny")
    assert time.process_time() - started < 1.0
    assert files.verify(made.folder)["name"] == "tiny"
    assert find("tiny", tmp_path).facts.digest == made.facts.digest
    assert made.facts.max_length == 64
    with pytest.raises(Conflict):
        tiny_bases.make(tmp_path / "tiny")


def test_equal_arguments_equal_bytes(tmp_path: Path) -> None:
    first, same = (tiny_bases.make(tmp_path / name, TEXTS, seed=3) for name in "ab")
    assert files.verify(first.folder)["digest"] == files.verify(same.folder)["digest"]
    assert tiny_bases.make(tmp_path / "c", TEXTS, seed=4).facts.digest != first.facts.digest


def test_sizes(tmp_path: Path) -> None:
    body = load_body(tiny_bases.make(tmp_path / "a", layers=3, width=16, heads=2, max_length=24))
    config = body.config
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (3, 16, 24)


def test_every_character_of_both_languages_is_known(tiny: BaseFolder) -> None:
    encoded = tokenizer(tiny).encode("Where's my card? (it was £5) 我的卡还没到，怎么办？")
    unknown = [token for token in encoded.tokens if token == "[UNK]"]
    assert len(unknown) == 1, "of all these, only the pound sign is no token"
    assert encoded.tokens[:3] == ["[CLS]", "w", "##h"]
    assert encoded.tokens[-1] == "[SEP]"
    for character in "一丁七万丈三上下不与中国人民银行信用卡":
        assert tokenizer(tiny).encode(character).tokens == ["[CLS]", character, "[SEP]"]


def test_common_characters() -> None:
    known = tiny_bases.characters()
    assert len(known) == len(set(known))
    assert sum("\u4e00" <= character <= "\u9fff" for character in known) == 3755


def test_frequent_words_are_tokens(tmp_path: Path) -> None:
    made = tokenizer(tiny_bases.make(tmp_path / "a", TEXTS))
    assert made.encode("Card lost").tokens == ["[CLS]", "card", "l", "##o", "##s", "##t", "[SEP]"]
    few = tokenizer(tiny_bases.make(tmp_path / "b", TEXTS, vocabulary=0))
    assert few.encode("card").tokens == ["[CLS]", "c", "##a", "##r", "##d", "[SEP]"]


def test_pairs(tiny: BaseFolder) -> None:
    encoded = tokenizer(tiny).encode("a", "b")
    assert encoded.tokens == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    assert encoded.type_ids == [0, 0, 0, 1, 1]
