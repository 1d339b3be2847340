"""What `luban init` writes: from facts about the data and the machine to explicit settings, each with its reason.

One small function a rule, with its numbers in one table above it. A rule looks at facts alone, so that the same data
gives the same file. Where a rule follows a paper, the reason names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ENGLISH_BASE = "minilm-l6"
OTHER_BASE = "e5-small-multilingual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long the texts are, in tokens of the base, special tokens included."""

    p50: int
    p95: int
    p99: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSize:
    """What advice needs to know of a base."""

    width: int
    """Size of a hidden state."""
    n_layers: int
    window_tokens: int
    """Longest window, special tokens included."""
    embedding_share: float = 0.0
    """Share of the parameters that the token embeddings are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen in the data and measured on the machine; shares lie between 0 and 1."""

    task: str
    """`classify` or `tag`."""
    train: str
    """Path of the training rows, from the folder of the project file."""
    n_rows: int
    """Rows of the training file that hold a text and a label."""
    n_labels: int
    """Different labels, or kinds of entity."""
    text: str
    """Column of the text."""
    label: str
    """Column of the label."""
    text_why: str = ""
    """Why that column was taken, e.g. `longest texts`."""
    label_why: str = ""
    rows_per_label: tuple[int, int, int] = (0, 0, 0)
    """Rows of the rarest label, of the middle one, of the commonest one."""
    multi_label: bool = False
    separator: str | None = None
    validation: str | None = None
    """Path of validation rows, if they have a file."""
    test: str | None = None
    """Path of test rows, if they have a file."""
    group_column: str | None = None
    """Column whose equal values belong together, such as a customer or a conversation."""
    time_column: str | None = None
    languages: Mapping[str, float] = field(default_factory=dict)
    """Language -> share of the rows."""
    html_share: float = 0.0
    """Share of the rows with HTML tags or entities."""
    full_width_share: float = 0.0
    """Share of the rows with full-width letters, digits or punctuation other than Chinese punctuation."""
    traditional_share: float = 0.0
    """Share of the Chinese rows that are written in traditional characters."""
    single_character_share: float = 0.0
    """Share of the tokens of tagging data that are one character."""
    bases: Sequence[str] = ()
    """Bases that can be had here; empty where nobody looked."""
    base: str | None = None
    """A base that the user chose."""
    size: BaseSize | None = None
    """Of the base chosen; without it that of a small one is taken."""
    lengths: Lengths | None = None
    """Measured with the base's own tokeniser; without it the window is a usual one."""
    probe: float | None = None
    """Validation accuracy of a linear probe on the frozen base, if one was trained."""
    suspect_share: float = 0.0
    """Share of a sample's rows whose label looks wrong to that probe."""
    bf16_speedup: float | None = None
    """Rate of a training step in bf16 as a multiple of fp32's, if it was measured."""

    @property
    def imbalance(self) -> float:
        """Rows of the commonest label for each row of the rarest."""
        rarest, _, commonest = self.rows_per_label
        return commonest / max(rarest, 1)

    @property
    def chinese(self) -> float:
        """Share of the rows in Chinese."""
        return self.languages.get("zh", 0.0)


@dataclass(frozen=True, slots=True)
class Advice:
    """One setting, its value, and why."""

    path: str
    """Where it stands in the project file, e.g. `train.learning_rate`."""
    value: Any
    reason: str


def advise(facts: Facts) -> list[Advice]:
    """Return the settings that the facts decide; all others keep the schema's defaults."""
    return [advice for rule in _RULES for advice in rule(facts)]


def base_for(languages: Mapping[str, float], bases: Sequence[str] = ()) -> tuple[str, str]:
    """Return the base to begin with and the reason.

    Args:
        languages: language -> share of the rows.
        bases: the bases that can be had; empty where that is not known.
    """
    english = languages.get("en", 0.0)
    if english >= _MOSTLY_ENGLISH:
        wanted, reason = ENGLISH_BASE, f"{_percent(english)} of the rows are English: the fastest base for it"
    else:
        there = [f"{_percent(share)} {language}" for language, share in sorted(languages.items(), key=lambda x: -x[1])]
        reason = f"the rows are {', '.join(there[:3])}: a multilingual base" if there else "reads about 100 languages"
        wanted = OTHER_BASE
    if bases and wanted not in bases:
        return bases[0], f"{wanted} would fit ({reason}), but can't be had here"
    return wanted, reason


def _percent(share: float) -> str:
    if share >= 1:
        return "all"
    return f"{math.floor(share * 100)}%" if share >= 0.1 else f"{math.floor(share * 1000) / 10:g}%"


def _data(facts: Facts) -> Iterator[Advice]:
    yield Advice("data.train", facts.train, f"{facts.n_rows:,} rows with {facts.n_labels:,} labels")
    if facts.validation:
        yield Advice("data.validation", facts.validation, "rows to choose checkpoints and thresholds by")
    if facts.test:
        yield Advice("data.test", facts.test, "rows for the final scores alone")
    yield Advice("data.text", facts.text, facts.text_why or "the text's column")
    yield Advice("data.label", facts.label, facts.label_why or "the label's column")
    if facts.separator is not None:
        yield Advice("data.separator", facts.separator, "stands between the labels of a row")
    if facts.languages:
        kept = {language: share for language, share in facts.languages.items() if share >= _SPOKEN}
        ordered = sorted(kept, key=lambda language: (-kept[language], language))
        shares = ", ".join(f"{language} {_percent(kept[language])}" for language in ordered)
        yield Advice("data.languages", ordered, shares or "no language has a share worth a slice")


_MOSTLY_ENGLISH = 0.98
_SPOKEN = 0.02


def _base(facts: Facts) -> Iterator[Advice]:
    name, reason = (facts.base, "as you chose") if facts.base else base_for(facts.languages, facts.bases)
    yield Advice("base", name, reason)


_USUAL_WINDOW = 128
_WINDOW_STEP = 16
_SHORTEST_WINDOW = 32


def _window(facts: Facts) -> Iterator[Advice]:
    lengths, limit = facts.lengths, facts.size.window_tokens if facts.size else 512
    if lengths is None:
        yield Advice("max_length", min(_USUAL_WINDOW, limit), "lengths were not measured: a usual window")
        return
    rounded = max(_SHORTEST_WINDOW, math.ceil(lengths.p99 / _WINDOW_STEP) * _WINDOW_STEP)
    seen = f"half the texts have {lengths.p50} tokens, 99% at most {lengths.p99}, the longest {lengths.longest}"
    cut = f"; the base reads {limit}" if rounded > limit else ""
    yield Advice("max_length", min(rounded, limit), seen + cut)


def _task(facts: Facts) -> Iterator[Advice]:
    if facts.task == "tag":
        yield Advice("task.kind", "tag", f"the column {facts.label} marks stretches of text")
        yield from _units(facts)
        yield from _steps_between_tags(facts)
        return
    yield Advice("task.kind", "classify", f"the column {facts.label} holds {facts.n_labels:,} different labels")
    several = "rows have several labels" if facts.multi_label else "each row has one label"
    yield Advice("task.multi_label", facts.multi_label, several)
    yield from _long_text(facts)


_BY_CHARACTER = 0.999


def _units(facts: Facts) -> Iterator[Advice]:
    if facts.single_character_share >= _BY_CHARACTER:
        all_of_them = "all" if facts.single_character_share == 1 else "nearly all"
        why = f"{all_of_them} tokens are single characters, letters and digits too: new texts are cut the same way"
        yield Advice("task.units", "characters", why)
    else:
        yield Advice("task.units", "words", "words, and single Chinese characters, get a tag each")


_CRF_UP_TO_ROWS = 20_000


def _steps_between_tags(facts: Facts) -> Iterator[Advice]:
    if facts.n_rows <= _CRF_UP_TO_ROWS:
        yield Advice("task.crf", True, "not many rows: learning which tag follows which helps (Lample et al. 2016)")
    else:
        yield Advice("task.crf", False, "rows enough for the base to learn by itself which tag follows which")


def _long_text(facts: Facts) -> Iterator[Advice]:
    lengths, limit = facts.lengths, facts.size.window_tokens if facts.size else 512
    if lengths is None or lengths.p99 <= limit:
        yield Advice("task.long_text", "truncate", "hardly any text is longer than the window")
    elif lengths.p95 <= 2 * limit:
        why = "some are longer: a text's head and tail tell most (Sun et al. 2019)"
        yield Advice("task.long_text", "head_tail", why)
    else:
        yield Advice("task.long_text", "chunk", "many are far longer: every part is read, and the answers averaged")
        yield Advice("task.stride", limit // 8, "an eighth of the window, so that no sentence is cut in both")


_HTML, _FULL_WIDTH, _TRADITIONAL = 0.005, 0.01, (0.02, 0.6)


def _cleaning(facts: Facts) -> Iterator[Advice]:
    low, high = _TRADITIONAL
    mixed = facts.chinese > 0 and low <= facts.traditional_share <= high
    wanted = {
        "unicode": "",
        "control": "",
        "html": f"HTML in {_percent(facts.html_share)}" if facts.html_share >= _HTML else None,
        "width": f"full-width in {_percent(facts.full_width_share)}" if facts.full_width_share >= _FULL_WIDTH else None,
        "simplify": f"traditional in {_percent(facts.traditional_share)}" if mixed else None,
        "whitespace": "",
    }
    seen = [why for why in wanted.values() if why]
    reason = f"seen: {', '.join(seen)}" if seen else "mends what no reader would see"
    yield Advice("data.clean", [step for step, why in wanted.items() if why is not None], reason)


_VALIDATION_ROWS, _TEST_ROWS = 500, 2_000
_SHARES = (0.05, 0.1, 0.15, 0.2)
_MIN_ROWS_TO_STRATIFY = 4


def _share(rows: int, of: int) -> float:
    """Return the least of the usual shares that gives so many rows, or the largest."""
    return next((share for share in _SHARES if share * of >= rows), _SHARES[-1])


def _validation_share(facts: Facts) -> float:
    return 0.0 if facts.validation else _share(_VALIDATION_ROWS, facts.n_rows)


def _test_share(facts: Facts) -> float:
    return 0.0 if facts.test else _share(_TEST_ROWS, facts.n_rows)


def _split_off(facts: Facts) -> tuple[int, int]:
    """Return the rows that validation and test take; validation has a share of what test leaves."""
    test = round(_test_share(facts) * facts.n_rows)
    return round(_validation_share(facts) * (facts.n_rows - test)), test


def _split(facts: Facts) -> Iterator[Advice]:
    if facts.group_column:
        yield Advice("data.split.by", "group", f"rows of one {facts.group_column} would give each other away")
        yield Advice("data.split.column", facts.group_column, "equal values stay on one side")
    elif facts.time_column:
        yield Advice("data.split.by", "time", "rows have times: testing on the latest is how it will be used")
        yield Advice("data.split.column", facts.time_column, "the time of each row")
    elif facts.task == "tag":
        yield Advice("data.split.by", "random", "rows hold several entities each")
    elif facts.rows_per_label[0] >= _MIN_ROWS_TO_STRATIFY and not facts.multi_label:
        yield Advice("data.split.by", "stratified", "every label keeps its share")
    else:
        yield Advice("data.split.by", "random", "labels are too rare or too mixed to keep their shares")
    share = _validation_share(facts)
    if facts.validation:
        yield Advice("data.split.validation", share, "validation rows have a file")
    else:
        yield Advice("data.split.validation", share, f"about {_split_off(facts)[0]:,} rows to choose by")
    share = _test_share(facts)
    if facts.test:
        yield Advice("data.split.test", share, "test rows have a file")
    else:
        why = f"about {share * facts.n_rows:,.0f} rows: an accuracy of 0.9 is then known to {_margin(share, facts)}"
        yield Advice("data.split.test", share, why)


def _margin(share: float, facts: Facts) -> str:
    return f"+-{1.96 * math.sqrt(0.09 / max(share * facts.n_rows, 1)):.3f}"


_EPOCHS = ((500, 20), (1_000, 15), (2_500, 10), (5_000, 6), (100_000, 3), (500_000, 2))
"""Up to so many rows -> epochs: small data need more passes to be learned stably (Mosbach et al. 2021).

From a probe's head, few passes are enough: on the validation rows of one intent set of 10,000 rows, 3 epochs gave
0.929 and 0.937 by two seeds, 5 epochs 0.925.
"""
_EPOCHS_BEYOND = 1
_PATIENT_FROM, _PATIENCE = 8, 3


def _epochs(facts: Facts) -> Iterator[Advice]:
    epochs = next((epochs for rows, epochs in _EPOCHS if facts.n_rows <= rows), _EPOCHS_BEYOND)
    left = facts.n_rows - sum(_split_off(facts))
    steps = math.ceil(left / _rows_a_step(facts)) * epochs
    source = " (Mosbach et al. 2021: few rows need more passes)" if epochs > 5 else ""
    yield Advice("train.epochs", float(epochs), f"about {steps:,} steps{source}")
    if epochs >= _PATIENT_FROM:
        yield Advice("train.patience", _PATIENCE, f"{epochs} epochs may be more than needed")


_BATCH = ((1_000, 16), (100_000, 32))
_BATCH_BEYOND = 64


def _rows_a_step(facts: Facts) -> int:
    return next((size for rows, size in _BATCH if facts.n_rows <= rows), _BATCH_BEYOND)


def _batch(facts: Facts) -> Iterator[Advice]:
    size = _rows_a_step(facts)
    why = {16: "few rows: smaller steps, more of them", 32: "the usual size", 64: "many rows: steadier steps"}[size]
    yield Advice("train.batch_size", size, why)


_RATES = ((384, 1e-4), (768, 5e-5))
_RATE_BEYOND = 2e-5
_HEAD_RATE_TAG = 1e-3


def _rates(facts: Facts) -> Iterator[Advice]:
    width = facts.size.width if facts.size else 384
    rate = next((rate for most, rate in _RATES if width <= most), _RATE_BEYOND)
    size = f"{width} wide, {facts.size.n_layers} layers" if facts.size else "a small base"
    yield Advice("train.learning_rate", rate, f"{size}: small bases bear higher rates than BERT's 2e-5 to 5e-5")
    if facts.task == "tag":
        why = "the head is small and can learn faster"
        yield Advice("train.head_learning_rate", _HEAD_RATE_TAG, why)


def _start(facts: Facts) -> Iterator[Advice]:
    found = f"linear probe reached {facts.probe:.3f}; " if facts.probe is not None else ""
    yield Advice("train.start", "probe", f"{found}tuning from a probe keeps what the base knows (Kumar et al. 2022)")


_SMOOTH_FROM_LABELS, _SMOOTHING = 20, 0.05


def _smoothing(facts: Facts) -> Iterator[Advice]:
    if facts.task == "classify" and not facts.multi_label and facts.n_labels >= _SMOOTH_FROM_LABELS:
        why = f"{facts.n_labels} labels, some alike: less certainty learned, better calibrated (Müller et al. 2019)"
        yield Advice("train.label_smoothing", _SMOOTHING, why)


_NOISY_FROM = 0.35


def _noise(facts: Facts) -> Iterator[Advice]:
    """Where a third of the labels is doubted, rows that a model can't believe must not be learned by heart.

    On one intent set of 10,000 rows with half of them doubted (118 labels, validation rows of it), a probe reached
    0.474, cross entropy fell from there to 0.43, and this objective rose to 0.506. Where a probe doubts a third, as on
    headlines of 15 kinds, the task may as well be hard.
    """
    if facts.task == "classify" and not facts.multi_label and facts.suspect_share >= _NOISY_FROM:
        why = f"{_percent(facts.suspect_share)} of a sample look wrongly labelled: less is learned from such rows"
        source = "(Zhang and Sabuncu 2018); see `luban check`"
        yield Advice("train.objectives", [{"kind": "noisy-labels"}], f"{why} {source}")


_IMBALANCED, _WEIGHTED = 10.0, 20.0


def _imbalance(facts: Facts) -> Iterator[Advice]:
    rarest, _, commonest = facts.rows_per_label
    seen = f"{commonest:,} rows of the commonest label, {rarest:,} of the rarest"
    if facts.task == "tag":
        yield Advice("train.choose_by", "f1", "entities right in edges and label")
        return
    if facts.imbalance >= _WEIGHTED and not facts.multi_label:
        yield Advice("train.class_weights", "sqrt", f"{seen}: rare labels count more, but are not learned by heart")
    if facts.imbalance >= _IMBALANCED:
        yield Advice("train.choose_by", "macro_f1", f"{seen}: every label counts the same")
    elif facts.multi_label:
        yield Advice("train.choose_by", "micro_f1", "every label given or missed counts the same")
    else:
        yield Advice("train.choose_by", "accuracy", f"labels are balanced enough: {seen}")


_EMBEDDINGS_ARE_MOST = 0.3
_TRAIN_EMBEDDINGS_FROM_ROWS = 200_000
"""On validation rows of one intent set of 10,000 rows, trained token vectors gave 0.2 points more by each of two seeds,
which is within chance, for a third more time."""


def _freeze(facts: Facts) -> Iterator[Advice]:
    share = facts.size.embedding_share if facts.size else 0.0
    if facts.n_rows >= _TRAIN_EMBEDDINGS_FROM_ROWS and share < _EMBEDDINGS_ARE_MOST:
        yield Advice("train.freeze", "nothing", "rows enough to teach the base new words")
        return
    held = f"{_percent(share)} of the weights, and" if share else "they"
    yield Advice("train.freeze", "embeddings", f"{held} change little: faster, and as good")


_WORTH_BF16 = 1.15


def _precision(facts: Facts) -> Iterator[Advice]:
    if facts.bf16_speedup is None:
        yield Advice("train.precision", "fp32", "bf16 was not measured here")
    elif facts.bf16_speedup >= _WORTH_BF16:
        yield Advice("train.precision", "bf16", f"measured here: {facts.bf16_speedup:.2f} times the rate of fp32")
    else:
        yield Advice("train.precision", "fp32", f"measured here: bf16 gives {facts.bf16_speedup:.2f} times its rate")


def _report(facts: Facts) -> Iterator[Advice]:
    if facts.chinese > 0.5:
        yield Advice("evaluate.language", "zh", "most rows are Chinese")


_RULES = (
    _task, _base, _window, _data, _cleaning, _split, _start, _epochs, _rates, _batch, _smoothing, _noise, _imbalance,
    _freeze, _precision, _report,
)  # fmt: skip
