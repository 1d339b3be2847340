"""Classification scores: what a user would notice, and their edges. tests/golden holds them to scikit-learn."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from luban.metrics.classify import (
    Answers,
    auroc,
    classify_per_label,
    classify_scores,
    confusion,
    label_ranking,
    probabilities,
)
from luban.records import LabelScores, Prediction, Score

LABELS = ("card", "loan", "转账")


def answer(label: str | None, **scores: float) -> Prediction:
    return Prediction((label,) if label else (), scores)


def test_a_row_without_an_answer_is_wrong_and_lowers_coverage() -> None:
    gold = [("card",), ("loan",), ("转账",), ("card",)]
    scores = classify_scores(gold, [answer("card"), answer("loan"), answer(None), answer("loan")], LABELS, False)
    assert scores["accuracy"].value == 0.5
    assert scores["coverage"].value == 0.75
    assert scores["selective_accuracy"].value == pytest.approx(2 / 3)
    assert scores["selective_accuracy"].n == 3


def test_accuracy_and_micro_f1_are_one_quantity_with_one_interval_where_every_row_is_answered() -> None:
    gold = [("card",), ("loan",), ("转账",), ("card",)] * 30
    given = [answer("card"), answer("loan"), answer("card"), answer("card")] * 30
    scores = classify_scores(gold, given, LABELS, False)
    assert scores["micro_f1"] == scores["accuracy"] and scores["accuracy"].low < 0.75 < scores["accuracy"].high


def test_coverage_is_left_out_where_every_row_is_answered() -> None:
    scores = classify_scores([("card",)], [answer("card")], LABELS, False)
    assert "coverage" not in scores
    assert "selective_accuracy" not in scores


def test_gold_labels_that_the_model_never_saw_are_wrong_and_count_in_macro_f1() -> None:
    scores = classify_scores([("card",), ("mortgage",)], [answer("card"), answer("card")], LABELS, False)
    assert scores["accuracy"].value == 0.5
    assert scores["macro_f1"].value == pytest.approx((2 / 3 + 0) / 2)
    table = classify_per_label([("card",), ("mortgage",)], [answer("card"), answer("card")], LABELS, False)
    assert table["mortgage"]["recall"].value == 0.0
    assert table["mortgage"]["support"].value == 1.0


def test_an_abstention_on_a_gold_label_unknown_to_the_model_is_not_right() -> None:
    assert classify_scores([("mortgage",)], [answer(None)], LABELS, False)["accuracy"].value == 0.0


def test_labels_that_never_occur_do_not_pull_macro_f1_down() -> None:
    scores = classify_scores([("card",), ("card",)], [answer("card"), answer("card")], LABELS, False)
    assert scores["macro_f1"].value == 1.0


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_rows_tell_nothing(multi_label: bool) -> None:
    scores = classify_scores([], [], LABELS, multi_label)
    assert scores
    assert all(score == Score(0.0, 0.0, 1.0, 0) for score in scores.values())
    assert all(row["f1"] == Score(0.0, 0.0, 1.0, 0) for row in classify_per_label([], [], LABELS, multi_label).values())


def test_one_row_has_a_wide_interval() -> None:
    scores = classify_scores([("card",)], [answer("card", card=0.9, loan=0.1)], LABELS, False)
    assert scores["accuracy"].value == 1.0
    assert scores["accuracy"].low < 0.25
    assert scores["macro_f1"].low < 0.25, "one right row doesn't prove that all will be"
    assert "auroc" not in scores, "one row has no pair to rank"


def test_as_many_predictions_as_rows_are_wanted() -> None:
    with pytest.raises(ValueError, match="2 gold rows but 1 predictions"):
        classify_scores([("card",), ("loan",)], [answer("card")], LABELS, False)


def test_probabilities_come_in_the_order_of_the_labels_asked_for() -> None:
    row = np.array([0.2, 0.8])
    shared = LabelScores(("loan", "card"), row)
    plain = Prediction(("card",), {"card": 0.7, "loan": 0.3})
    found = probabilities([Prediction(("card",), shared), plain], ("card", "loan"))
    assert found is not None
    np.testing.assert_allclose(found, [[0.8, 0.2], [0.7, 0.3]])
    assert probabilities([plain, Prediction(("card",))], ("card", "loan")) is None


def test_multi_label_rows_may_have_no_label_and_be_right() -> None:
    gold = [(), ("card", "loan"), ("card",)]
    predictions = [Prediction(), Prediction(("loan", "card")), Prediction(("card", "loan"))]
    scores = classify_scores(gold, predictions, LABELS, True)
    assert scores["subset_accuracy"].value == pytest.approx(2 / 3)
    assert scores["hamming"].value == pytest.approx(1 / 9)
    assert scores["micro_f1"].value == pytest.approx(2 * 3 / (4 + 3))
    assert Answers.collect(gold, predictions, LABELS, True).hits.tolist() == [True, True, False]


def test_confusion_counts_unknown_gold_and_missing_answers_last() -> None:
    table = confusion(np.array([0, 0, 1, -1]), np.array([0, 1, -1, 1]), 2)
    assert table.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_label_ranking_by_hand() -> None:
    gold = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    shares = np.array([[0.9, 0.5, 0.1], [0.4, 0.4, 0.1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    # First row: 1 of 1, then 2 of 3 as high; second: tied with a wrong one; the others have nothing to rank.
    np.testing.assert_allclose(label_ranking(gold, shares), [(1 + 2 / 3) / 2, 1 / 2, 1, 1])


def test_auroc_of_a_ranking_without_skill_is_a_half_whatever_the_ties() -> None:
    gold = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
    value, _ = auroc(gold, np.full((4, 2), 0.5))
    assert value == 0.5


def test_auroc_error_matches_that_of_resampled_rows() -> None:
    rng = np.random.default_rng(5)
    gold = np.eye(4, dtype=bool)[rng.integers(0, 4, 600)]
    scores = rng.normal(size=(600, 4)) + 1.2 * gold
    _, deviation = auroc(gold, scores)
    drawn = [auroc(gold[rows], scores[rows])[0] for rows in rng.integers(0, 600, size=(400, 600))]
    assert deviation == pytest.approx(np.std(np.array(drawn, float)), rel=0.15)


def test_intervals_hold_their_values_and_are_the_same_every_time() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(400, 3))
    gold = [(LABELS[label],) for label in (logits + rng.normal(size=(400, 3))).argmax(axis=1)]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = [Prediction((LABELS[row.argmax()],), LabelScores(LABELS, row)) for row in shares]
    scores = classify_scores(gold, predictions, LABELS, False)
    assert all(score.low <= score.value <= score.high and score.low < score.high for score in scores.values())
    assert scores == classify_scores(gold, predictions, LABELS, False)
    bare = classify_scores(gold, predictions, LABELS, False, intervals=False)
    assert {name: score.value for name, score in bare.items()} == {name: score.value for name, score in scores.items()}
    assert all(score.low == score.value == score.high for score in bare.values())


def test_a_thousand_resamples_of_ten_thousand_rows_take_under_two_seconds() -> None:
    rng = np.random.default_rng(1)
    labels = tuple(f"intent {number}" for number in range(77))
    gold = rng.random((10_000, 77)) < 0.04
    given = gold ^ (rng.random((10_000, 77)) < 0.01)
    rows = [tuple(labels[label] for label in np.flatnonzero(row)) for row in gold]
    predictions = [Prediction(tuple(labels[label] for label in np.flatnonzero(row))) for row in given]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    scores = classify_scores(rows, predictions, labels, True)
    assert time.process_time() - start < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"
    assert scores["macro_f1"].high - scores["macro_f1"].low < 0.02


def test_answers_keep_only_the_first_label_where_one_is_wanted() -> None:
    answers = Answers.collect([("card",)], [Prediction(("card", "loan"))], LABELS, False)
    assert answers.hits.tolist() == [True]
