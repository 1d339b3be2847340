"""`luban mask`: a file without personal data, and back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from unit.bundle.made import made

from luban.bundle.names import NameFinder
from luban.cli.main import main
from luban.data.mask import Masker

ROWS = [
    {"name": "王伟", "phone": 13912345678, "text": "我的卡丢了", "label": "lost", "n": 3},
    {"name": "John Smith", "phone": None, "text": "I am at j@x.com, call 212-555-2368", "label": "late", "n": 4},
    {"name": "", "phone": "", "text": "没有", "label": "late", "n": 5, "more": {"ip": ["192.168.17.23"]}},
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    (tmp_path / "mask.key").write_text(bytes(range(64)).hex(), "ascii")
    (tmp_path / "mask.key").chmod(0o600)
    return tmp_path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_column_is_masked_and_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mask", "rows.jsonl", "-o", "out.jsonl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["rows"] == told["changed"] == 3
    assert told["counts"] == {"name": 2, "phone": 2, "email": 1, "ip address": 1}
    first, second, third = rows(here / "out.jsonl")
    assert (first["name"], first["phone"], first["text"], first["n"]) == ("<NAME>", "<PHONE>", "我的卡丢了", 3)
    assert second["text"] == "I am at <EMAIL>, call <PHONE>" and second["label"] == "late"
    assert third["more"] == {"ip": ["<IP_ADDRESS>"]}


def test_one_column_and_one_kind(here: Path) -> None:
    assert main(["mask", "rows.jsonl", "-o", "out.csv", "--column", "text", "--kinds", "email"]) == 0
    with (here / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert found[0]["name"] == "王伟" and found[1]["text"] == "I am at <EMAIL>, call 212-555-2368"


def test_a_key_turns_it_back(here: Path) -> None:
    assert main(["mask", "rows.jsonl", "-o", "out.jsonl", "--key", "mask.key"]) == 0
    assert "2368" not in (here / "out.jsonl").read_text("utf-8")
    assert main(["mask", "out.jsonl", "-o", "back.jsonl", "--key", "mask.key", "--reverse"]) == 0
    before, after = rows(here / "rows.jsonl"), rows(here / "back.jsonl")
    assert [row["text"] for row in before] == [row["text"] for row in after]
    assert after[0]["name"] == "王伟" and after[0]["phone"] == "13912345678"


@pytest.mark.parametrize(("arguments", "exit_code", "told"), [
    (("rows.jsonl", "-o", "rows.jsonl"), 7, "is the input too"),
    (("rows.jsonl", "-o", "out.jsonl", "--column", "txt"), 8, "no column 'txt'"),
    (("rows.jsonl", "-o", "out.jsonl", "--kinds", "mail"), 8, "no kind 'mail'"),
    (("rows.jsonl", "-o", "out.jsonl", "--reverse"), 2, "--reverse goes with --key"),
    (("rows.jsonl", "-o", "out.jsonl", "--key", "none"), 8, "can't be read"),
    (("nowhere.jsonl", "-o", "out.jsonl"), 3, "no file of this name"),
    (("broken.jsonl", "-o", "out.jsonl"), 3, "broken.jsonl"),
])  # fmt: skip
def test_what_can_not_be_done_is_told_and_leaves_nothing(
    here: Path, arguments: tuple[str, ...], exit_code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n', "utf-8")
    assert main(["mask", *arguments]) == exit_code
    assert told in "".join(capsys.readouterr())
    assert not list(here.glob("out*"))


def test_a_bundle_that_tags_finds_more(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = made(tmp_path_factory, "tag", "onnx").folder
    texts = [row["text"] for row in ROWS]
    wanted = Masker(["name"], finders=[NameFinder.open(bundle, {"person": "name"})]).mask_all(texts)
    assert any(one.found for one in wanted), "the random model tags something"
    options = ["--names-by", str(bundle), "--label", "person=name", "--column", "text", "--kinds", "name"]
    assert main(["mask", "rows.jsonl", "-o", "out.jsonl", *options]) == 0
    for row, one in zip(rows(here / "out.jsonl"), wanted, strict=True):
        assert row["text"] == one.text or not one.found


@pytest.mark.parametrize(("options", "told"), [
    (["--label", "persn=name"], "did you mean 'person'"),
    (["--label", "person=nam"], "did you mean 'name'"),
    (["--label", "person"], "LABEL=KIND"),
    (["--reverse", "--key", "mask.key"], "do not go with --reverse"),
])  # fmt: skip
def test_a_label_that_is_not_there_is_refused(
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    options: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = made(tmp_path_factory, "tag", "onnx").folder
    assert main(["mask", "rows.jsonl", "-o", "out.jsonl", "--names-by", str(bundle), *options]) != 0
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (here / "out.jsonl").exists()


def test_a_bundle_that_does_not_tag_is_refused(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = made(tmp_path_factory, "classify", "onnx").folder
    assert main(["mask", "rows.jsonl", "-o", "out.jsonl", "--names-by", str(bundle)]) == 8
    assert "its task is classify" in capsys.readouterr().err


def test_a_first_line_with_personal_data_is_no_line_of_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "raw.csv").write_text("the first line is call 13812345678\nand the second 13912345678\n", "utf-8")
    assert main(["mask", "raw.csv", "-o", "out.csv"]) != 0
    told = capsys.readouterr().err
    assert "column 1" in told and "phone" in told and "13812345678" not in told
    assert not (here / "out.csv").exists()


def test_a_key_of_which_no_token_is_turns_nothing_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mask", "rows.jsonl", "-o", "out.jsonl", "--key", "mask.key"]) == 0
    (here / "other.key").write_text(bytes(range(1, 65)).hex(), "ascii")
    (here / "other.key").chmod(0o600)
    assert main(["mask", "out.jsonl", "-o", "back.jsonl", "--key", "other.key", "--reverse"]) != 0
    assert "of this key" in capsys.readouterr().err
    assert not (here / "back.jsonl").exists() and not (here / "back.jsonl.part").exists()
