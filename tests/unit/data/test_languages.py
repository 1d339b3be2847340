"""Languages by script, row by row, and English told from other Latin text as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luban.data.languages import LANGUAGES, languages, shares


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my card?", "en"), ("我的卡还没到", "zh"), ("我的iPhone 15 Pro坏了怎么办呢", "zh"),
        ("臺灣的電腦", "zh"),
        ("カードはどこですか", "other"), ("안녕하세요", "other"), ("Привет", "other"),
        ("", "other"), ("123 !!", "other"),
        ("naïve café", "other"), ("OK", "en"), ("😀", "other"), ("a\ud83d", "en"),
    ],
)  # fmt: skip
def test_one_text(text: str, language: str) -> None:
    assert LANGUAGES[languages([text])[0]] == language


def test_latin_text_without_english_words_is_not_english() -> None:
    german = ["Wo ist meine Karte geblieben und wann kommt sie endlich an"] * 20
    assert shares(german)["other"] == 1.0
    assert shares(["Where is my card and when will it arrive"] * 20)["en"] == 1.0


def test_no_texts() -> None:
    assert shares([]) == {"en": 0.0, "zh": 0.0, "other": 0.0}


@pytest.mark.parametrize(
    ("name", "language"), [("banking77", "en"), ("clinc150", "en"), ("cic_zh", "zh"), ("tnews_zh", "zh")]
)
def test_real_sets(data_sets: Path, name: str, language: str) -> None:
    with (data_sets / name / "test.jsonl").open(encoding="utf-8") as file:
        assert shares([json.loads(line)["text"] for line in file])[language] > 0.97
