"""Near duplicates: none that is near is missed, none that is not is joined, and time grows with the rows."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from luban.data import duplicates


def groups(texts: list[str]) -> list[set[int]]:
    near = duplicates.find(texts).near
    return [set(np.flatnonzero(near == first).tolist()) for first in np.unique(near)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where is my card?", "where is my  CARD", True),
        ("ＡＢＣ，你好！", "abc你好", True),
        ("cafe\u0301", "café", True),
        ("！！！", "？？？", False),
        ("👍", "👎", False),
        ("my card", "my cart", False),
    ],
)
def test_what_makes_no_difference(one: str, other: str, same: bool) -> None:
    assert (duplicates.key(one) == duplicates.key(other)) is same


def test_english_and_chinese_near_duplicates() -> None:
    texts = [
        "Can you tell me why I have not received my new card yet?",
        "Can you tell me why I haven't received my new card yet?",
        "How do I change my pin?",
        "这个手机的电池非常耐用，屏幕也很清晰，物流很快，推荐购买",
        "这个手机的电池非常耐用，屏幕也很清晰，物流很快，推荐购买！！赞",
        "这个手机的屏幕很差，电池不耐用，物流太慢",
    ]
    assert groups(texts) == [{0, 1}, {2}, {3, 4}, {5}]
    assert duplicates.similarity(texts[0], texts[1]) > 0.8 > duplicates.similarity(texts[3], texts[5])


def test_groups_are_the_same_in_any_order() -> None:
    texts = [f"order number {number % 7} has not arrived at my house in street {number % 3}" for number in range(60)]
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    found = {frozenset(texts[place] for place in group) for group in groups(texts)}
    assert found == {frozenset(texts[order[place]] for place in group) for group in groups([texts[at] for at in order])}


@pytest.mark.parametrize("name", ["banking77/train", "waimai_10k/all", "wnut17/train"])
def test_no_near_pair_is_missed_in_real_text(data_sets: Path, name: str) -> None:
    with (data_sets / f"{name}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [row.get("text") or " ".join(row["tokens"]) for row in rows][:: max(1, len(rows) // 600)]
    near = duplicates.find(texts).near
    keys = [duplicates._grams(duplicates.key(text)) for text in texts]
    for one, other in itertools.combinations(range(len(texts)), 2):
        common = len(keys[one] & keys[other])
        if common >= 0.85 * (len(keys[one]) + len(keys[other]) - common):
            assert near[one] == near[other], (texts[one], texts[other])


def test_long_and_empty_texts_and_none() -> None:
    assert duplicates.find([]).near.tolist() == []
    assert duplicates.find(["", "a", ""]).exact.tolist() == [0, 1, 0]
    text = "很长的文字" * 300_000
    assert duplicates.find([text, f"{text}。", "x"]).near.tolist() == [0, 0, 2]


def test_time_grows_with_the_rows(data_sets: Path) -> None:
    with (data_sets / "online_shopping_10_cats" / "all.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]

    def seconds(n_rows: int) -> float:
        started = time.process_time()
        duplicates.find(texts[:n_rows])
        return time.process_time() - started

    seconds(1000)
    few = seconds(10_000)
    assert few < 5.0  # 0.3 s on an idle machine; 10 s is what a user would wait for
    assert seconds(60_000) < 15 * max(few, 0.2)
