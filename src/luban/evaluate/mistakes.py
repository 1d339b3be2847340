"""What a model gets wrong: labels taken for each other, the surest mistakes, and test labels that look wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from luban.evaluate.measure import Gold, Measure
from luban.metrics.classify import probabilities
from luban.metrics.tag import overlaps
from luban.records import Prediction, Span

NONE = ""
"""Stands where there is no label: a missed entity, a made-up one, a row without an answer."""
MOST_IN_MATRIX = 30
N_PAIRS = 20
N_EXAMPLES = 3
N_ERRORS = 20
N_SUSPECTS = 20
SUSPECT_FROM = 0.9
"""How sure the model must be of another label before a test label is suspected."""
MAX_CHARACTERS = 300
"""A text is shown up to here."""


def shorten(text: str) -> str:
    """Return a text, cut where it is too long to show."""
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def confusion(measure: Measure, gold: Gold, predictions: Sequence[Prediction], texts: Sequence[str]) -> dict[str, Any]:
    """Return which labels are taken for which.

    Returns:
        `pairs`: the commonest mistakes, each {gold, given, n, of (how often gold occurs), examples: texts};
        for at most 30 labels also `labels` and `matrix` (rows gold, columns given; the last of both is "none").
    """
    cells: Counter[tuple[str, str]] = Counter()
    examples: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    support: Counter[str] = Counter()
    for right, prediction, text in zip(gold, predictions, texts, strict=True):
        found = list(_cells(measure, right, prediction))
        cells.update(found)
        # Counted from gold itself: a wrong answer of several labels has a cell for each pair.
        support.update(item.label if isinstance(item, Span) else item for item in right)
        for pair in dict.fromkeys(found):
            if pair[0] != pair[1] and len(examples[pair]) < N_EXAMPLES:
                examples[pair].append(shorten(text))
    wrong = sorted((pair for pair in cells if pair[0] != pair[1]), key=lambda pair: (-cells[pair], pair))
    result: dict[str, Any] = {
        "pairs": [
            {"gold": pair[0], "given": pair[1], "n": cells[pair], "of": support[pair[0]], "examples": examples[pair]}
            for pair in wrong[:N_PAIRS]
        ]
    }
    seen = {label for pair in cells for label in pair} - {NONE}
    labels = [*measure.labels, *sorted(seen.difference(measure.labels))]
    if len(labels) <= MOST_IN_MATRIX and not measure.multi_label:
        names = [*labels, NONE]
        result |= {"labels": names, "matrix": [[cells[right, given] for given in names] for right in names]}
    return result


def _cells(measure: Measure, right: Sequence[Any], prediction: Prediction) -> Iterator[tuple[str, str]]:
    """Yield (gold, given) pairs of one row; equal where the answer is right, "" where one side has nothing."""
    if measure.task == "tag":
        yield from _entity_cells(right, prediction.spans)
        return
    if not measure.multi_label:
        yield (right[0] if right else NONE, prediction.label or NONE)
        return
    missed = [label for label in right if label not in prediction.labels]
    extra = [label for label in prediction.labels if label not in right]
    for label in right:
        if label in prediction.labels:
            yield label, label
    for one in missed or ([NONE] if extra else []):
        for other in extra or [NONE]:
            yield one, other


def _entity_cells(right: Sequence[Span], given: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """Yield each gold entity's label with that of the answer that covers most of it, then answers on nothing."""

    def shared(one: Span, other: Span) -> int:
        return min(one.end, other.end) - max(one.start, other.start)

    for span in right:
        touching = [
            (shared(span, other), other.label == span.label, other.label) for other in given if shared(span, other) > 0
        ]
        yield span.label, max(touching)[2] if touching else NONE
    for span in given:
        if all(shared(span, other) <= 0 for other in right):
            yield NONE, span.label


def hardest(
    measure: Measure, gold: Gold, predictions: Sequence[Prediction], texts: Sequence[str], rows: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the mistakes that the model was surest of.

    Args:
        measure: how the task is scored.
        gold: what is right for each row.
        predictions: one a row.
        texts: the rows' texts.
        rows: the rows' numbers in their file.

    Returns:
        classify: {row, text, gold, given, score}; tag: spans as {start, end, label} in `gold` and `given`.
    """
    wrong = np.flatnonzero(~measure.hits(gold, predictions)).tolist()
    if measure.task == "tag":
        return [
            _entity_error(gold[place], predictions[place], texts[place], rows[place])
            for place in sorted(wrong, key=lambda place: (-_surest_wrong(gold[place], predictions[place]), place))[
                :N_ERRORS
            ]
        ]
    shares = probabilities(predictions, measure.labels)
    errors: list[tuple[float, int]] = []
    for place in wrong:
        given = predictions[place].labels
        if shares is None:
            sure = 0.0
        elif measure.multi_label:
            # As sure as of the worst label: one given that is wrong, or one held back that is right.
            own = dict(zip(measure.labels, shares[place].tolist(), strict=True))
            sure = max(
                [own.get(label, 0.0) for label in given if label not in gold[place]]
                + [1 - own.get(label, 0.0) for label in gold[place] if label not in given],
                default=0.0,
            )
        else:
            sure = float(shares[place].max()) if given else 0.0
        errors.append((-sure, place))
    return [
        {
            "row": int(rows[place]),
            "text": shorten(texts[place]),
            "gold": list(gold[place]),
            "given": list(predictions[place].labels),
            "score": -sure,
        }
        for sure, place in sorted(errors)[:N_ERRORS]
    ]


def _surest_wrong(right: Sequence[Span], prediction: Prediction) -> float:
    known = {(span.start, span.end, span.label) for span in right}
    return max(
        (span.score for span in prediction.spans if (span.start, span.end, span.label) not in known), default=0.0
    )


def _entity_error(right: Sequence[Span], prediction: Prediction, text: str, row: int) -> dict[str, Any]:
    shown = shorten(text)

    def plain(spans: Sequence[Span]) -> list[dict[str, Any]]:
        return [
            {"start": span.start, "end": min(span.end, len(shown)), "label": span.label}
            for span in sorted(spans, key=lambda span: (span.start, span.end))
            if span.start < len(shown)
        ]

    return {
        "row": int(row),
        "text": shown,
        "gold": plain(right),
        "given": plain(prediction.spans),
        "score": _surest_wrong(right, prediction),
    }


def suspects(
    measure: Measure,
    gold: Gold,
    predictions: Sequence[Prediction],
    others: Mapping[str, Sequence[Prediction]],
    texts: Sequence[str],
    rows: Sequence[int],
) -> dict[str, Any]:
    """Return test rows whose own label may be wrong: the model is sure of another, and every other model agrees.

    Args:
        measure: how the task is scored.
        gold: what is right for each row.
        predictions: the model's, one a row.
        others: predictions of models that learnt in another way; those that give all rows one answer have no say.
        texts: the rows' texts.
        rows: the rows' numbers in their file.

    Returns:
        `n`, and `rows`: {row, text, gold, given, score}, the surest first; nothing where rows have several labels.
    """
    voters = {name: answers for name, answers in others.items() if len({answer.label for answer in answers}) > 1}
    if not measure.answers_rows or not voters:
        return {}
    found = [
        (-prediction.score, place)
        for place, prediction in enumerate(predictions)
        if prediction.label is not None
        and (prediction.label,) != tuple(gold[place])
        and prediction.score >= SUSPECT_FROM
        and all(answers[place].label == prediction.label for answers in voters.values())
    ]
    shown = [
        {
            "row": int(rows[place]),
            "text": shorten(texts[place]),
            "gold": list(gold[place]),
            "given": list(predictions[place].labels),
            "score": -sure,
        }
        for sure, place in sorted(found)[:N_SUSPECTS]
    ]
    return {"n": len(found), "agreeing": sorted(voters), "rows": shown}


def entity_fates(measure: Measure, gold: Gold, predictions: Sequence[Prediction]) -> dict[str, int]:
    """Return how entities were missed or made up; nothing for other tasks."""
    return overlaps(gold, predictions).to_json() if measure.task == "tag" else {}
