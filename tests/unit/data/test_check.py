"""Checks: each finds what was put in, passes what is right, and shows rows that a person can look up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luban.data.check import check
from luban.data.raw import Named
from luban.data.read import read
from luban.data.split import Splits, split
from luban.data.write import digest
from luban.project.schema import DataSection
from luban.records import Dataset, Finding

SECTION = DataSection(train="rows.csv")


def part(pairs: Sequence[tuple[str, Any]], first: int = 1) -> Dataset:
    table = pa.table({
        "row": pa.array(range(first, first + len(pairs)), pa.int64()),
        "text": pa.array([text for text, _ in pairs], pa.string()),
        "labels": pa.array([[label] if isinstance(label, str) else label for _, label in pairs], pa.list_(pa.string())),
    })  # fmt: skip
    return Dataset(table, "rows.csv", digest(table))


def tagged(sentences: Sequence[tuple[str, str]]) -> Dataset:
    table = pa.table({
        "row": pa.array(range(1, len(sentences) + 1), pa.int64()), "text": [text for text, _ in sentences],
        "tokens": [text.split() for text, _ in sentences], "tags": [tags.split() for _, tags in sentences],
    })  # fmt: skip
    return Dataset(table, "rows.conll", digest(table))


def look_at(
    train: Dataset, validation: Dataset | None = None, test: Dataset | None = None, **more: Any
) -> dict[str, Finding]:
    nothing = dataclasses.replace(train, table=train.table.slice(0, 0))
    findings = check(Splits(train, validation or nothing, test or nothing, {}), more.pop("section", SECTION), **more)
    json.dumps([finding.facts for finding in findings])
    for finding in findings:
        assert finding.message and len(finding.examples) <= 5
        assert finding.verdict == "PASS" or finding.mend, finding
    return {finding.what: finding for finding in findings}


def good(n_rows: int = 60) -> list[tuple[str, Any]]:
    things = ("card", "phone", "money", "refund", "rate")
    ways = ("lost", "late", "wrong", "gone", "new", "blocked")
    return [
        (f"my {things[n % 5]} is {ways[n % 6]} since {n * 7919 % 1000}, and the {things[n * 3 % 5]} {n}?", "ab"[n % 2])
        for n in range(n_rows)
    ]


def test_good_rows_pass_everything() -> None:
    found = look_at(part(good()))
    assert {finding.verdict for finding in found.values()} == {"PASS"}, found
    assert found["schema"].facts["labels"]["train"] == {"a": 30, "b": 30}


def test_labels_that_training_lacks_fail() -> None:
    found = look_at(part(good()), test=part([("something else entirely", "c")]))["schema"]
    assert found.verdict == "FAIL" and "c" in found.message and "test, row 1" in found.examples[0]


def test_few_rows_of_a_label_that_training_lacks_are_a_warning() -> None:
    test = part([*(("row number " + str(n) + " of many", "ab"[n % 2]) for n in range(150)), ("something else", "c")])
    found = look_at(part(good()), test=test)["schema"]
    assert found.verdict == "WARN" and found.message.endswith("Not in training: c, on 1 row")


def test_one_label_alone_fails() -> None:
    assert look_at(part([(text, "a") for text, _ in good()]))["schema"].verdict == "FAIL"


def test_several_labels_fail_in_a_task_of_one() -> None:
    rows = [*good(), ("two at once, and far from the others", ["a", "b"]), ("no label for this one here", [])]
    found = look_at(part(rows))["schema"]
    assert found.verdict == "FAIL" and "2 rows" in found.message and "row 61" in found.examples[0]
    assert look_at(part(rows), multi=True)["schema"].verdict == "PASS"


def test_texts_that_cleaning_empties() -> None:
    found = look_at(part([*good(), ("\u200b \u3000", "a")]))["empty texts"]
    assert (found.verdict, found.facts["count"]) == ("WARN", 1) and "row 61" in found.examples[0]
    assert look_at(part([*good(10), *[("", "a")] * 3]))["empty texts"].verdict == "FAIL"


def test_one_text_with_two_labels() -> None:
    rows = [*good(), ("Where IS it?", "a"), ("where is it", "b"), ("where is it!", "a")]
    found = look_at(part(rows))["conflicting labels"]
    assert found.verdict == "WARN" and found.facts["rows"] == 3
    assert "a x2" in found.examples[0] and "b x1" in found.examples[0]
    assert found.facts["at"] == [("train", 61), ("train", 62), ("train", 63)]


def test_repeated_rows() -> None:
    found = look_at(part([*good(), *good()[:3]]))
    assert found["exact duplicates"].verdict == "WARN" and found["exact duplicates"].facts["count"] == 3
    again = [(f"{text} {'please help me with all of this today ' * 4}", label) for text, label in good(20)]
    near = look_at(part([*again, *[(f"{text} ok", label) for text, label in again[:5]]]))["near duplicates"]
    assert near.verdict == "WARN" and near.facts["count"] >= 5


def test_leaks_between_parts() -> None:
    train = good()
    one = look_at(part(train), test=part([(train[3][0].upper(), "b"), *good(90)[60:]]))["leaks between parts"]
    assert one.verdict == "WARN" and one.facts["test in train"]["exact"] == 1
    assert "test, row 1" in one.examples[0] and "train, row 4" in one.examples[0]
    many = look_at(part(train), validation=part(train[:30]), test=part(good(90)[60:]))["leaks between parts"]
    assert many.verdict == "FAIL" and many.facts["validation in train"]["exact"] == 30


def test_a_leak_is_found_past_a_row_that_repeats_another_part() -> None:
    shared = ("this very text stands in both parts", "a")
    validation, test = part([shared, *good(80)[60:]]), part([shared, *good(110)[90:]])
    found = look_at(part(good()), validation, test)["leaks between parts"]
    assert found.facts["test in validation"]["exact"] == 1 and found.facts["test in train"]["exact"] == 0


def test_suspect_labels() -> None:
    rng = np.random.default_rng(0)
    rows = good(200)
    truth = np.array([label == "b" for _, label in rows], int)
    wrong = [5, 50, 120, 180, 10, 33]
    other = {"a": "b", "b": "a"}
    rows = [(text, other[label] if place in wrong else label) for place, (text, label) in enumerate(rows)]
    probabilities = np.full((200, 2), 0.05) + 0.9 * np.eye(2)[truth] + rng.uniform(-0.04, 0.04, (200, 2))
    found = look_at(part(rows), probabilities=probabilities, labels=("a", "b"))["suspect labels"]
    assert found.verdict == "WARN" and found.facts["count"] >= 5
    assert {*found.facts["rows"]} <= {place + 1 for place in wrong}
    assert "looks like" in found.examples[0]
    with pytest.raises(ValueError, match="wanted"):
        look_at(part(rows), probabilities=probabilities[:10])


def test_suspect_labels_of_several() -> None:
    sets = (["a", "b"], ["a", "c"], ["a", "b", "c"], ["a"])
    rows = [(text, sets[n % 4]) for n, (text, _) in enumerate(good(100))]
    probabilities = np.array([[0.95 if label in labels else 0.05 for label in "abc"] for _, labels in rows])
    rows[7] = (rows[7][0], ["a", "b", "c"])
    found = look_at(part(rows), probabilities=probabilities, multi=True)["suspect labels"]
    assert found.facts["rows"] == [8]


def test_imbalance() -> None:
    rows = [(text, "a") for text, _ in good(100)] + [(f"the rare one {n * 997}", "b") for n in range(4)]
    found = look_at(part(rows))["imbalance"]
    assert found.verdict == "WARN" and found.facts["ratio"] == 25 and found.facts["few"] == ["b"]


def test_rows_longer_than_the_window() -> None:
    lengths = np.array([10] * 54 + [300] * 6)
    found = look_at(part(good()), token_lengths=lengths, max_length=128)["lengths"]
    assert found.verdict == "WARN" and found.facts["truncated"] == 6 and "row 55" in found.examples[0]
    assert look_at(part(good()), token_lengths=lengths, max_length=300)["lengths"].verdict == "PASS"
    assert look_at(part(good()), token_lengths=lengths, max_length=9)["lengths"].verdict == "FAIL"


def test_personal_data_is_told_without_being_shown() -> None:
    found = look_at(part([*good(), ("call me at 13912345678 or a.person@example.com", "a")]))["personal data"]
    assert found.verdict == "WARN" and found.facts["counts"] == {"email": 1, "phone": 1}
    assert "13912345678" not in str(found) and "a.person" not in str(found)


@pytest.mark.parametrize(
    ("text", "mended"), [("voilÃ  un cafÃ©", True), ("锟斤拷锟斤拷", False), ("什\ufffd么", False)]
)
def test_damaged_texts(text: str, mended: bool) -> None:
    found = look_at(part([*good(), (text, "a")]))["encoding damage"]
    assert found.verdict == ("PASS" if mended else "WARN")
    assert found.facts["mended_by_cleaning"] == int(mended)
    bare = look_at(part([*good(), (text, "a")]), section=DataSection(train="rows.csv", clean=()))["encoding damage"]
    assert bare.verdict == "WARN" and "row 61" in bare.examples[0]


@pytest.mark.parametrize(("needed", "verdict"), [(1e9, "PASS"), (3.5e9, "WARN"), (5e9, "FAIL")])
def test_memory_and_time(needed: float, verdict: str) -> None:
    estimate = {"memory_bytes": needed, "available_bytes": 4e9, "train_s": 600}
    found = look_at(part(good()), estimate=estimate)["memory and time"]
    assert found.verdict == verdict and "10 minutes" in found.message


def test_mentions_that_are_labelled_now_so_and_now_so() -> None:
    rows = [(f"Paris number {n} is big", "B-LOC O O O O") for n in range(6)]
    rows += [(f"we met Paris {n} times", "O O B-PER O O") for n in range(3)]
    rows += [(f"they saw Paris {n} nights", "O O O O O") for n in range(2)]
    found = look_at(tagged(rows))["conflicting mentions"]
    assert found.verdict == "WARN" and found.examples == ("'Paris': LOC x6, PER x3, not labelled x2",)


def test_conflicts_of_tagged_rows_show_their_entities() -> None:
    rows = [("Ann saw Rome", "B-PER O B-LOC"), ("Ann saw Rome", "O O B-LOC")]
    rows += [(f"word {n * 7919} with {n}", "O O O O") for n in range(50)]
    found = look_at(tagged(rows))
    assert "Ann (PER) + Rome (LOC) x1" in found["conflicting labels"].examples[0]
    assert found["schema"].facts["labels"]["train"] == {"LOC": 2, "PER": 1}


def test_mended_tags_are_told_once(tmp_path: Path) -> None:
    lines = [{"tokens": ["a", "b", str(n)], "tags": ["I-P" if n == 4 else "B-P", "O", "O"]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    splits = split(read(tmp_path / "rows.jsonl", Named("tokens", "tags"), "tag"), SECTION)
    found = {finding.what: finding for finding in check(splits, SECTION)}["tag scheme"]
    assert found.verdict == "WARN" and "1 tags or spans" in found.message and "rows 5" in found.examples[0]


def test_real_sets(data_sets: Path) -> None:
    def on(name: str, task: str, columns: Named) -> dict[str, Finding]:
        splits = split(read(data_sets / f"{name}.jsonl", columns, task), SECTION)
        return {finding.what: finding for finding in check(splits, SECTION)}

    bank = on("banking77/train", "classify", Named("text", "label"))
    assert {what for what, finding in bank.items() if finding.verdict != "PASS"} == {"conflicting labels"}
    shop = on("cic_zh/train", "classify", Named("text", "label"))
    assert shop["conflicting labels"].facts["texts"] == 31 and shop["personal data"].verdict == "WARN"
    tags = on("resume_ner/dev", "tag", Named("tokens", "tags"))
    assert tags["leaks between parts"].verdict == "PASS" and tags["tag scheme"].facts["entities"] > 1000
