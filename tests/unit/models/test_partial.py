"""A vocabulary opened in part: the same tokens as the whole one gives, of any text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from luban.data.units import split
from luban.models.facts import BaseFolder
from luban.models.partial import PartialUnigram, without_boundaries
from luban.models.processor import Processor, ProcessorSettings
from luban.models.vocabulary import MOST_CHARACTERS

SETS = ("clinc150", "sst2", "banking77", "tnews_zh", "waimai_10k", "online_shopping_10_cats")
N_TEXTS = 5_000
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def rows(folder: Path) -> Iterator[str]:
    file_of_rows = next(folder / name for name in ("train.jsonl", "all.jsonl") if (folder / name).is_file())
    with file_of_rows.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row.get("text") or row.get("sentence") or ""


@pytest.fixture(scope="module")
def e5_json(e5: BaseFolder) -> str:
    return (e5.folder / "tokenizer.json").read_text("utf-8")


@pytest.fixture(scope="module")
def partial(e5_json: str) -> PartialUnigram:
    found = PartialUnigram.read(e5_json)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(e5_json: str) -> Processor:
    return Processor(ProcessorSettings(max_length=512), e5_json)


def tokens(processor: Processor, texts: list[str]) -> list[list[int]]:
    encoded = processor.encode_texts(texts)
    ends = zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    return [encoded.ids[start + 1 : end - 1].tolist() for start, end in ends]


def test_five_thousand_texts_have_the_same_tokens(data_sets: Path, partial: PartialUnigram, whole: Processor) -> None:
    texts = [
        text[:300] for name in SETS for text, _ in zip(rows(data_sets / name), range(N_TEXTS // 6 + 1), strict=False)
    ]
    assert len(texts) >= N_TEXTS
    texts = list(whole._plain(texts))
    wanted = tokens(whole, texts)
    found = [ids for start in range(0, len(texts), 20) for ids in partial.texts(texts[start : start + 20])]
    assert found == wanted


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_any_texts_have_the_same_tokens(partial: PartialUnigram, whole: Processor, texts: list[str]) -> None:
    texts = list(whole._plain(texts))
    assert partial.texts(texts) == whole.vocabulary.texts(texts)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=ANY_TEXT | st.sampled_from(["我爱北京天安门 since 1999", "It's a re-run…", "ﬁne ＡＢＣ①"]),
    characters=st.booleans(),
)
def test_any_units_have_the_same_tokens(partial: PartialUnigram, whole: Processor, text: str, characters: bool) -> None:
    units = [text[start:end] for start, end in split(text, characters=characters)]
    rows = [units, [f" {unit}" for unit in units], []]
    assert partial.units(rows) == whole.vocabulary.units(rows)


PIECES = st.dictionaries(st.text("ab▁c好", min_size=1, max_size=4), st.floats(-20, 0), max_size=25)
STEPS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    {"type": "Whitespace"},
)


@settings(max_examples=200, deadline=None)
@given(
    pieces=PIECES,
    steps=st.sampled_from(STEPS),
    byte_fallback=st.booleans(),
    texts=st.lists(st.text("ab c好é", max_size=12), min_size=1, max_size=3),
)
def test_any_unigram_model_is_opened_right(
    pieces: dict[str, float], steps: dict[str, Any] | None, byte_fallback: bool, texts: list[str]
) -> None:
    vocabulary = [["<s>", 0.0], ["<unk>", -1.5], *([piece, score] for piece, score in pieces.items())]
    if byte_fallback:
        vocabulary += [[f"<0x{byte:02X}>", -12.0] for byte in range(256)]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    definition = {
        "version": "1.0", "truncation": None, "padding": None, "decoder": None, "post_processor": None,
        "added_tokens": [{"id": 0, "content": "<s>", **special}],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": steps,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": vocabulary, "byte_fallback": byte_fallback},
    }  # fmt: skip
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.encode_special_tokens = True
    found = PartialUnigram(definition)
    assert found.texts(texts) == [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    units = Tokenizer.from_str(json.dumps(without_boundaries(definition)))
    units.encode_special_tokens = True
    rows = [text.split() for text in texts]
    wanted = [(encoding.ids, encoding.word_ids) for encoding in units.encode_batch(rows, is_pretokenized=True)]
    assert found.units(rows) == wanted


def test_what_depends_on_more_than_the_pieces_of_a_text_is_not_opened_in_part(e5_json: str) -> None:
    definition = json.loads(e5_json)
    changes: list[dict[str, Any]] = [
        {"added_tokens": [{**definition["added_tokens"][0], "special": False}]},  # cuts texts where it stands
        {"added_tokens": [{**definition["added_tokens"][0], "id": 999_999}]},
        {"model": {**definition["model"], "vocab": [*definition["model"]["vocab"], ["▁the", -1.0]]}},
        {"model": {**definition["model"], "nbest_size": 4}},
        {"model": {**definition["model"], "unk_id": None}},
    ]
    for change in changes:
        with pytest.raises(ValueError, match=r"Unigram model|stands twice"):
            PartialUnigram({**definition, **change})
    assert PartialUnigram.read(e5_json[:-40]) is None
    assert PartialUnigram.read('{"model": {"type": "Unigram"}}') is None


def test_a_processor_opens_the_whole_once_it_is_asked_for_much(
    e5: BaseFolder, whole: Processor, tmp_path: Path
) -> None:
    whole.to_dir(tmp_path)
    few = Processor.from_dir(tmp_path)
    assert (few.pad_id, few.room, few.vocabulary_size) == (whole.pad_id, whole.room, whole.vocabulary_size)
    assert not few.vocabulary.is_whole
    texts = ["我的卡还没到，怎么办？</s> why", "where is my card"]
    assert tokens(few, texts) == tokens(whole, texts)
    assert not few.vocabulary.is_whole
    long = ["my card " * (MOST_CHARACTERS // 4)]
    assert tokens(few, long) == tokens(whole, long)
    assert few.vocabulary.is_whole

    often = Processor.from_dir(tmp_path)
    for _ in range(45):
        often.encode_texts(["我的卡" * (MOST_CHARACTERS // 4)])
    assert often.vocabulary.is_whole
