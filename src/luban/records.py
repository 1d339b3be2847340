"""The frozen dataclasses that cross from one room to another. No torch here, and nothing heavy at import."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text at an edge of the system; in between, rows stay in Arrow."""

    text: str
    labels: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled stretch of a text."""

    start: int
    """First character, counted from 0 in code points of the text as it was given."""
    end: int
    """One past the last character."""
    label: str
    text: str = ""
    score: float = 1.0
    """Probability of the label, the lowest over the span's units."""


@dataclass(frozen=True)
class Dataset:
    """Labelled rows, as an Arrow table that may be larger than memory.

    Columns always there: `row` (int64, the row or line in the source, counted from 1) and `text` (string).
    For classify: `labels` (list<string>, one in single-label; null where the row has none).
    For tag: `tokens` (list<string>) and `tags` (list<string>, BIO). `text` is then the tokens joined.
    All other columns of the source keep their names, behind `meta.` (they serve slices, groups and times).
    """

    table: pa.Table
    source: str
    """Where the rows came from, for messages."""
    digest: str
    """SHA-256 over the contents of the columns."""

    def __len__(self) -> int:
        return int(self.table.num_rows)


@dataclass(frozen=True, slots=True)
class Score:
    """A measured quality with its uncertainty."""

    value: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""
    n: int
    """How many rows (or entities, or whatever is counted) it was measured on."""

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def to_json(self) -> dict[str, float | int]:
        """Return the form in which a score stands in report.json and metrics.json."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class LabelScores(Mapping[str, float]):
    """Label -> probability for one row: a view of one row of an array, so that a million of them cost little."""

    __slots__ = ("labels", "row")

    def __init__(self, labels: Sequence[str], row: np.ndarray) -> None:
        self.labels = labels
        """The labels, shared by all rows that one model answered."""
        self.row = row
        """The probabilities, (labels,), in the order of the labels."""

    def __getitem__(self, label: str) -> float:
        try:
            return float(self.row[self.labels.index(label)])
        except ValueError:
            raise KeyError(label) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def items(self) -> ItemsView[str, float]:
        """Return label and probability, all at once: to look each label up would take their square."""
        return dict(zip(self.labels, self.row.tolist(), strict=True)).items()

    def values(self) -> ValuesView[float]:
        """Return the probabilities, all at once."""
        return dict(self.items()).values()

    def __repr__(self) -> str:
        best = sorted(self.items(), key=lambda item: -item[1])[:3]
        shown = ", ".join(f"{label!r}: {score:.3f}" for label, score in best)
        return f"{{{shown}{', ...' if len(self) > 3 else ''}}}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the engine answers for one text."""

    labels: tuple[str, ...] = ()
    """classify: the labels chosen, best first. Empty where none passed its threshold: the engine abstains."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """classify: the calibrated probability of every label."""
    spans: tuple[Span, ...] = ()
    """tag: the entities, in the order of the text."""

    @property
    def label(self) -> str | None:
        """The best label, or None where the engine abstains."""
        return self.labels[0] if self.labels else None

    @property
    def score(self) -> float:
        """The probability of the best label, chosen or not; 0.0 where there are no labels."""
        if isinstance(self.scores, LabelScores):
            return float(self.scores.row.max(initial=0.0))
        return max(self.scores.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a text, and how much it moved an answer."""

    start: int
    """First character, counted from 0 in code points of the text as it was given."""
    end: int
    """One past the last character."""
    text: str
    weight: float
    """Log-odds (nats) that it adds to the answer, less than 0 where it speaks against: 0.7 doubles the odds."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What one label, or one entity, was given for."""

    label: str
    score: float
    """Probability of the label; of an entity, as `Span.score`."""
    log_odds: float
    """Natural logarithm of the odds of the label in the whole text; of an entity, the mean over its units."""
    rest: float | None
    """The same of a text of which nothing is left; with the weights it makes `log_odds`. None for an entity."""
    parts: tuple[Part, ...]
    """In the order of the text: words, or where the text is long also stretches of them, none over another."""
    span: Span | None = None
    """The entity, whose own words are always there."""

    @property
    def strongest(self) -> tuple[Part, ...]:
        """The parts, those first that moved the answer most, for or against."""
        return tuple(sorted(self.parts, key=lambda part: -abs(part.weight)))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a model gave its answer to a text."""

    text: str
    method: str
    """`shapley`: the weights share the whole of the answer; `left-out`: each is what changes without its part alone."""
    n_rows: int
    """Texts that were answered for it."""
    reasons: tuple[Reason, ...]
    """One a label that was given or asked for, the likeliest first; one an entity, in the order of the text."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How logits become answers, chosen on validation rows and never on test rows."""

    temperature: float = 1.0
    """Logits are divided by this before the softmax or sigmoid (Guo et al. 2017)."""
    thresholds: tuple[float, ...] = ()
    """Multi-label: the probability from which each label is given, in the order of the labels."""
    abstain_below: float = 0.0
    """Single label: a best probability below this is answered with no label."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows: windows of token ids one after another, with no padding.

    Legend: T tokens of all windows, W windows, N rows. A row that fits the base's window is one window.
    """

    ids: np.ndarray
    """(T,) int32 token ids, special tokens included."""
    offsets: np.ndarray
    """(W + 1,) int64: window w is ids[offsets[w]:offsets[w + 1]]."""
    rows: np.ndarray
    """(W,) int64: the row that a window was cut from, never decreasing."""
    n_rows: int
    units: np.ndarray | None = None
    """tag: (T,) int32, the index within its row of the unit whose first token stands here; -1 elsewhere.

    None for classify: with units, `targets` are by token, without them by window.
    """
    targets: np.ndarray | None = None
    """classify: (W,) int64, or (W, labels) float32 for multi-label. tag: (T,) int64, -100 where nothing is asked."""

    @property
    def lengths(self) -> np.ndarray:
        """(W,) tokens in each window."""
        lengths: np.ndarray = self.offsets[1:] - self.offsets[:-1]
        return lengths

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step, as the training loop yields it."""

    step: int
    """Optimiser steps done, counted from 1."""
    n_steps: int
    """Optimiser steps planned."""
    epoch: float
    """Passes over the training rows done, with the fraction of the one under way."""
    loss: float
    """Mean loss over the step's rows (or tokens)."""
    learning_rate: float
    grad_norm: float
    examples_per_s: float
    tokens_per_s: float
    left_s: float
    """Estimated seconds to the end."""
    scores: Mapping[str, float] | None = None
    """Validation scores, on steps where they were measured."""
    is_best: bool = False
    """The scores are the best so far, and the checkpoint was kept."""
    note: str = ""
    """Something a person should know: a loss that was not finite, an early stop."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something long has come, for a terminal, a log or a pipe."""

    stage: str
    message: str = ""
    done: int = 0
    total: int = 0
    """0 where it is not known."""
    unit: str = "rows"
    rate: float = 0.0
    """Units a second."""
    left_s: float | None = None
    step: Step | None = None
    """The training step that this tells of, if any."""


Listener = Callable[[Progress], None]
"""What is told how far something long has come."""


def ignore(progress: Progress) -> None:
    """Take no notice of progress."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of torch weights: `model.safetensors`, JSON beside it, and a manifest."""

    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """A sealed folder that predicts."""

    folder: Path
    digest: str
    name: str
    task: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `luban check` or `luban doctor` looked at."""

    what: str
    """The check's name, e.g. `near duplicates`."""
    verdict: str
    """PASS, WARN or FAIL."""
    message: str
    """What was found, with counts."""
    mend: str = ""
    examples: tuple[str, ...] = ()
    """A few rows that show it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The measured numbers, for JSON."""


@dataclass(frozen=True)
class Report:
    """Everything an evaluation found, ready to be rendered as HTML, Markdown or JSON."""

    name: str
    task: str
    scores: Mapping[str, Score]
    """The headline scores on the test rows."""
    baselines: Mapping[str, Mapping[str, Score]]
    """Baseline name -> the same scores."""
    per_label: Mapping[str, Mapping[str, Score]]
    """Label -> precision, recall, f1."""
    digests: Mapping[str, str]
    """`data`, `project`, and `graph`: what was measured with what."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Confusion, reliability, slices, errors, calibration, lengths, costs: JSON values, one key a section."""
