"""Entities in data that were annotated character by character: from the file to answers for raw texts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import yaml

from luban.models import tiny

LUBAN = [sys.executable, "-m", "luban.cli.main"]
NAMES = ("王明", "李小龙", "张伟", "陈静", "赵丽华")
PLACES = ("北京", "上海", "广州", "成都")


def row(chance: random.Random) -> dict[str, list[str]]:
    """Return a row whose entity `KIND` is the letter at the head of a code, which no word boundary ends."""
    parts = [
        (chance.choice(NAMES), "NAME"), (chance.choice(("在", "去了", "住在")), ""), (chance.choice(PLACES), "PLACE"),
        ("，编号", ""), (chance.choice("ABCD"), "KIND"), (str(chance.randrange(10, 999)), ""), ("。", ""),
    ]  # fmt: skip
    tags = [
        "O" if not label else f"{'B' if place == 0 else 'I'}-{label}"
        for text, label in parts
        for place in range(len(text))
    ]
    return {"tokens": list("".join(text for text, _ in parts)), "tags": tags}


def luban(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*LUBAN, *arguments], cwd=folder, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8")


def test_data_cut_into_characters_makes_a_model_that_cuts_raw_texts_so(tmp_path: Path) -> None:
    chance = random.Random(3)
    rows = [row(chance) for _ in range(300)]
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    (tmp_path / "people.jsonl").write_text(lines, "utf-8")
    tiny.make(tmp_path / "base", ["".join(one["tokens"]) for one in rows])

    luban(tmp_path, "init", "people.jsonl", "--base", "./base", "--no-probe")
    written = (tmp_path / "luban.yaml").read_text("utf-8")
    assert yaml.safe_load(written)["task"]["units"] == "characters"
    assert "all tokens are single characters" in written

    quick = ["train.epochs=6", "train.learning_rate=3.0e-3", "evaluate.baselines=[]"]
    luban(tmp_path, "run", *quick)
    text = "张伟住在成都，编号C805。"
    (answer,) = map(json.loads, luban(tmp_path, "predict", "--text", text).splitlines())
    found = [(span["start"], span["end"], span["label"], span["text"]) for span in answer["spans"]]
    assert found == [(0, 2, "NAME", "张伟"), (4, 6, "PLACE", "成都"), (9, 10, "KIND", "C")]
