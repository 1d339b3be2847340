"""Tag: stretches of a text with a label each, such as the names of people and places.

Every unit (a word, or a Chinese character) gets a BIO tag, read off its first token. At decoding only rows of tags that
BIO allows are considered. Spans count characters of the text as the user gave it.

Legend: B windows in a batch, L tokens in the longest, T tokens and W windows in an Encoded, N rows, U units of all
rows, K tags: `O`, and `B-` and `I-` of every label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from luban.data.units import join, locate, split
from luban.errors import DataError, Problem, did_you_mean
from luban.metrics import calibrate as calibration_metrics
from luban.metrics.tag import tag_scores
from luban.models.windows import IGNORED
from luban.records import Calibration, Encoded, Prediction, Score, Span
from luban.tasks import chain

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from luban.models.processor import Processor

Frame = tuple[str, list[tuple[int, int]]]
"""A row's text, and where its units stand in it."""
_MAX_PROBLEMS = 20
_FIT_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the task `tag`."""

    crf: bool = False
    """Learn how likely each step from tag to tag is (a conditional random field), too, rather than units one by one."""
    units: Literal["words", "characters"] = "words"
    """What gets a tag in a text: words and single Chinese characters, or every character, as in data so annotated."""
    stride: Annotated[int, Ge(0)] = 0
    """Tokens that neighbouring windows of a long row share, at least; a quarter of the window where that is more."""


def scores(options: Options) -> tuple[str, ...]:
    """Return the names of the scores that `Tag.score` gives, the main one first."""
    return ("f1", "precision", "recall", "macro_f1")


def make(options: Options, labels: Sequence[str]) -> Tag:
    """Return the task over these labels, the kinds of entity."""
    return Tag(options, tuple(labels))


class Tag:
    """The task `tag`; see `luban.tasks.Task` for what each method promises."""

    kind = "tag"
    per_token = True
    main_score = "f1"

    def __init__(self, options: Options, labels: tuple[str, ...]) -> None:
        self.options = options
        self.labels = labels
        self.tags = chain.tags_of(labels)
        """The K tags in the order of the outputs."""
        self._index = {tag: index for index, tag in enumerate(self.tags)}

    @property
    def n_outputs(self) -> int:
        """K: one logit a BIO tag."""
        return len(self.tags)

    def encode(self, rows: pa.Table | Sequence[Any], processor: Processor) -> Encoded:
        """Tokenise rows; of a Dataset's table the targets are set too, at the first token of every unit.

        Raises:
            DataError: a row is neither a text nor a list of tokens, or a tag is not among this task's.
        """
        framed = self._frames(rows)
        units = [[text[start:end] for start, end in places] for text, places in framed]
        spaced = [[start == 0 or text[start - 1].isspace() for start, _ in places] for text, places in framed]
        encoded = processor.encode_units(units, spaced)
        return replace(encoded, targets=self._targets(rows, encoded)) if _is_table(rows) else encoded

    def _targets(self, table: pa.Table, encoded: Encoded) -> np.ndarray:
        """Return (T,) tags at the first token of each unit, -100 elsewhere."""
        tags, offsets = self._gold_tags(table)
        assert encoded.units is not None
        owner = np.repeat(encoded.rows, encoded.lengths)
        asked = encoded.units >= 0
        targets = np.full(len(encoded.ids), IGNORED, np.int64)
        targets[asked] = tags[offsets[owner[asked]] + encoded.units[asked]]
        return targets

    def _gold_tags(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return (U,) valid tags of all rows and (N + 1,) where rows begin and end."""
        rows = table.column("tags").to_pylist()
        offsets = _offsets([len(tags) for tags in rows])
        found = [self._index.get(tag, -1) for tags in rows for tag in tags]
        tags = np.array(found, np.int64)
        if (unknown := np.flatnonzero(tags < 0)).size:
            raise DataError(self._unknown_tags(table, rows, offsets, unknown))
        return chain.repair(tags, offsets), offsets

    def _unknown_tags(
        self, table: pa.Table, rows: Sequence[Sequence[str]], offsets: np.ndarray, unknown: np.ndarray
    ) -> list[Problem]:
        names = table.column("row").to_pylist() if "row" in table.column_names else list(range(1, len(rows) + 1))
        problems = []
        for unit in unknown[:_MAX_PROBLEMS].tolist():
            row = int(np.searchsorted(offsets, unit, side="right")) - 1
            place = unit - int(offsets[row])
            tag = rows[row][place]
            wanted = "one of the tags that the model was made for"
            where = f"row {names[row]}, token {place + 1}"
            problems.append(Problem(where, repr(tag), wanted, hint=did_you_mean(str(tag), self.tags)))
        return problems

    def head(self, width: int, *, dropout: float, pooling: str) -> torch.nn.Module:
        """Return a linear head over every token, with scores for steps between tags where `crf` is set."""
        if self.options.crf:
            from luban.tasks.crf import CrfHead

            return CrfHead(width, self.n_outputs, dropout=dropout)
        from luban.models.heads import TokenHead

        return TokenHead(width, self.n_outputs, dropout=dropout)

    def loss(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        mask: torch.Tensor,
        head: torch.nn.Module,
        weights: torch.Tensor | None = None,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Return cross entropy a unit, or the negative log-likelihood of whole rows divided by their units."""
        if self.options.crf:
            from luban.tasks import crf

            assert isinstance(head, crf.CrfHead)
            return crf.loss(logits, targets, head.transitions, weights=weights, smoothing=smoothing)
        from torch.nn import functional

        asked = targets >= 0
        if not bool(asked.any()):
            return logits.sum() * 0.0
        scores = logits[asked].float()
        return functional.cross_entropy(scores, targets[asked], weight=weights, label_smoothing=smoothing)

    def facts(self, head: torch.nn.Module) -> dict[str, Any]:
        """Return the transitions of a conditional random field, (K, K) from -> to; nothing for a plain head."""
        if not self.options.crf:
            return {}
        from luban.tasks.crf import CrfHead

        assert isinstance(head, CrfHead)
        return {"transitions": head.transitions.detach().double().cpu().tolist()}

    def gold(self, table: pa.Table) -> list[tuple[Span, ...]]:
        """Return each row's entities."""
        tags, offsets = self._gold_tags(table)
        return self._spans(tags, np.ones(len(tags)), offsets, table)

    def inputs(self, table: pa.Table) -> list[str | list[str]]:
        """Return each row as a text, or as its tokens where the text alone would be cut into other units."""
        pairs = zip(table.column("text").to_pylist(), table.column("tokens").to_pylist(), strict=True)
        return [text if self._split(text) == locate(text, tokens) else tokens for text, tokens in pairs]

    def _split(self, text: str) -> list[tuple[int, int]]:
        return split(text, characters=self.options.units == "characters")

    def _frames(self, rows: pa.Table | Sequence[Any], chosen: Sequence[int] | None = None) -> list[Frame]:
        """Return the frames of all rows, or of the chosen ones.

        Raises:
            DataError: a row is neither a text nor a list of tokens.
        """
        if _is_table(rows):
            table: Any = rows
            rows = self.inputs(table if chosen is None else table.take(chosen))
        elif chosen is not None:
            rows = [rows[number] for number in chosen]
        if wrong := [number for number, row in enumerate(rows) if not _is_row(row)]:
            wanted = "a text or a list of tokens"
            raise DataError([Problem(f"row {n + 1}", _short(rows[n]), wanted) for n in wrong[:_MAX_PROBLEMS]])
        return [self._frame(row) for row in rows]

    def _frame(self, row: str | Sequence[str]) -> Frame:
        if isinstance(row, str):
            return row, self._split(row)
        text = join(row)
        return text, locate(text, row)

    def decode(
        self,
        logits: np.ndarray,
        encoded: Encoded,
        rows: Sequence[Any],
        calibration: Calibration,
        facts: Mapping[str, Any],
    ) -> list[Prediction]:
        """Return each row's entities; a span below `abstain_below` is left out.

        Without transitions among the facts, as for the logits of a linear probe, units are judged one by one.
        """
        scores, offsets = _by_unit(logits, encoded)
        tags, probabilities = self._answer(scores, offsets, calibration.temperature, facts)
        return [
            Prediction(spans=tuple(span for span in spans if span.score >= calibration.abstain_below))
            for spans in self._spans(tags, probabilities, offsets, rows)
        ]

    def probabilities(
        self, logits: np.ndarray, encoded: Encoded, calibration: Calibration, facts: Mapping[str, Any]
    ) -> list[np.ndarray]:
        """Return for each row the calibrated probability of every tag of its units, (units, K)."""
        scores, offsets = _by_unit(logits, encoded)
        if "transitions" in facts:
            steps = np.asarray(facts["transitions"], np.float64) / calibration.temperature
            found = chain.marginals(scores / calibration.temperature, offsets, steps)
        else:
            found = calibration_metrics.softmax(scores, calibration.temperature)
        return np.split(found, offsets[1:-1])

    def places(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of each unit of a text, in code points."""
        return self._split(text)

    def _answer(
        self, scores: np.ndarray, offsets: np.ndarray, temperature: float, facts: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best valid tags (U,) and their probabilities (U,), at least of entities, for scores (U, K)."""
        units = np.arange(len(scores))
        if "transitions" not in facts:
            tags = chain.best(scores, offsets)
            return tags, calibration_metrics.softmax(scores, temperature)[units, tags]
        transitions = np.asarray(facts["transitions"], np.float64)
        tags = chain.best(scores, offsets, transitions)
        found = np.searchsorted(offsets, np.flatnonzero(tags), side="right") - 1
        return tags, chain.marginals(scores / temperature, offsets, transitions / temperature, found)[units, tags]

    def _spans(
        self, tags: np.ndarray, probabilities: np.ndarray, offsets: np.ndarray, rows: Any
    ) -> list[tuple[Span, ...]]:
        """Return each row's entities for valid tags (U,) of probability (U,)."""
        first, last = chain.segments(tags)
        if not len(first):
            return [()] * (len(offsets) - 1)
        entity = np.flatnonzero(tags)
        lowest = np.minimum.reduceat(probabilities[entity], np.searchsorted(entity, first))
        owners = np.searchsorted(offsets, first, side="right") - 1
        names = [self.labels[index - 1] for index in chain.label_of(tags[first]).tolist()]
        chosen = np.unique(owners)
        frames = dict(zip(chosen.tolist(), self._frames(rows, chosen.tolist()), strict=True))
        found: list[list[Span]] = [[] for _ in range(len(offsets) - 1)]
        columns = (owners, first - offsets[owners], last - offsets[owners], lowest)
        for owner, begin, end, score, name in zip(*(column.tolist() for column in columns), names, strict=True):
            text, places = frames[owner]
            start, stop = places[begin][0], places[end][1]
            found[owner].append(Span(start, stop, name, text[start:stop], score))
        return [tuple(spans) for spans in found]

    def calibrate(
        self,
        logits: np.ndarray,
        encoded: Encoded,
        gold: Sequence[tuple[Span, ...]],
        *,
        temperature: bool,
        thresholds: str,
        wanted_precision: float,
        facts: Mapping[str, Any] | None = None,
    ) -> Calibration:
        """Fit a temperature to the right tags' probabilities, then the lowest span score that is right often enough.

        The right tags are those of `encoded.targets`, so the rows must have been encoded from a Dataset's table.

        Raises:
            ValueError: there are no targets, or a conditional random field came without its facts.
        """
        if encoded.targets is None:
            raise ValueError("calibrating needs rows that were encoded with their tags")
        if self.options.crf and facts is None:
            raise ValueError("calibrating a conditional random field needs the facts of its head")
        facts = facts or {}
        scores, offsets = _by_unit(logits, encoded)
        if not len(scores):
            return Calibration()
        targets = encoded.targets[_speakers(encoded)[0]]
        fit = self._fit_temperature(scores, targets, offsets, facts) if temperature else 1.0
        below = 0.0
        if wanted_precision:
            right, sure = self._judge(scores, targets, offsets, fit, facts)
            below = calibration_metrics.abstain_threshold(sure, right, wanted_precision) if len(sure) else 0.0
        return Calibration(temperature=fit, abstain_below=below)

    def _fit_temperature(
        self, scores: np.ndarray, targets: np.ndarray, offsets: np.ndarray, facts: Mapping[str, Any]
    ) -> float:
        if "transitions" not in facts:
            return float(calibration_metrics.fit_temperature(scores, targets))
        transitions = np.asarray(facts["transitions"], np.float64)
        end = offsets[min(len(offsets) - 1, _FIT_ROWS)]
        scores, targets, offsets = scores[:end], targets[:end], offsets[: _FIT_ROWS + 1]

        def surprise(log_temperature: float) -> float:
            heat = np.exp(log_temperature)
            shares = chain.marginals(scores / heat, offsets, transitions / heat)
            return float(-np.log(np.maximum(shares[np.arange(len(targets)), targets], 1e-30)).mean())

        return float(np.exp(_lowest(surprise, np.log(0.1), np.log(10.0))))

    def _judge(
        self, scores: np.ndarray, targets: np.ndarray, offsets: np.ndarray, temperature: float, facts: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for each predicted span whether it is right, and its score."""
        tags, probabilities = self._answer(scores, offsets, temperature, facts)
        wanted = set(zip(*(ends.tolist() for ends in chain.segments(targets)), strict=True))
        first, last = chain.segments(tags)
        same = chain.label_of(tags[first]) == chain.label_of(targets[first])
        ends = zip(first.tolist(), last.tolist(), strict=True)
        right = np.array([span in wanted for span in ends], bool) & same
        sure = [probabilities[begin : end + 1].min() for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
        return right, np.array(sure, np.float64)

    def score(
        self, gold: Sequence[tuple[Span, ...]], predictions: Sequence[Prediction], *, intervals: bool = True
    ) -> dict[str, Score]:
        """Return precision, recall and F1 of whole entities."""
        return tag_scores(gold, predictions, self.labels, intervals=intervals)


def _is_table(rows: Any) -> bool:
    return hasattr(rows, "column_names")


def _is_row(row: Any) -> bool:
    return isinstance(row, str) or (isinstance(row, Sequence) and all(isinstance(token, str) for token in row))


def _short(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _by_unit(logits: np.ndarray, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return (U, K) float64 logits, one row a unit, and (N + 1,) where the rows of text begin and end among them."""
    tokens, offsets = _speakers(encoded)
    return logits[tokens].astype(np.float64), offsets


def _speakers(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return (U,) the token that speaks for each unit, and (N + 1,) where rows begin and end among the units.

    A unit that stands in several windows is heard in the one where it is farthest from a cut, since there it sees most
    of the text around it. The start of a row's first window and the end of its last one are no cuts.
    """
    assert encoded.units is not None
    tokens = np.flatnonzero(encoded.units >= 0)
    units = encoded.units[tokens]
    window = np.repeat(np.arange(len(encoded)), encoded.lengths)[tokens]
    rows = encoded.rows[window]
    if len(encoded) > encoded.n_rows:
        far = np.iinfo(np.int64).max
        is_first = np.diff(encoded.rows, prepend=-1) != 0
        is_last = np.diff(encoded.rows, append=encoded.n_rows) != 0
        left = np.where(is_first[window], far, tokens - encoded.offsets[window])
        right = np.where(is_last[window], far, encoded.offsets[window + 1] - 1 - tokens)
        order = np.lexsort((-np.minimum(left, right), units, rows))
        tokens, units, rows = tokens[order], units[order], rows[order]
        fresh = (np.diff(rows, prepend=-1) != 0) | (np.diff(units, prepend=-1) != 0)
        tokens, rows = tokens[fresh], rows[fresh]
    return tokens, _offsets(np.bincount(rows, minlength=encoded.n_rows))


def _lowest(function: Any, low: float, high: float, steps: int = 24) -> float:
    """Return where a function with one valley is lowest (golden section search)."""
    ratio = (np.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [function(inner[0]), function(inner[1])]
    for _ in range(steps):
        if values[0] <= values[1]:
            high, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = high - ratio * (high - low)
            values[0] = function(inner[0])
        else:
            low, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = low + ratio * (high - low)
            values[1] = function(inner[1])
    return float((low + high) / 2)
