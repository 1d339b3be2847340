"""What stays of a vocabulary: no text is lost, and texts of pieces that stay come out as they did."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from luban.compress.pieces import Trimmed, trim
from luban.errors import LubanError
from luban.models.base import BaseFolder

LETTERS = "abcx"
WORDS = st.text(LETTERS, min_size=1, max_size=7)
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=25)
PIECE = st.text(LETTERS, min_size=1, max_size=4)
KNOWN = st.lists(st.text("abc", min_size=1, max_size=7), min_size=5, max_size=25)
CHOICE = st.tuples(st.randoms(use_true_random=False), st.integers(0, 4))
many = settings(max_examples=150, deadline=None)


def cut(tokenizer: Tokenizer, choice: Any) -> tuple[Tokenizer, Trimmed]:
    """Return the tokeniser with some pieces needed, drawn at random, and a few others."""
    random, extra = choice
    size = tokenizer.get_vocab_size()
    needed = random.sample(range(size), random.randint(0, size // 2))
    trimmed = trim(tokenizer.to_str(), needed, extra=extra)
    assert set(needed) <= set(trimmed.old_ids.tolist())
    return Tokenizer.from_str(trimmed.tokenizer_json), trimmed


def promises(tokenizer: Tokenizer, choice: Any, texts: list[str], unknown: str | None) -> int:
    """Hold both promises against texts; return how many texts came out as they did."""
    small, trimmed = cut(tokenizer, choice)
    assert small.get_vocab_size() == len(trimmed.old_ids)
    numbers = trimmed.new_ids(tokenizer.get_vocab_size())
    same = 0
    for text in texts:
        before, after = tokenizer.encode(text), small.encode(text)
        ids = numbers[before.ids]
        if unknown is None or unknown not in before.tokens:
            assert unknown is None or unknown not in after.tokens, (text, before.tokens, after.tokens)
            assert "".join(after.tokens).replace("##", "") == "".join(before.tokens).replace("##", "")
            if (ids >= 0).all():
                assert after.ids == ids.tolist(), (text, before.tokens, after.tokens)
                same += 1
    for token, number in small.get_vocab(with_added_tokens=True).items():
        old = int(trimmed.old_ids[number])
        assert old == -1 or tokenizer.id_to_token(old) == token
    return same


def with_specials(model: Any) -> Tokenizer:
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[PAD]", "[CLS]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", made.token_to_id("[CLS]"))]
    )
    return made


@many
@given(st.sets(PIECE, max_size=14), st.sets(PIECE, max_size=14), CHOICE, TEXTS)
def test_wordpiece(first: set[str], inside: set[str], choice: Any, texts: list[str]) -> None:
    pieces = ["[UNK]", "[CLS]", *sorted(first), *(f"##{piece}" for piece in sorted(inside))]
    model = models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    promises(with_specials(model), choice, texts, "[UNK]")


@many
@given(st.sets(PIECE, min_size=1, max_size=20), st.lists(st.integers(1, 12), min_size=20, max_size=20), CHOICE, TEXTS)
def test_unigram(pieces: set[str], scores: list[int], choice: Any, texts: list[str]) -> None:
    scored = [(piece, -float(score)) for piece, score in zip(sorted(pieces), scores, strict=False)]
    model = models.Unigram([("<unk>", 0.0), *scored], unk_id=0, byte_fallback=False)
    tokenizer = with_specials(model)
    unknown = {text for text in texts if 0 in tokenizer.encode(text).ids}
    small, trimmed = cut(tokenizer, choice)
    numbers = trimmed.new_ids(tokenizer.get_vocab_size())
    for text in texts:
        before, after = tokenizer.encode(text).ids, small.encode(text).ids
        if text not in unknown:
            assert numbers[0] not in after
            if (numbers[before] >= 0).all():
                assert after == numbers[before].tolist()


@many
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25), st.booleans(), CHOICE, KNOWN, TEXTS)
def test_bpe(steps: list[tuple[int, int]], whole_words: bool, choice: Any, known: list[str], texts: list[str]) -> None:
    pieces, merges = ["[UNK]", "a", "b", "c"], []
    for one, other in steps:  # the character x stays unknown
        left, right = pieces[1:][one % (len(pieces) - 1)], pieces[1:][other % (len(pieces) - 1)]
        if (left, right) not in merges and len(left + right) < 9:
            merges.append((left, right))
            if left + right not in pieces:
                pieces.append(left + right)
    ids = {piece: index for index, piece in enumerate(pieces)}
    if whole_words:
        ids["xa"] = len(ids)
    model = models.BPE(ids, merges, unk_token="[UNK]", ignore_merges=whole_words)
    promises(with_specials(model), choice, [*known, *texts], "[UNK]")


@many
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), CHOICE, KNOWN, st.lists(st.text(max_size=8))
)
def test_byte_level_bpe(steps: list[tuple[int, int]], choice: Any, known: list[str], texts: list[str]) -> None:
    letters = ["a", "b", "c", "Ġ"]
    pieces, merges = [*sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(letters)), *letters], []
    for one, other in steps:
        left, right = pieces[252:][one % (len(pieces) - 252)], pieces[252:][other % (len(pieces) - 252)]
        if left + right not in pieces:
            merges.append((left, right))
            pieces.append(left + right)
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.add_special_tokens(["</s>", "<s>"])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends)
    promises(tokenizer, choice, [*known, *texts], None)


def test_bytes_stay_where_unigram_falls_back_to_them() -> None:
    vocabulary = [("<unk>", 0.0), ("a", -1.0), ("ab", -2.0), ("bb", -9.0), *((f"<0x{n:02X}>", 0.0) for n in range(256))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    small = Tokenizer.from_str(trim(tokenizer.to_str(), [1], extra=0).tokenizer_json)
    assert small.get_vocab_size() == 259  # <unk>, a, bytes, and the lowest score
    assert small.encode("aé").tokens == tokenizer.encode("aé").tokens == ["a", "<0xC3>", "<0xA9>"]


def test_a_character_without_a_piece_gets_one() -> None:
    ids = {piece: index for index, piece in enumerate(["[UNK]", "a", "aa", "##b", "##ab", "##bx"])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    assert tokenizer.encode("aabx").tokens == ["aa", "##bx"]
    trimmed = trim(tokenizer.to_str(), [4], extra=0)
    small = Tokenizer.from_str(trimmed.tokenizer_json)
    assert small.encode("aabx").tokens == ["a", "##ab", "##x"]
    assert trimmed.made_of[small.token_to_id("##x")] == [5]
    assert trimmed.old_ids[small.token_to_id("##x")] == -1


def test_extra_pieces_are_frequent_ones_of_the_same_characters() -> None:
    singles = ["a", "б", "b", "[", "##a", "##б", "##b", "##]"]
    pieces = ["[UNK]", "[b]", *singles, "bб", "aa", "ab", "aba", "бб", "bb"]
    model = models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    trimmed = trim(Tokenizer(model).to_str(), [pieces.index("ab")], extra=2)
    found = set(json.loads(trimmed.tokenizer_json)["model"]["vocab"])
    assert found == {"[UNK]", *singles, "ab", "aa", "aba"}
    assert trimmed.n_extra == 2


def test_added_tokens_beyond_the_model_move_down_behind_it() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("aa", -3.0), ("aaa", -4.0)], unk_id=0))
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.enable_padding(pad_id=4, pad_token="<mask>")
    small = Tokenizer.from_str(trim(tokenizer.to_str(), [], extra=0).tokenizer_json)
    assert small.token_to_id("<mask>") == 3  # after <unk>, a, and the lowest score
    assert small.padding is not None and small.padding["pad_id"] == 3


def test_merges_written_in_the_older_form() -> None:
    value = json.loads(Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "aab": 3}, [("a", "b"), ("a", "ab")])).to_str())
    value["model"]["merges"] = ["a b", "a ab"]
    del value["model"]["type"]
    trimmed = trim(json.dumps(value), [2], extra=0)
    assert json.loads(trimmed.tokenizer_json)["model"]["merges"] == ["a b"]


def test_whole_words_can_not_be_cut() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(LubanError, match="whole words only"):
        trim(tokenizer.to_str(), [1], extra=0)


@pytest.mark.parametrize("base", ["minilm", "e5"])
def test_real_tokenisers_keep_their_promises(base: str, request: pytest.FixtureRequest) -> None:
    folder: BaseFolder = request.getfixturevalue(base)
    text = (folder.folder / "tokenizer.json").read_text("utf-8")
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown = {"minilm": "[UNK]", "e5": "<unk>"}[base]
    learnt = ["what is the exchange rate?", "我的卡丢了，什么时候能到？", "query: my card was lost"]
    needed = sorted({index for line in learnt for index in tokenizer.encode(line).ids})
    trimmed = trim(text, needed, extra=500)
    assert len(trimmed.old_ids) < 0.3 * tokenizer.get_vocab_size()
    assert trimmed.n_extra == 500 and not trimmed.made_of
    small = Tokenizer.from_str(trimmed.tokenizer_json)
    small.no_padding()
    small.no_truncation()
    numbers = trimmed.new_ids(tokenizer.get_vocab_size())
    strange = [
        "Überraschungsei № 5",
        "неизвестное слово",
        "人工智能技术",
        "ｆｕｌｌｗｉｄｔｈ",
        "naïve café",
        "∞ ≠ ℵ",
        "한국어",
        "x" * 90,
    ]
    exact = 0
    for line in [*learnt, *strange, "exchange my card", "antidisestablishmentarianism of the exchange"]:
        before, after = tokenizer.encode(line), small.encode(line)
        assert (unknown in after.tokens) == (unknown in before.tokens), line
        if (numbers[before.ids] >= 0).all():
            exact += 1
            assert after.ids == numbers[before.ids].tolist()
    assert exact >= len(learnt)
    assert np.array_equal(np.sort(trimmed.old_ids), trimmed.old_ids)


def test_normalisers_and_the_rest_are_left_as_they_are() -> None:
    tokenizer = with_specials(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "a": 2, "aa": 3}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    before = json.loads(tokenizer.to_str())
    after = json.loads(trim(tokenizer.to_str(), [], extra=0).tokenizer_json)
    for part in ("normalizer", "pre_tokenizer", "decoder", "truncation", "padding"):
        assert after[part] == before[part]
