"""The project file, one frozen dataclass a section. Every value is explicit: nothing is guessed at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]

CleanStep = Literal["unicode", "control", "width", "html", "whitespace", "case", "simplify", "replace", "noise"]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Room:
    """Marks a setting that names plug-ins: the package whose catalogue they are in."""

    package: str


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plug-in by name, with its options: `{kind: lora, rank: 8}`. Options are checked by the plug-in's own file."""

    __pydantic_config__ = _STRICT

    kind: str
    """Name of the plug-in: the stem of its file."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The plug-in's own settings, written beside `kind` in the project file."""


@dataclass(frozen=True, kw_only=True)
class SplitSection:
    """How rows are divided where the data come in one file."""

    __pydantic_config__ = _STRICT

    by: Literal["stratified", "random", "group", "time"] = "stratified"
    """`stratified` keeps each label's share; `group` keeps rows of one group together; `time` tests on the latest."""
    column: str | None = None
    """The column that holds the group or the time; wanted for `group` and `time` alone."""
    validation: Share = 0.1
    """Share of the training rows that chooses checkpoints, thresholds and temperature; unused where a file is named."""
    test: Share = 0.1
    """Share of all rows set aside for the final scores; unused where a test file is named."""
    near_duplicates_together: bool = True
    """Rows that nearly repeat each other go to the same side, so that the test set is not known by heart."""
    seed: int = 13
    """Start of the random numbers that choose the rows."""


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Where the labelled rows are and how to read them."""

    __pydantic_config__ = _STRICT

    train: str
    """Path of the training rows: csv, tsv, jsonl, json, parquet, xlsx, CoNLL columns, or one folder a class."""
    validation: str | None = None
    """Path of validation rows; without it they are split off the training rows."""
    test: str | None = None
    """Path of test rows; without it they are split off the training rows."""
    text: str = "text"
    """Column that holds the text, or the tokens."""
    label: str = "label"
    """Column that holds the label, the labels, the tags or the spans."""
    separator: str | None = None
    """Multi-label: what stands between the labels of a row where they are written in one string, e.g. `|`."""
    languages: tuple[str, ...] = ()
    """Languages of the text, `en` and `zh` among them; used for slices and reports."""
    clean: tuple[CleanStep, ...] = ("unicode", "control", "whitespace")
    """Cleaning steps in order; they travel in the bundle, so that serving cleans the same way."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """What the cleaning step `replace` replaces -> with what."""
    split: SplitSection = field(default_factory=SplitSection)
    """How rows are divided where validation or test rows have no file of their own."""


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """How the base is fine-tuned."""

    __pydantic_config__ = _STRICT

    adapter: Annotated[Plugin, Room("luban.adapters")] = field(default_factory=lambda: Plugin(kind="full"))
    """How the base is changed: `full` trains all of it."""
    objectives: tuple[Annotated[Plugin, Room("luban.objectives")], ...] = ()
    """What is added to the task's loss, or takes its place: `focal`, `r-drop`, `adversarial`."""
    start: Literal["probe", "random"] = "probe"
    """First weights of the head: those of a linear probe on the frozen base (Kumar et al. 2022), or random ones."""
    epochs: Positive = 3.0
    """Passes over the training rows."""
    learning_rate: Positive = 5e-5
    """Highest learning rate of the base's layers."""
    head_learning_rate: Positive | None = None
    """Highest learning rate of the head; without it that of the base."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each layer's rate is this times the rate of the layer above it; 1 is the same rate everywhere."""
    optimizer: Literal["adamw", "adam", "sgd", "adagrad", "adafactor"] = "adamw"
    """How gradients become changes of the weights."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after warm-up."""
    warmup: Share = 0.1
    """Share of the steps over which the rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled decay of all weights but biases and norms."""
    dropout: Share | None = None
    """Dropout of the base's layers and of the head; without it the base's own."""
    batch_size: Count = 32
    """Rows in an optimiser step, at most."""
    batch_tokens: Count = 8192
    """Padded tokens in one forward pass, at most; a step with more is done in several passes."""
    max_grad_norm: Positive = 1.0
    """Gradients longer than this are shortened to it."""
    freeze: Literal["nothing", "embeddings", "base"] = "embeddings"
    """What is not trained: `embeddings` saves the largest matrix, `base` trains the head alone."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """How many of the lowest layers are not trained."""
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    """Weight of a row by its label: `balanced` is the inverse of the label's share, `sqrt` its square root."""
    label_smoothing: Share = 0.0
    """Share of the target's probability that is spread over all labels."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of an exponential moving average of the weights, which is then what is kept; 0 keeps none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the matrix products; weights and optimiser stay in fp32."""
    evaluate_every: Annotated[float, Field(gt=0.0)] = 1.0
    """Epochs between measurements on the validation rows."""
    choose_by: str = "accuracy"
    """Validation score by which the best checkpoint is kept; `-` before its name: lower is better. A project file that
    does not say gets its task's main score."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Measurements without a better score after which training stops; 0 never stops early."""
    save_every_s: Annotated[float, Field(gt=0.0)] = 60.0
    """Seconds between checkpoints for resuming."""
    seed: int = 13
    """Start of the random numbers: order of rows, dropout, random weights."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the matrix products; 0 uses every core."""
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where the model is trained."""
    trackers: tuple[Annotated[Plugin, Room("luban.train.trackers")], ...] = ()
    """Where steps are logged besides the run's own files: `tensorboard`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """What the report measures."""

    __pydantic_config__ = _STRICT

    calibrate: bool = True
    """Fit a temperature on the validation rows, so that a probability of 0.8 is right 8 times in 10."""
    thresholds: Literal["f1", "half"] = "f1"
    """Multi-label: choose each label's threshold for its F1 on validation rows, or use one half."""
    wanted_precision: Share = 0.0
    """Single label: abstain below the probability from which validation answers are right this often; 0 never."""
    slices: tuple[str, ...] = ()
    """Columns whose values divide the test rows into slices, besides length and language."""
    baselines: tuple[Literal["majority", "tfidf", "probe"], ...] = ("majority", "tfidf", "probe")
    """What the model is compared with."""
    language: Literal["en", "zh"] = "en"
    """Language of the report's headings."""


@dataclass(frozen=True, kw_only=True)
class ExportSection:
    """How the model is written for prediction."""

    __pydantic_config__ = _STRICT

    runtime: Literal["onnx", "onnx-shared", "openvino", "torch"] = "onnx"
    """What executes the bundle. With `onnx-shared` all tasks on one base that a process opens hold it once; the adapter
    is then `lora`, or `train.freeze` is `base`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the matrix products. `bf16`, which only the runtime openvino has, changes logits by a tenth or so:
    set `max_difference` to what you accept."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the matrix products where nothing else is said when a bundle is opened; 0 uses every core."""
    max_difference: Positive = 1e-3
    """Largest difference of a logit from torch's that is accepted."""


@dataclass(frozen=True, kw_only=True)
class CompressSection:
    """What the model may cost, what it may lose, and the plan that keeps both, once `luban compress` has found it."""

    __pydantic_config__ = _STRICT

    at_most: Mapping[Literal["size_mb", "latency_ms"], Positive] = field(default_factory=dict)
    """Budget: `size_mb` is all files of the bundle, in millions of bytes; `latency_ms` is the median time of one answer
    to one row of the usual length, on the machine that compresses."""
    lose_at_most: Share = 0.005
    """How much of the task's main score may be lost against the uncompressed model, on validation rows."""
    minutes: Positive = 60.0
    """Time in which plans are tried, cheap ones first; a plan that was begun is finished."""
    unlabelled: str | None = None
    """Path of texts like those that the model will meet, labels not needed: steps that train learn the uncompressed
    model's answers to them, too. Those that repeat validation or test rows are left out."""
    plan: tuple[Annotated[Plugin, Room("luban.compress.methods")], ...] = ()
    """Steps, in order; empty before a search has chosen them."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A whole project file."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the project and of its run folder."""
    task: Annotated[Plugin, Room("luban.tasks")]
    """What is predicted: `{kind: classify}` or `{kind: tag}`, with the task's options."""
    base: str
    """Pretrained body: a name that `luban bases` lists, a folder, or a hub id, `hf:org/name@revision` or `ms:...`."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Longest window of tokens that the model sees, special tokens included."""
    data: DataSection
    """Where the labelled rows are and how to read them."""
    train: TrainSection = field(default_factory=TrainSection)
    """How the base is fine-tuned."""
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    """What the report measures."""
    export: ExportSection = field(default_factory=ExportSection)
    """How the model is written for prediction."""
    compress: CompressSection = field(default_factory=CompressSection)
    """What the model may cost and lose when it is made smaller."""
    gates: Mapping[str, float] = field(default_factory=dict)
    """Score -> the least value with which a run ends well, e.g. `{accuracy: 0.92}`; of `ece` and `hamming` the most."""
