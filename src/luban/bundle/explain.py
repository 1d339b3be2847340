"""Why a model gave its answer: parts of the text are left out, and the model itself says what that changes.

The bundle's own engine answers each shortened text, so that an explanation is one of what is served, int8 products and
calibration included. The same call gives the same explanation. `steps` yields texts and is sent what the engine makes
of them: whoever drives it decides when they run.

classify: Shapley values of the label's log-odds; see `luban.bundle.shapley`. A long text is first looked at in groups
of neighbouring words; those that matter most are looked at more closely, until there are no rows left.
tag: what the log-odds of an entity lose when a word beside it is left out.

Legend: K labels, U units of a row, P parts, R combinations of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.bundle import cutting, shapley
from luban.bundle.cutting import Place
from luban.errors import BadRequest, did_you_mean
from luban.records import Encoded, Explanation, Part, Prediction, Reason, Span

if TYPE_CHECKING:
    from luban.bundle.engine import Engine
    from luban.models.processor import Processor
    from luban.tasks import Task

ROWS = 128
"""Texts that are answered for one explanation, at most. Twice as many are twice as slow, and hardly any better."""
FEWEST_ROWS = 16
MOST_ROWS = 4096
_GROUPS = 16
"""Groups that a long text is looked at in first."""
_CLOSER = 4
"""Groups that are looked at more closely at a time, and what each is cut into."""
_MOST_PARTS = 40
"""Parts between which an answer is shared, at most."""
_LEAST = 1e-30
"""Probability below which odds are not told apart."""
_NEAREST_ONE = 2.0**-25
"""Half of what float32 tells a probability from 1 by."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to a text, and the numbers behind it."""

    prediction: Prediction
    values: np.ndarray
    """classify: (K,) log-odds of the labels. tag: (U, tags) probabilities."""


class Scorer:
    """Answers texts with `Scored`, in an engine's place."""

    def __init__(self, engine: Engine) -> None:
        """Prepare it."""
        self._engine = engine
        self.processor: Processor = engine.processor
        self.task: Task = engine.task

    def checked(self, rows: Sequence[Any]) -> list[Any]:
        """Return rows that can be tokenised; see `Engine.checked`."""
        return self._engine.checked(rows)

    def encode(self, rows: Sequence[Any]) -> Encoded:
        """Tokenise rows; see `Engine.encode`."""
        return self._engine.encode(rows)

    def answer(self, rows: Sequence[Any]) -> tuple[list[Scored], Encoded]:
        """Return what the engine makes of each row, and what the rows were tokenised to."""
        engine, task = self._engine, self.task
        encoded = task.encode(rows, self.processor)
        logits = engine.logits(encoded)
        predictions = task.decode(logits, encoded, rows, engine.calibration, engine.facts)
        values: Iterable[np.ndarray]
        if task.per_token:
            values = task.probabilities(logits, encoded, engine.calibration, engine.facts)  # type: ignore[attr-defined]
        else:
            shares = np.array([list(one.scores.values()) for one in predictions], np.float64)
            values = _log_odds(shares, apart=bool(getattr(task, "multi_label", False)))
        return [Scored(one, found) for one, found in zip(predictions, values, strict=True)], encoded

    def steps(self, text: Any, label: str | None, n_rows: int) -> Steps:
        """Return the way to an explanation, nothing of it gone yet.

        Args:
            text: what was answered.
            label: explain this one, given or not; without it all that were given, or the likeliest.
            n_rows: texts that may be answered for it.

        Raises:
            BadRequest: this text, label or task can't be explained, or `n_rows` is out of range.
        """
        task = self.task
        if not isinstance(text, str):
            raise BadRequest(f"text: got a value of the type {type(text).__name__}, wanted a text",
                             hint="one text at a time is explained, and as a text, not as tokens")  # fmt: skip
        if not isinstance(n_rows, int) or isinstance(n_rows, bool) or not FEWEST_ROWS <= n_rows <= MOST_ROWS:
            raise BadRequest(f"rows: got {n_rows!r}, wanted a whole number from {FEWEST_ROWS} to {MOST_ROWS}",
                             hint="leave it out")  # fmt: skip
        if label is not None and label not in task.labels:
            raise BadRequest(f"label: got {label!r}, wanted one of the model's", hint=did_you_mean(label, task.labels))
        if task.per_token and not (hasattr(task, "probabilities") and hasattr(task, "places")):
            raise BadRequest(f"answers of the task {task.kind} can't be explained", hint="classify and tag can be")
        if not task.per_token and len(task.labels) < 2 and not getattr(task, "multi_label", False):
            raise BadRequest("a model with one label gives it to every text, whatever it says",
                             hint="train it with a second label")  # fmt: skip
        (text,) = self.checked([text])
        places = cutting.cut(text, self.processor.vocabulary)
        asked = _Asked(text, n_rows)
        return _entities(asked, places, label, task) if task.per_token else _labels(asked, places, label, task)


Steps = Generator[list[str], list[Scored], Explanation]


def explain(engine: Engine, text: str, label: str | None, n_rows: int) -> Explanation:
    """Return why an engine gives its answer to a text; see `Engine.explain`."""
    scorer = Scorer(engine)
    return drive(scorer.steps(text, label, n_rows), lambda rows: scorer.answer(rows)[0])


def drive(steps: Steps, answer: Callable[[list[str]], list[Scored]]) -> Explanation:
    """Go the steps to their end, with the answers that are asked for."""
    try:
        rows = next(steps)
        while True:
            rows = steps.send(answer(rows))
    except StopIteration as done:
        found: Explanation = done.value
        return found


class _Asked:
    """The shortened texts of one explanation, each answered once."""

    def __init__(self, text: str, n_rows: int) -> None:
        self.text = text
        self.n_rows = n_rows
        self._known: dict[str, Scored] = {}

    @property
    def n_left(self) -> int:
        """Texts that may still be asked for."""
        return self.n_rows - len(self._known)

    @property
    def n_asked(self) -> int:
        """Texts that were asked for."""
        return len(self._known)

    def n_known(self, places: Sequence[Place], masks: np.ndarray) -> int:
        """Return of how many masks (R, P) the text was asked for before."""
        return sum(cutting.left_out(self.text, places, mask) in self._known for mask in masks.tolist())

    def whole(self) -> Generator[list[str], list[Scored], Scored]:
        """Ask for the text itself."""
        return (yield from self.texts([self.text]))[0]

    def texts(self, texts: list[str]) -> Generator[list[str], list[Scored], list[Scored]]:
        """Ask for texts, those that are not known."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, (yield new), strict=True))
        return [self._known[text] for text in texts]

    def without(self, places: Sequence[Place], masks: np.ndarray) -> Generator[list[str], list[Scored], np.ndarray]:
        """Ask for the text with the parts of each mask (R, P), and return their values (R, K)."""
        found = yield from self.texts([cutting.left_out(self.text, places, mask) for mask in masks.tolist()])
        return np.array([one.values for one in found])


def _labels(asked: _Asked, places: list[Place], label: str | None, task: Task) -> Steps:
    """Explain labels: Shapley values of their log-odds."""
    whole = yield from asked.whole()
    given = whole.prediction.labels or (task.labels[int(whole.values.argmax())],)
    chosen = [task.labels.index(one) for one in ((label,) if label is not None else given)]
    parts = yield from _parts(asked, places, chosen)
    # What was asked for to find the parts of a long text, some of them left out alone, need not be asked again.
    known = asked.n_known(parts, ~np.eye(len(parts), dtype=bool))
    masks, weights = shapley.company(len(parts), max(asked.n_left - 1 + known, 0))
    values = yield from asked.without(parts, np.concatenate([np.zeros((1, len(parts)), bool), masks]))
    empty, all_of_it = values[0, chosen], whole.values[chosen]
    shares = shapley.share(masks, weights, values[1:][:, chosen], empty, all_of_it)
    reasons = tuple(
        Reason(
            label=task.labels[one], score=float(whole.prediction.scores[task.labels[one]]),
            log_odds=float(whole.values[one]), rest=float(empty[column]),
            parts=_weighed(asked.text, parts, shares[:, column]),
        )
        for column, one in enumerate(chosen)
    )  # fmt: skip
    return Explanation(asked.text, "shapley", asked.n_asked, reasons)


def _parts(asked: _Asked, places: list[Place], chosen: list[int]) -> Generator[list[str], list[Scored], list[Place]]:
    """Return the parts between which an answer is shared: all, or of a long text those that matter, and groups."""
    most = min(_MOST_PARTS, asked.n_rows // 4)
    if len(places) <= most:
        return places
    groups = cutting.grouped(asked.text, places, min(_GROUPS, most))
    while True:
        spans = [(group[0][0], group[-1][1]) for group in groups]
        long = [number for number, group in enumerate(groups) if len(group) > 1]
        room = (most - len(groups)) // (_CLOSER - 1)
        if not long or room < 1 or asked.n_left < 3 * len(groups):
            return spans
        values = yield from asked.without(spans, ~np.eye(len(groups), dtype=bool)[long])
        whole = (yield from asked.whole()).values[chosen]
        moved = np.abs(whole - values[:, chosen]).max(1)
        closer = {long[place] for place in np.argsort(-moved, kind="stable")[: min(_CLOSER, room)].tolist()}
        groups = [
            part
            for number, group in enumerate(groups)
            for part in (cutting.grouped(asked.text, group, _CLOSER) if number in closer else [group])
        ]


def _entities(asked: _Asked, places: list[Place], label: str | None, task: Any) -> Steps:
    """Explain entities: what each loses without a word beside it."""
    whole = yield from asked.whole()
    groups = cutting.grouped(asked.text, places, asked.n_rows - 1)
    parts = [(group[0][0], group[-1][1]) for group in groups]
    spans = [span for span in whole.prediction.spans if label in (None, span.label)]
    beside = [[_apart(part, span) for part in parts] for span in spans]
    needed = [number for number in range(len(parts)) if any(each[number] for each in beside)]
    masks = ~np.eye(len(parts), dtype=bool)[needed]
    found = yield from asked.texts([cutting.left_out(asked.text, parts, mask) for mask in masks.tolist()])
    without = dict(zip(needed, found, strict=True))
    units = task.places(asked.text)
    reasons = []
    for span, free in zip(spans, beside, strict=True):
        own = [number for number, (start, end) in enumerate(units) if start < span.end and end > span.start]
        tags = [task.tags.index(f"{'I' if number else 'B'}-{span.label}") for number in range(len(own))]
        before = _entity_odds(whole.values, own[0], tags)
        weights = []
        for number, (part, is_free) in enumerate(zip(parts, free, strict=True)):
            if is_free:
                values = without[number].values
                # What stands before the entity moves its units; they are counted from the end then.
                first = own[0] if part[0] >= span.end else own[0] - len(units) + len(values)
                weights.append(before - _entity_odds(values, first, tags))
        chosen = [part for part, is_free in zip(parts, free, strict=True) if is_free]
        told = _weighed(asked.text, chosen, np.array(weights))
        reasons.append(Reason(span.label, span.score, before, None, told, span))
    return Explanation(asked.text, "left-out", asked.n_asked, tuple(reasons))


def _apart(part: Place, span: Span) -> bool:
    return part[1] <= span.start or part[0] >= span.end


def _entity_odds(shares: np.ndarray, first: int, tags: list[int]) -> float:
    """Return the mean log-odds of the tags of an entity whose units begin at `first`."""
    found = np.clip(shares[np.arange(first, first + len(tags)), tags], _LEAST, 1.0)
    others = np.clip(shares[first : first + len(tags)].sum(1) - found, _LEAST, 1.0)
    return float((np.log(found) - np.log(others)).mean())


def _log_odds(shares: np.ndarray, *, apart: bool) -> np.ndarray:
    """Return log-odds (N, K) of probabilities (N, K), each for itself or against all others.

    The sum of the others is taken for 1 - p, which would be 0 to float32 where a model is very sure.
    """
    if apart:
        others = np.maximum(1.0 - shares, _NEAREST_ONE)
    else:
        others = np.zeros_like(shares)  # those before a label and those behind it: what is near 0 is not lost in a sum
        others[:, 1:] += np.cumsum(shares, 1)[:, :-1]
        others[:, :-1] += np.cumsum(shares[:, ::-1], 1)[:, -2::-1]
        others = np.maximum(others, _LEAST)
    odds: np.ndarray = np.log(np.maximum(shares, _LEAST)) - np.log(others)
    return odds


def _weighed(text: str, parts: Sequence[Place], weights: np.ndarray) -> tuple[Part, ...]:
    return tuple(
        Part(start, end, text[start:end], weight) for (start, end), weight in zip(parts, weights.tolist(), strict=True)
    )
