"""Units: Chinese by character, other scripts by word, and texts put together again from tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luban.data import units
from luban.errors import DataError


def cut(text: str, **how: bool) -> list[str]:
    return [text[start:end] for start, end in units.split(text, **how)]


def test_words_keep_apostrophes_and_hyphens_inside() -> None:
    wanted = ["I", "don't", "like", "iPhone-15", ",", "it’s", "3", ".", "5", "%", "!"]
    assert cut("I don't like iPhone-15, it’s 3.5%!") == wanted


def test_each_chinese_character_is_a_unit_beside_words() -> None:
    assert cut("我的iPhone没电了，OK？") == ["我", "的", "iPhone", "没", "电", "了", "，", "OK", "？"]


def test_marks_stay_with_their_letters() -> None:
    assert cut("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert cut("e\u0301te\u0301") == ["e\u0301te\u0301"]


def test_hangul_is_cut_at_spaces_and_kana_by_character() -> None:
    assert cut("안녕하세요 세계") == ["안녕하세요", "세계"]
    assert cut("カタ") == ["カ", "タ"]


def test_by_character_when_asked() -> None:
    assert cut("1966年 a1", characters=True) == ["1", "9", "6", "6", "年", "a", "1"]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["I", "love", "北", "京", ",", "ok", "."], "I love北京, ok ."),
        (["He", "said", ":", "“", "no", "”"], "He said : “ no ”"),
        (["我", "用", "iPhone", "，", "很", "好"], "我用iPhone，很好"),
        (list("1966年A股"), "1966年A股"),
        (["a", "b"], "a b"),
        ([], ""),
    ],
)
def test_join(tokens: list[str], text: str) -> None:
    assert units.join(tokens) == text
    assert [text[start:end] for start, end in units.locate(text, tokens)] == tokens


def test_a_token_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"token 2 of 2: got 'x'"):
        units.locate("a b", ["a", "x"])


def test_real_sentences_come_back_from_their_tokens(data_sets: Path) -> None:
    for name in ("wnut17", "cluener", "resume_ner"):
        with (data_sets / name / "dev.jsonl").open(encoding="utf-8") as file:
            for line in file:
                tokens = json.loads(line)["tokens"]
                text = units.join(tokens)
                assert [text[start:end] for start, end in units.locate(text, tokens)] == tokens


def test_importing_what_serving_needs_brings_nothing_heavy() -> None:
    code = (
        "import sys; from luban.data import clean, units; "
        "bad = {'pyarrow', 'numpy', 'pandas', 'ftfy', 'opencc', 'torch'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
