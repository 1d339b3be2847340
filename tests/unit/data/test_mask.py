"""Masking: the rest of a text stays as it is, tokens come back, and recall on sentences that were made up."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.mask import KEY_BYTES, Masker, Tokens, unmask
from luban.data.personal import KINDS, NUMBERS, Personal, find_personal
from luban.errors import BadRequest, MissingExtra, install

KEY = bytes(range(KEY_BYTES))
TEXTS = st.lists(st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "13912345678", "１３９１２３４５６７８", "11010519491231002X", "a@b.cn", "我叫王伟，", "Mr. Smith ", "粤B12345",
        "\u200b", "、", "2024", "4111 1111 1111 1111", "住在浙江省杭州市文三路12号", "192.168.17.23", "my name is ",
        "<PHONE>", "<NAME:", "\udc80",
    ]),
), max_size=8).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[3] / "bench/mask.py"
    spec = importlib.util.spec_from_file_location("bench_mask", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("text", "masked"), [
    ("Mary-Ann O'Neil wrote to 陈小姐。", "<NAME> wrote to <NAME>小姐。"),
    ("陈小明说", "<NAME>说"),
    ("password: hunter2; then call", "password: <CREDENTIALS>; then call"),
    ("密码是abc123.", "密码是<CREDENTIALS>."),
    ("我叫王伟，电话13912345678。", "我叫<NAME>，电话<PHONE>。"),
    ("电话１３９ １２３４-５６７８ 谢谢", "电话<PHONE> 谢谢"),
    ("1\u200b39 1234\u200b5678\u200b。", "<PHONE>\u200b。"),
    ("号码一三九一二三四五六七八", "号码<PHONE>"),
    ("身份证 110105 19491231 002X", "身份证 <IDENTITY_NUMBER>"),
    ("身份证110105194912310021", "身份证110105194912310021"),
    ("京AD12345和粤B·12345", "<PLATE>和<PLATE>"),
    ("王女士和李老师", "<NAME>女士和<NAME>老师"),
    ("寄到浙江省杭州市西湖区文三路12号3幢401室，谢谢", "寄到<ADDRESS>，谢谢"),
    ("IBAN GB33 BUKB 2020 1555 5555 55 please", "IBAN <IBAN> please"),
    ("IBAN GB33 BUKB 2020 1555 5555 56 please", "IBAN GB33 BUKB 2020 1555 5555 56 please"),
    ("SSN 078-05-1120", "SSN <IDENTITY_NUMBER>"),
    ("ftp://ann:hunter2@host/x?token=abc", "ftp://<CREDENTIALS>@host/x?token=<CREDENTIALS>"),
    ("key luban_0123456789abcdef_" + "A" * 43, "key <CREDENTIALS>"),
    ("from fe80::1ff:fe23:4567:890a today", "from <IP_ADDRESS> today"),
    ("passport K06162251, plate ABC 1234", "passport <PASSPORT>, plate <PLATE>"),
    ("Dear Mr. Smith, I'm John O'Neil.", "Dear Mr. <NAME>, I'm <NAME>."),
    ("my name is ann lee and i live at 12 oak street", "my name is <NAME> and i live at <ADDRESS>"),
    ("send it to 12 Oak Street, Apt 4, Springfield, IL 62704.", "send it to <ADDRESS>."),
    ("call +44 20 7946 0958", "call <PHONE>"),
    ("微信：abc_12345", "微信：<ACCOUNT>"),
    ("in May I paid 1999.99 on 2024-05-31, order 20240531", "in May I paid 1999.99 on 2024-05-31, order 20240531"),
    ("是的，非常喜欢，周末高兴", "是的，非常喜欢，周末高兴"),
])  # fmt: skip
def test_masked(text: str, masked: str) -> None:
    assert Masker().mask(text).text == masked


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_what_is_not_found_stays_byte_for_byte(text: str) -> None:
    done = Masker().mask(text)
    at, rest = 0, done.text
    for one in done.found:
        assert at <= one.start < one.end <= len(text)
        token = f"<{one.kind.upper().replace(' ', '_')}>"
        assert rest.startswith(text[at : one.start] + token)
        rest = rest[one.start - at + len(token) :]
        at = one.end
    assert rest == text[at:]


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_tokens_come_back_byte_for_byte(text: str) -> None:
    tokens = Tokens(KEY)
    done = Masker(tokens=tokens).mask(text)
    assert unmask(done.text, tokens) == (text, len(done.found), 0)


def test_a_value_is_the_same_token_under_one_key_and_none_under_another() -> None:
    tokens, others = Tokens(KEY), Tokens(KEY[::-1])
    one, two = (Masker(tokens=tokens).mask(text).text for text in ("call 212-555-2368 now", "it is 212-555-2368"))
    token = one.removeprefix("call ").removesuffix(" now")
    assert token in two and "2368" not in one
    assert Masker(tokens=others).mask("call 212-555-2368 now").text != one
    assert unmask(one, others) == (one, 0, 1)
    assert unmask(one.replace("<PHONE:", "<EMAIL:"), tokens)[1:] == (0, 1), "a token is of its kind"
    assert unmask("<PHONE:abc> <X:" + "A" * 30 + ">", tokens)[1] == 0


def test_a_key_is_64_bytes_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "mask.key"
    with pytest.raises(BadRequest, match="can't be read"):
        Tokens.from_file(path)
    path.write_text(KEY.hex() + "\n", "ascii")
    path.chmod(0o644)
    with pytest.raises(BadRequest, match="others may read") as found:
        Tokens.from_file(path)
    assert "chmod 600" in found.value.hint
    path.chmod(0o600)
    assert Tokens.from_file(path).token("phone", "1") == Tokens(KEY).token("phone", "1")
    path.write_text("abc", "ascii")
    with pytest.raises(BadRequest, match="holds no key"):
        Tokens.from_file(path)
    with pytest.raises(BadRequest, match="has 64 bytes"):
        Tokens(b"short")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingExtra) as found:
        Tokens(KEY)
    assert found.value.hint == install("mask")


def test_only_what_is_wanted_is_masked() -> None:
    text = "王女士 a@b.cn 13912345678"
    assert Masker(["email"]).mask(text).text == "王女士 <EMAIL> 13912345678"
    assert Masker(NUMBERS).mask(text).text == "王女士 <EMAIL> <PHONE>"
    with pytest.raises(BadRequest, match="no kind 'mail'"):
        Masker(["mail"])


def test_another_finder_adds_and_nothing_that_anyone_found_is_left() -> None:
    asked: list[Sequence[str]] = []

    def model(texts: Sequence[str]) -> list[list[Personal]]:
        asked.append(texts)
        found = []
        for text in texts:
            at = text.find("Zaphod Beeblebrox 139")
            found.append([Personal("name", at, at + 21), Personal("address", at, at + 6)] if at >= 0 else [])
        return found

    texts = ["是 Zaphod Beeblebrox 13912345678 a@b.cn", "", "call 13912345678"]
    done = Masker(finders=[model]).mask_all(texts)
    # The model's stretch ends within the number, which the rules found: they are one, of the longer one's kind.
    assert [one.text for one in done] == ["是 <NAME> <EMAIL>", "", "call <PHONE>"]
    assert asked == [texts], "asked once for all texts"
    assert Masker(["email"], finders=[model]).mask(texts[0]).text == "是 Zaphod Beeblebrox 13912345678 <EMAIL>"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_recall_and_precision_on_sentences_that_were_made_up(bench: ModuleType, language: str) -> None:
    counts, (n_found, right), missed = bench.measure(language, bench.JUDGED[language], 300)
    structured = [value for kind, value in counts.items() if kind in NUMBERS]
    recall = sum(hidden for _, hidden in structured) / sum(n for n, _ in structured)
    assert recall >= 0.95, missed
    n_names, n_hidden = counts["name"]
    assert n_hidden / n_names >= 0.85, missed
    assert right / n_found >= 0.97, missed


@pytest.mark.parametrize(("file", "at_most"), [
    ("banking77/test.jsonl", 0.002), ("bank_faqs/all.jsonl", 0.005), ("waimai_10k/all.jsonl", 0.01),
])  # fmt: skip
def test_few_false_alarms_on_real_texts(data_sets: Path, file: str, at_most: float) -> None:
    rows = [json.loads(line) for line in (data_sets / file).read_text("utf-8").splitlines()][:2000]
    texts = [row.get("text") or row["question"] for row in rows]
    alarms = [(text, found) for text in texts if (found := find_personal(text))]
    assert len(alarms) <= at_most * len(texts), alarms


def test_time_grows_with_the_text_and_not_with_its_square() -> None:
    for part in ("深圳市区县路", "a@b.cn ", "1 ", "plate is ", "王", "Dear A", "123 Aa ", "13912345678,"):
        short, long = (min(timed(part * n) for _ in range(3)) for n in (300, 2400))
        assert long < 24 * short + 0.05, part


def timed(text: str) -> float:
    began = time.process_time()
    find_personal(text, KINDS)
    return time.process_time() - began
