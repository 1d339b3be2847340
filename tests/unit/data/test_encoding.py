"""Encodings are found over the whole file, and a byte that breaks one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luban.data.encoding import find_encoding
from luban.errors import DataError

CHINESE = "我的卡还没到，怎么办？\n请尽快处理，谢谢。\n"


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("utf-32", "utf-32"),
        ("gb18030", "gb18030"), ("gbk", "gb18030"), ("gb2312", "gb18030"),
    ],
)  # fmt: skip
def test_chinese(tmp_path: Path, encoding: str, found: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes((CHINESE * 50).encode(encoding))
    assert find_encoding(path) == found


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(("text,label\n" + "where is my card,card\n" * 20).encode(encoding))
    assert find_encoding(path) == encoding


def test_western_text_is_not_taken_for_chinese(tmp_path: Path) -> None:
    text = "Le café était fermé à Noël, l'été dernier déjà. Où êtes-vous allés après la fête?\n" * 20
    path = tmp_path / "rows.txt"
    path.write_bytes(text.encode("cp1252"))
    assert path.read_text(find_encoding(path)) == text


@pytest.mark.parametrize(
    "text",
    ["text,label\ncafé,good\nok,bad\n", "text,label\nDas Gerät läuft,good\nschön,good\n", "naïve\n", "Él está aquí\n"],
)
def test_a_few_western_letters_are_no_rare_script(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode("latin-1"))
    assert path.read_text(find_encoding(path)) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "It’s a “nice” café – really.\n"), ("cp1250", "Zażółć gęślą jaźń, który świeci nad źródłem\n"),
        ("cp1251", "Привет, я хочу закрыть счёт в банке.\n"),
        ("big5", "臺灣的電腦軟體很好用，請問我的卡片什麼時候會到？\n"),
        ("shift_jis", "これは日本語の文章です。カードはいつ届きますか？\n"),
        ("euc_kr", "안녕하세요 제 카드는 언제 도착하나요?\n"),
    ],
)  # fmt: skip
def test_other_encodings_as_a_last_resort(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes((text * 20).encode(encoding))
    assert path.read_text(find_encoding(path)) == text * 20


def test_emoji_in_gb18030(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(("好的，收到😀" * 40).encode("gb18030"))
    assert find_encoding(path) == "gb18030"


def test_a_broken_byte_late_in_a_long_file_is_named(tmp_path: Path) -> None:
    good = (CHINESE * 30_000).encode()
    path = tmp_path / "rows.csv"
    path.write_bytes(good + b"\xff" + CHINESE.encode())
    with pytest.raises(DataError) as caught:
        find_encoding(path)
    problem = caught.value.problems[0]
    assert f"byte offset {len(good)} " in problem.got
    assert problem.line == 60_001


def test_a_character_cut_at_the_end_is_named(tmp_path: Path) -> None:
    data = (CHINESE * 10).encode()
    path = tmp_path / "rows.csv"
    path.write_bytes(data.rstrip(b"\n")[:-1])
    with pytest.raises(DataError, match=f"byte offset {len(data) - 4} .*unexpected end"):
        find_encoding(path)


def test_a_character_across_two_reads_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a" * ((1 << 20) - 1) + "卡".encode() * 10)
    assert find_encoding(path) == "utf-8"


def test_sixty_thousand_reviews_in_gb18030(data_sets: Path, tmp_path: Path) -> None:
    with (data_sets / "online_shopping_10_cats" / "all.jsonl").open(encoding="utf-8") as file:
        text = "".join(json.loads(line)["text"] + "\n" for line in file)
    path = tmp_path / "reviews.txt"
    path.write_bytes(text.encode("gb18030"))
    assert find_encoding(path) == "gb18030"
    assert path.read_bytes().decode("gb18030") == text
