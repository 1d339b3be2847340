"""Splits: shares are kept, nothing leaks, the seed decides, and what can't be done is told."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luban.data import duplicates
from luban.data.raw import Named
from luban.data.read import read
from luban.data.split import Splits, row_labels, split
from luban.data.write import digest
from luban.errors import DataError
from luban.project.schema import DataSection, SplitSection
from luban.records import Dataset

WORDS = ("card", "arrive", "money", "top-up", "cash", "fee", "rate", "pin", "phone", "refund", "country", "transfer")


def rows(labels: list[list[str]], seed: int = 0, **columns: list[Any]) -> Dataset:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 12)) + f" {rng.integers(1e9)}" for _ in labels]
    named = {f"meta.{name}": values for name, values in columns.items()}
    table = pa.table({
        "row": pa.array(range(1, len(labels) + 1)), "text": columns.get("text", texts),
        "labels": pa.array(labels, pa.list_(pa.string())), **named,
    })  # fmt: skip
    return Dataset(table, "rows.csv", digest(table))


def section(**plan: Any) -> DataSection:
    return DataSection(train="rows.csv", split=SplitSection(**plan))


def parts(found: Splits) -> tuple[Dataset, Dataset, Dataset]:
    return found.train, found.validation, found.test


def row_numbers(found: Splits) -> list[int]:
    return [row for part in parts(found) for row in part.table.column("row").to_pylist()]


def assert_no_leak(found: Splits) -> None:
    texts = [text for part in parts(found) for text in part.table.column("text").to_pylist()]
    side = np.repeat(np.arange(3), [len(part) for part in parts(found)])
    near = duplicates.find(texts).near
    for group in np.unique(near):
        assert len({*side[near == group].tolist()}) == 1


@pytest.mark.parametrize("seed", range(4))
def test_each_label_keeps_its_share_to_within_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [[str(label)] for label in rng.zipf(1.5, 600).clip(1, 30)]
    found = split(rows(labels, seed), section(validation=0.2, test=0.25, seed=seed, near_duplicates_together=False))
    assert sorted(row_numbers(found)) == list(range(1, 601))
    counts = Counter(label for [label] in labels)
    for part, share in zip(parts(found), (0.6, 0.15, 0.25), strict=True):
        there = Counter(label for (label,) in row_labels(part.table))
        for label, count in counts.items():
            assert abs(there[label] - share * count) <= 1.5, (label, count)
    assert (len(found.validation), len(found.test)) == (90, 150)


def test_real_sets_do_not_leak_and_keep_shares(data_sets: Path) -> None:
    for name in ("banking77/train", "waimai_10k/all"):
        dataset = read(data_sets / f"{name}.jsonl", Named("text", "label"), "classify")
        found = split(dataset, section())
        assert_no_leak(found)
        assert sorted(row_numbers(found)) == dataset.table.column("row").to_pylist()
        counts, there = (Counter(label for (label,) in row_labels(part.table)) for part in (dataset, found.test))
        assert all(abs(there[label] - 0.1 * count) <= 2 for label, count in counts.items())
        assert found.report["near_duplicates"]["groups"] > 10


def test_the_seed_decides() -> None:
    dataset = rows([[str(number % 5)] for number in range(200)])
    one, same, other = (split(dataset, section(seed=seed)) for seed in (1, 1, 2))
    assert [part.digest for part in parts(one)] == [part.digest for part in parts(same)]
    assert one.test.digest != other.test.digest


def test_copies_stay_together_and_rows_in_their_order() -> None:
    texts = [f"{WORDS[number % 12]} {number // 4} {'where is it now' * 3}" for number in range(240)]
    found = split(rows([["a"], ["b"]] * 120, text=texts), section(test=0.3))
    assert_no_leak(found)
    for part in parts(found):
        numbers = part.table.column("row").to_pylist()
        assert numbers == sorted(numbers) and len(numbers)


def test_rows_of_several_labels_keep_shares_of_each() -> None:
    rng = np.random.default_rng(0)
    chances = {"a": 0.5, "b": 0.2, "c": 0.05}
    labels = [[name for name, chance in chances.items() if rng.random() < chance] for _ in range(800)]
    found = split(rows(labels), section(test=0.25))
    counts = Counter(label for row in labels for label in row)
    there = Counter(label for row in row_labels(found.test.table) for label in row)
    assert all(abs(there[label] - 0.25 * count) <= max(2, 0.05 * count) for label, count in counts.items())
    assert len(found.test) == pytest.approx(200, abs=4)


def test_kinds_of_entities_keep_their_shares(data_sets: Path) -> None:
    dataset = read(data_sets / "wnut17" / "train.jsonl", Named("tokens", "tags"), "tag")
    found = split(dataset, section())
    counts, there = (Counter(kind for row in row_labels(part.table) for kind in row) for part in (dataset, found.test))
    assert all(abs(there[kind] - 0.1 * count) <= 3 for kind, count in counts.items())
    assert_no_leak(found)


def test_groups_stay_together() -> None:
    customers = [f"c{number % 37}" for number in range(400)]
    found = split(rows([["a"], ["b"]] * 200, customer=customers), section(by="group", column="customer"))
    sides = [{*part.table.column("meta.customer").to_pylist()} for part in parts(found)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert len(found.test) == pytest.approx(40, abs=12)


@pytest.mark.parametrize(
    "when",
    [
        lambda day: f"2024-{1 + day // 28:02}-{1 + day % 28:02}",
        lambda day: f"2024/{1 + day // 28}/{1 + day % 28} 8:05",
        lambda day: f"2024年{1 + day // 28}月{1 + day % 28}日",
        lambda day: datetime.datetime(2024, 1 + day // 28, 1 + day % 28),
        lambda day: datetime.date(2024, 1 + day // 28, 1 + day % 28),
        lambda day: f"2024-{1 + day // 28:02}-{1 + day % 28:02}T10:00:00+08:00",
        lambda day: 1_700_000_000 + 86400 * day,
        lambda day: str(day),
    ],
)
def test_the_latest_rows_are_the_test(when: Any) -> None:
    days = np.random.default_rng(0).permutation(300).tolist()
    found = split(rows([["a"], ["b"]] * 150, when=[when(day) for day in days]), section(by="time", column="when"))
    train, validation, test = ([days[row - 1] for row in part.table.column("row").to_pylist()] for part in parts(found))
    assert max(train) < min(validation) <= max(validation) < min(test)
    assert (len(test), len(validation)) == (30, 27)


def test_times_that_cannot_be_read_are_named() -> None:
    dataset = rows([["a"]] * 5, when=["2024-01-01", "soon", None, "2024-13-01", "5"])
    with pytest.raises(DataError) as caught:
        split(dataset, section(by="time", column="when"))
    assert caught.value.total == 3 and "row 2" in str(caught.value) and "'soon'" in str(caught.value)


def test_given_parts_are_used_as_they_are() -> None:
    dataset, test = rows([["a"], ["b"]] * 50), rows([["a"]] * 7, 1)
    found = split(dataset, section(validation=0.2), test=test)
    assert found.test is test and len(found.validation) == 20 and len(found.train) == 80
    found = split(dataset, section(), validation=test, test=test)
    assert found.train is dataset and found.validation is test


def test_a_label_with_one_row_trains() -> None:
    found = split(rows([["a"]] * 40 + [["b"]] * 40 + [["rare"]]), section(test=0.4))
    assert ("rare",) in row_labels(found.train.table)
    assert found.report["labels_not_in_test"] == ["rare"] and any("rare" in note for note in found.report["notes"])


def test_what_cannot_be_split_is_told() -> None:
    with pytest.raises(DataError, match="1 row"):
        split(rows([["a"]]), section())
    with pytest.raises(DataError, match="no row for the"):
        split(rows([["a"], ["b"]] * 5, customer=["c"] * 10), section(by="group", column="customer"))
    with pytest.raises(DataError, match="did you mean 'customer'"):
        split(rows([["a"], ["b"]] * 5, customer=["c"] * 10), section(by="group", column="custmer"))
    with pytest.raises(DataError, match="row 3"):
        split(rows([["a"]] * 4, customer=["c", "d", None, "e"]), section(by="group", column="customer"))


def test_nothing_is_set_aside_where_no_share_is_wanted() -> None:
    found = split(rows([["a"], ["b"]] * 5), section(validation=0.0, test=0.0))
    assert (len(found.train), len(found.validation), len(found.test)) == (10, 0, 0)
