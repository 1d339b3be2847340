"""Entity scores: strict by edges and label."""

from __future__ import annotations

import pytest

from luban.metrics.tag import overlaps, tag_per_label, tag_scores
from luban.records import Prediction, Score, Span

LABELS = ("人", "地")


def spans(*entities: tuple[int, int, str]) -> tuple[Span, ...]:
    return tuple(Span(*entity) for entity in entities)


def test_edges_and_label_must_both_be_right() -> None:
    gold = [spans((0, 2, "人"), (5, 7, "地")), spans((0, 3, "人"))]
    predictions = [Prediction(spans=spans((0, 2, "人"), (5, 7, "人"))), Prediction(spans=spans((0, 2, "人")))]
    scores = tag_scores(gold, predictions, LABELS)
    assert scores["precision"].value == pytest.approx(1 / 3)
    assert scores["recall"].value == pytest.approx(1 / 3)
    assert scores["f1"].value == pytest.approx(1 / 3)
    assert scores["macro_f1"].value == pytest.approx((2 / 5 + 0) / 2)
    assert scores["recall"].n == 3
    table = tag_per_label(gold, predictions, LABELS)
    assert table["地"]["support"].value == 1.0
    assert table["人"]["precision"].n == 3


def test_the_same_entity_given_twice_counts_once() -> None:
    scores = tag_scores([spans((0, 2, "人"))], [Prediction(spans=spans((0, 2, "人"), (0, 2, "人")))], LABELS)
    assert scores["precision"].value == 1.0


def test_score_and_text_of_a_span_do_not_matter() -> None:
    gold, found = [(Span(0, 2, "人", "张三", 1.0),)], [Prediction(spans=(Span(0, 2, "人", "", 0.4),))]
    assert tag_scores(gold, found, LABELS)["f1"].value == 1.0


def test_nothing_to_find_and_nothing_found_tells_nothing() -> None:
    for gold, predictions in (([], []), ([()], [Prediction()])):
        assert set(tag_scores(gold, predictions, LABELS).values()) == {Score(0.0, 0.0, 1.0, 0)}


def test_labels_outside_the_model_count_too() -> None:
    scores = tag_scores([spans((0, 2, "机构"))], [Prediction(spans=spans((0, 2, "人")))], LABELS)
    assert scores["f1"].value == 0.0
    assert scores["recall"].n == 1


def test_as_many_predictions_as_rows_are_wanted() -> None:
    with pytest.raises(ValueError, match="1 gold rows but 0 predictions"):
        tag_scores([()], [], LABELS)


def test_each_way_to_be_wrong_is_told_apart() -> None:
    gold = [spans((0, 2, "人"), (3, 5, "人"), (6, 9, "地"), (10, 12, "地"), (20, 22, "人"))]
    found = [Prediction(spans=spans((0, 2, "人"), (3, 5, "地"), (6, 8, "地"), (11, 13, "人"), (30, 31, "人")))]
    assert overlaps(gold, found).to_json() == {
        "exact": 1,
        "wrong_label": 1,
        "wrong_edges": 1,
        "wrong_both": 1,
        "missed": 1,
        "made_up": 1,
    }
