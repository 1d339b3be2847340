"""Baselines learn what counting can learn, and never look at the test labels."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from luban.data.units import join
from luban.evaluate import baselines
from luban.metrics import classify_scores, tag_scores
from luban.records import Span

from .conftest import classify_table

TEXTS = [
    "我的卡还没到",
    "卡丢了怎么办",
    "where is my card",
    "lost card",
    "我要贷款",
    "贷款利率多少",
    "a loan please",
    "loan rates",
]
GOLD = [("card",)] * 4 + [("loan",)] * 4


def test_words_and_characters_tell_english_and_chinese_apart() -> None:
    train = classify_table(GOLD, TEXTS)
    test = classify_table([()] * 3, ["卡什么时候到", "card arrival", "想申请贷款"])
    found = baselines.predict(
        "tfidf", task="classify", labels=["card", "loan"], multi_label=False, train=train, test=test
    )
    assert [answer.label for answer in found] == ["card", "card", "loan"]
    assert all(sum(answer.scores.values()) == pytest.approx(1.0) for answer in found)


def test_the_commonest_answer_is_that_of_the_training_rows() -> None:
    train = classify_table([*GOLD, ("loan",)], [*TEXTS, "again"])
    test = classify_table([("card",)] * 2, ["a", "b"])
    found = baselines.predict(
        "majority", task="classify", labels=["card", "loan"], multi_label=False, train=train, test=test
    )
    assert [answer.label for answer in found] == ["loan", "loan"]
    assert found[0].scores["loan"] == pytest.approx(5 / 9)


def test_several_labels_a_row() -> None:
    gold = [("card", "lost") if "丢" in text or "lost" in text else row for text, row in zip(TEXTS, GOLD, strict=True)]
    train = classify_table(gold * 5, TEXTS * 5)
    found = baselines.predict(
        "tfidf",
        task="classify",
        labels=["card", "loan", "lost"],
        multi_label=True,
        train=train,
        test=classify_table([()] * 2, ["lost card", "loan rates"]),
    )
    assert set(found[0].labels) == {"card", "lost"}
    assert found[1].labels == ("loan",)
    common = baselines.predict(
        "majority",
        task="classify",
        labels=["card", "loan", "lost"],
        multi_label=True,
        train=train,
        test=classify_table([()], ["?"]),
    )
    assert common[0].labels == ("loan",)


@pytest.mark.parametrize("name", baselines.NAMES)
@pytest.mark.parametrize("multi_label", [False, True])
def test_training_rows_that_teach_nothing_do_no_harm(name: str, multi_label: bool) -> None:
    test = classify_table([("card",)], ["card"])
    for train in (
        classify_table([("card",)] * 2, ["a", "b"]),
        classify_table([("card",), ("loan",)], ["", " "]),
        classify_table([("unknown",)], ["words here"]),
    ):
        found = baselines.predict(
            name, task="classify", labels=["card", "loan"], multi_label=multi_label, train=train, test=test
        )
        assert len(found) == 1


def tag_table(rows: list[tuple[list[str], list[str]]]) -> pa.Table:
    """Return tag rows as a Dataset holds them."""
    return pa.table(
        {
            "text": [join(tokens) for tokens, _ in rows],
            "tokens": pa.array([tokens for tokens, _ in rows], pa.list_(pa.string())),
            "tags": pa.array([tags for _, tags in rows], pa.list_(pa.string())),
        }
    )


def test_a_dictionary_of_tokens_gives_valid_entities() -> None:
    train = tag_table([(["Anna", "lives", "in", "New", "York"], ["B-per", "O", "O", "B-loc", "I-loc"])] * 3)
    test = tag_table([(["York", "is", "in", "New", "York"], ["O"] * 5), ([], [])])
    found = baselines.predict("majority", task="tag", labels=["loc", "per"], multi_label=False, train=train, test=test)
    assert [(span.start, span.end, span.label) for span in found[0].spans] == [(0, 4, "loc"), (11, 19, "loc")]
    assert found[0].spans[1].text == "New York"
    assert found[1].spans == ()


def test_the_linear_tagger_reads_the_neighbours() -> None:
    names = ["Anna", "Bert", "Cora", "Dora", "Emil", "Fred", "Gina", "Hugo"]
    train = tag_table(
        [
            ([*before, name, *after], ["O"] * len(before) + ["B-per"] + ["O"] * len(after))
            for name in names
            for before, after in (([], ["sleeps", "now"]), (["today", "Mr"], ["eats"]))
        ]
        + [(["the", "Moon", "rises"], ["O", "O", "O"])] * 4
    )
    test = tag_table([(["today", "Mr", "Zoltan", "eats"], ["O"] * 4), (["the", "Moon", "rises"], ["O"] * 3)])
    found = baselines.predict("tfidf", task="tag", labels=["per"], multi_label=False, train=train, test=test)
    assert [span.text for span in found[0].spans] == ["Zoltan"]
    assert found[1].spans == ()


def test_tag_rows_without_entities_or_tokens() -> None:
    train = tag_table([(["nothing", "here"], ["O", "O"])])
    for test in (tag_table([(["nothing"], ["O"])]), tag_table([([], [])])):
        for name in baselines.NAMES:
            found = baselines.predict(name, task="tag", labels=["per"], multi_label=False, train=train, test=test)
            assert [answer.spans for answer in found] == [()]


def test_unknown_baselines_are_refused() -> None:
    with pytest.raises(ValueError, match="known are majority, tfidf"):
        baselines.predict(
            "probe",
            task="classify",
            labels=["card"],
            multi_label=False,
            train=classify_table([], []),
            test=classify_table([], []),
        )


def read(path: Path) -> list[dict[str, object]]:
    """Return the rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_chinese_questions_of_118_kinds_take_seconds(data_sets: Path) -> None:
    tables, gold = {}, {}
    for part in ("train", "test"):
        rows = read(data_sets / "cic_zh" / f"{part}.jsonl")
        gold[part] = [(str(row["label"]),) for row in rows]
        tables[part] = classify_table(gold[part], [str(row["text"]) for row in rows])
    labels = sorted({label for row in gold["train"] for label in row})
    start = time.process_time()
    found = baselines.predict(
        "tfidf", task="classify", labels=labels, multi_label=False, train=tables["train"], test=tables["test"]
    )
    assert time.process_time() - start < 30
    assert classify_scores(gold["test"], found, labels, False)["accuracy"].value > 0.75


def test_english_entities(data_sets: Path) -> None:
    tables = {}
    for part in ("train", "dev"):
        rows = read(data_sets / "wnut17" / f"{part}.jsonl")
        tables[part] = tag_table([(row["tokens"], row["tags"]) for row in rows])  # type: ignore[misc]
    labels = sorted({tag[2:] for row in tables["train"].column("tags").to_pylist() for tag in row if tag != "O"})
    gold = []
    columns = (tables["dev"].column(name).to_pylist() for name in ("tokens", "tags"))
    for tokens, tags in zip(*columns, strict=True):
        ends = np.cumsum([len(token) + 1 for token in tokens])
        spans: list[Span] = []
        for place, tag in enumerate(tags):
            if tag.startswith("I-") and spans:
                spans[-1] = Span(spans[-1].start, int(ends[place]) - 1, spans[-1].label)
            elif tag != "O":
                spans.append(Span(int(ends[place]) - 1 - len(tokens[place]), int(ends[place]) - 1, tag[2:]))
        gold.append(tuple(spans))
    scores = {
        name: tag_scores(
            gold,
            baselines.predict(
                name, task="tag", labels=labels, multi_label=False, train=tables["train"], test=tables["dev"]
            ),
            labels,
        )
        for name in baselines.NAMES
    }
    assert scores["tfidf"]["f1"].value > 0.12
    assert scores["tfidf"]["f1"].value > scores["majority"]["f1"].value
