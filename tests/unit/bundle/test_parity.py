"""Parity: a graph that answers otherwise is refused, with how far it is off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from unit.bundle.made import Made

from luban.bundle import parity, runtimes
from luban.errors import ParityFailed
from luban.files import read_json
from luban.records import Encoded


class Changed:
    """A runner whose logits are changed on their way out."""

    threads = 1

    def __init__(self, it: Made, change: Callable[[np.ndarray], np.ndarray]) -> None:
        facts = read_json(it.folder / "bundle.json")["runtime"]
        self._runner = runtimes.open("onnx", it.folder, facts)
        self._change = change

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self._change(self._runner.run(input_ids, attention_mask))


def checked(it: Made, change: Callable[[np.ndarray], np.ndarray], allowed: float = 1e-3) -> dict[str, Any]:
    return parity.check(
        it.model, Changed(it, change), it.rows, pad_id=it.processor.pad_id, per_token=it.task.per_token,
        max_difference=allowed,
    )  # fmt: skip


@pytest.mark.parametrize("which", ["classifier", "tagger"])
def test_the_exported_model_passes(which: str, request: pytest.FixtureRequest) -> None:
    found = checked(request.getfixturevalue(which), lambda logits: logits)
    assert found["max_difference"] < 1e-4
    assert found["labels_agree"] == 1.0
    assert found["n"] >= found["windows"] >= 40


def test_a_shifted_logit_fails_with_how_far(classifier: Made) -> None:
    def shift(logits: np.ndarray) -> np.ndarray:
        logits[-1, 1] += 0.01
        return logits

    with pytest.raises(ParityFailed, match=r"differ from torch's by 0\.01, allowed is 0\.001") as caught:
        checked(classifier, shift)
    assert caught.value.measured == pytest.approx(0.01, abs=1e-4)
    assert caught.value.allowed == 1e-3
    assert checked(classifier, shift, allowed=0.1)["max_difference"] == pytest.approx(0.01, abs=1e-4)


def test_other_labels_fail_even_where_differences_are_allowed(classifier: Made) -> None:
    with pytest.raises(ParityFailed, match="torch's label in"):
        checked(classifier, lambda logits: -logits, allowed=1e9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_fail(classifier: Made, value: float) -> None:
    with pytest.raises(ParityFailed) as caught:
        checked(classifier, lambda logits: np.full_like(logits, value), allowed=1e9)
    assert caught.value.measured == float("inf")


def test_another_shape_fails(classifier: Made) -> None:
    with pytest.raises(ParityFailed, match="of the shape"):
        checked(classifier, lambda logits: logits[:, :2])


def test_what_nothing_asks_for_is_not_compared(tagger: Made) -> None:
    """Special tokens and later pieces of a word have logits too, and they never become an answer."""
    rows = tagger.rows
    assert rows.units is not None
    found = checked(tagger, lambda logits: logits)
    asked = int((rows.units >= 0).sum())
    assert found["n"] == asked < len(rows.ids)


def test_a_window_that_is_run_twice_counts_once_and_fails_where_either_does(classifier: Made) -> None:
    assert checked(classifier, lambda logits: logits)["n"] == len(classifier.rows)

    def alone(logits: np.ndarray) -> np.ndarray:
        return logits + 0.01 if len(logits) == 1 else logits

    with pytest.raises(ParityFailed, match=r"differ from torch's by 0\.01"):
        checked(classifier, alone)
    found = checked(classifier, alone, allowed=0.1)
    assert found["mean_difference"] == pytest.approx(2 * 0.01 / len(classifier.rows), rel=0.1)


def test_without_rows_nothing_is_proved(classifier: Made) -> None:
    none = Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int64), 0)
    with pytest.raises(ParityFailed, match="no rows"):
        parity.check(
            classifier.model, Changed(classifier, lambda logits: logits), none, pad_id=0, per_token=False,
            max_difference=1.0,
        )  # fmt: skip
