"""Every score against scikit-learn, seqeval or SciPy, on rows made by chance and on predictions from real data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.metrics.calibrate import fit_temperature, sigmoid, softmax
from luban.metrics.classify import (
    auroc,
    classify_per_label,
    classify_scores,
)
from luban.metrics.interval import mcnemar, wilson
from luban.metrics.tag import tag_per_label, tag_scores
from luban.records import LabelScores, Prediction, Span

CLOSE = {"rel": 1e-9, "abs": 1e-9}


@pytest.fixture
def metrics() -> Iterator[object]:
    """Return sklearn.metrics, silent about labels without rows."""
    module = pytest.importorskip("sklearn.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield module


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def single(seed: int, n: int, k: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Return targets (n,) and probabilities (n, k); the rarer labels may be absent from either."""
    rng = np.random.default_rng(seed)
    targets = np.minimum(rng.geometric(0.3, n) - 1, k - 1)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += skill
    return targets, softmax(logits)


@pytest.mark.parametrize(
    ("n", "k", "skill"), [(500, 3, 1.0), (300, 20, 2.0), (40, 12, 0.0), (1, 4, 3.0), (200, 2, 1.0)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_single_label_scores(metrics, seed: int, n: int, k: int, skill: float) -> None:
    targets, shares = single(seed, n, k, skill)
    labels = tuple(f"label {number}" for number in range(k))
    given = shares.argmax(axis=1)
    gold = [(labels[target],) for target in targets]
    predictions = [
        Prediction((labels[best],), LabelScores(labels, row)) for best, row in zip(given, shares, strict=True)
    ]
    scores = classify_scores(gold, predictions, labels, False)
    assert scores["accuracy"].value == pytest.approx(metrics.accuracy_score(targets, given), **CLOSE)
    for average in ("macro", "weighted", "micro"):
        assert scores[f"{average}_f1"].value == pytest.approx(
            metrics.f1_score(targets, given, average=average, zero_division=0), **CLOSE
        )
    assert scores["macro_precision"].value == pytest.approx(
        metrics.precision_score(targets, given, average="macro", zero_division=0), **CLOSE
    )
    assert scores["macro_recall"].value == pytest.approx(
        metrics.recall_score(targets, given, average="macro", zero_division=0), **CLOSE
    )
    usable = [label for label in range(k) if 0 < (targets == label).sum() < n]
    if usable:
        areas = [metrics.roc_auc_score(targets == label, shares[:, label]) for label in usable]
        assert scores["auroc"].value == pytest.approx(np.mean(areas), **CLOSE)
    table = classify_per_label(gold, predictions, labels, False)
    expected = metrics.precision_recall_fscore_support(targets, given, labels=range(k), zero_division=0)
    for number, label in enumerate(labels):
        found = [table[label][name].value for name in ("precision", "recall", "f1", "support")]
        assert found == pytest.approx([float(part[number]) for part in expected], **CLOSE)


@pytest.mark.parametrize(("n", "k"), [(300, 5), (60, 30), (1, 3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_multi_label_scores(metrics, seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    gold = rng.random((n, k)) < 0.2
    shares = np.round(sigmoid(rng.normal(size=(n, k)) + 2 * gold - 1), 2)
    given = shares >= 0.5
    labels = tuple(f"label {number}" for number in range(k))
    rows = [tuple(labels[number] for number in np.flatnonzero(row)) for row in gold]
    predictions = [
        Prediction(tuple(labels[number] for number in np.flatnonzero(chosen)), LabelScores(labels, row))
        for chosen, row in zip(given, shares, strict=True)
    ]
    scores = classify_scores(rows, predictions, labels, True)
    assert scores["subset_accuracy"].value == pytest.approx(metrics.accuracy_score(gold, given), **CLOSE)
    assert scores["hamming"].value == pytest.approx(metrics.hamming_loss(gold, given), **CLOSE)
    assert scores["micro_f1"].value == pytest.approx(
        metrics.f1_score(gold, given, average="micro", zero_division=0), **CLOSE
    )
    present = gold.any(axis=0) | given.any(axis=0)
    if present.any():
        assert scores["macro_f1"].value == pytest.approx(
            metrics.f1_score(gold[:, present], given[:, present], average="macro", zero_division=0), **CLOSE
        )
    usable = gold.any(axis=0) & ~gold.all(axis=0)
    if usable.any():
        expected = metrics.roc_auc_score(gold[:, usable], shares[:, usable], average="macro")
        assert scores["auroc"].value == pytest.approx(expected, **CLOSE)
    expected = metrics.label_ranking_average_precision_score(gold, shares)
    assert scores["label_ranking"].value == pytest.approx(expected, **CLOSE)
    assert scores["label_ranking"].low <= expected <= scores["label_ranking"].high


def test_real_questions(metrics, data_sets: Path) -> None:
    """Score nearest-centroid answers to real questions: many labels, some of them never given."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestCentroid

    rows = {part: read(data_sets / "banking77" / f"{part}.jsonl") for part in ("train", "test")}
    vectorizer = TfidfVectorizer()
    train = vectorizer.fit_transform([row["text"] for row in rows["train"][::5]])
    model = NearestCentroid().fit(train.toarray(), [row["label"] for row in rows["train"][::5]])
    given = model.predict(vectorizer.transform([row["text"] for row in rows["test"]]).toarray())
    gold = [row["label"] for row in rows["test"]]
    labels = tuple(sorted(set(gold)))
    scores = classify_scores([(label,) for label in gold], [Prediction((label,)) for label in given], labels, False)
    assert scores["accuracy"].value == pytest.approx(metrics.accuracy_score(gold, given), **CLOSE)
    assert scores["macro_f1"].value == pytest.approx(metrics.f1_score(gold, given, average="macro"), **CLOSE)
    assert scores["weighted_f1"].value == pytest.approx(metrics.f1_score(gold, given, average="weighted"), **CLOSE)


def entities(tags: list[str]) -> tuple[Span, ...]:
    """Return the entities of BIO tags as spans that count tokens."""
    found: list[Span] = []
    for place, tag in enumerate([*tags, "O"]):
        if found and found[-1].end == -1 and not (tag.startswith("I-") and tag[2:] == found[-1].label):
            found[-1] = Span(found[-1].start, place, found[-1].label)
        if tag.startswith("B-"):
            found.append(Span(place, -1, tag[2:]))
    return tuple(found)


@pytest.mark.parametrize(("name", "part"), [("wnut17", "test"), ("cluener", "dev")])
def test_entities(data_sets: Path, name: str, part: str) -> None:
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    rng = np.random.default_rng(0)
    gold = [row["tags"] for row in read(data_sets / name / f"{part}.jsonl")[:400]]
    labels = tuple(sorted({tag[2:] for tags in gold for tag in tags if tag != "O"}))
    guesses = []
    for tags in gold:
        choices = ["O", *(f"B-{label}" for label in labels)]
        noisy = [tag if rng.random() > 0.08 else str(rng.choice(choices)) for tag in tags]
        # An inner tag that follows nothing of its label is no entity in IOB2; drop it, as a decoder would.
        for place, tag in enumerate(noisy):
            if tag.startswith("I-") and (place == 0 or noisy[place - 1] not in (tag, f"B-{tag[2:]}")):
                noisy[place] = "O"
        guesses.append(noisy)
    expected = classification_report(gold, guesses, output_dict=True, mode="strict", scheme=IOB2, zero_division=0)
    rows, predictions = [entities(tags) for tags in gold], [Prediction(spans=entities(tags)) for tags in guesses]
    scores = tag_scores(rows, predictions, labels)
    assert scores["f1"].value == pytest.approx(expected["micro avg"]["f1-score"], **CLOSE)
    assert scores["precision"].value == pytest.approx(expected["micro avg"]["precision"], **CLOSE)
    assert scores["recall"].value == pytest.approx(expected["micro avg"]["recall"], **CLOSE)
    assert scores["macro_f1"].value == pytest.approx(expected["macro avg"]["f1-score"], **CLOSE)
    table = tag_per_label(rows, predictions, labels)
    for label in labels:
        assert table[label]["f1"].value == pytest.approx(expected[label]["f1-score"], **CLOSE)
        assert table[label]["support"].value == expected[label]["support"]


def test_temperature_is_the_minimum_that_scipy_finds(metrics) -> None:
    from scipy.optimize import minimize_scalar

    targets, shares = single(4, 3_000, 6, 2.0)
    logits = np.log(shares) * 2.5
    best = minimize_scalar(
        lambda log: metrics.log_loss(targets, softmax(logits, np.exp(log)), labels=range(6)),
        bounds=(-3, 3),
        method="bounded",
    ).x
    assert fit_temperature(logits, targets) == pytest.approx(np.exp(best), rel=0.01)


def test_areas_and_tests(metrics) -> None:
    from scipy.stats import binomtest

    targets, shares = single(5, 500, 4, 1.0)
    gold = np.eye(4, dtype=bool)[targets]
    tied = np.round(shares, 1)
    areas = [metrics.roc_auc_score(gold[:, label], tied[:, label]) for label in range(4)]
    assert auroc(gold, tied)[0] == pytest.approx(np.mean(areas), **CLOSE)
    for one, other in ((3, 10), (40, 61), (0, 1), (500, 520)):
        assert mcnemar(one, other) == pytest.approx(min(1.0, binomtest(one, one + other).pvalue), rel=1e-9)
    for hits, n in ((3, 10), (99, 100), (940, 1000)):
        ends = binomtest(hits, n).proportion_ci(method="wilson")
        assert (wilson(hits, n).low, wilson(hits, n).high) == pytest.approx((ends.low, ends.high), **CLOSE)
