"""What goes in and out of the native REST surface: the types that bodies are read into and written from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from luban.bundle.explain import ROWS
from luban.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from luban.records import Prediction, Reason, Span
    from luban.serve import hosting
    from luban.serve.hosting import Answer, Model
    from luban.tasks import Task

DECIMALS = 6
Row = str | list[str]


class Ask(Struct, forbid_unknown_fields=True, kw_only=True):
    """Texts to answer: one of `text` and `texts`."""

    text: Row | UnsetType = UNSET
    """One text; for tagging, its tokens will do."""
    texts: list[Row] | UnsetType = UNSET
    """Several texts."""
    scores: bool = False
    """Give the probability of every label."""
    ids: bool = False
    """Give each answer an id, by which feedback names it."""

    def rows(self, most: int) -> list[Row]:
        """Return the texts.

        Raises:
            BadRequest: there are none, or both fields are given.
            TooLarge: there are more than `most`.
        """
        if (self.text is UNSET) == (self.texts is UNSET):
            raise BadRequest("the body: wanted one of `text` and `texts`", hint='{"texts": ["...", "..."]}')
        if isinstance(self.texts, UnsetType):
            assert not isinstance(self.text, UnsetType)
            return [self.text]
        if not self.texts:
            raise BadRequest("texts: got none, wanted one at least", hint='{"texts": ["...", "..."]}')
        if len(self.texts) > most:
            raise TooLarge(
                f"texts: got {len(self.texts)}, wanted {most} at most", hint="send more requests, or a stream to /batch"
            )
        return self.texts


class Entity(Struct):
    """A labelled stretch of a text."""

    start: int
    """First character, counted from 0 in code points."""
    end: int
    """One past the last character."""
    label: str
    text: str
    score: float
    """Probability of the label, the lowest over the span's units."""


class OfText(Struct, kw_only=True):
    """What is answered to a text; which fields it has is the task's matter."""

    label: str | UnsetType | None = UNSET
    """The label; null where none is probable enough."""
    labels: list[str] | UnsetType = UNSET
    """The labels, where a text may have several."""
    spans: list[Entity] | UnsetType = UNSET
    """The entities, in the order of the text."""
    score: float | UnsetType = UNSET
    """Probability of the best label, given or not."""
    scores: dict[str, float] | UnsetType = UNSET
    """Probability of every label, where it was asked for."""


class One(OfText, kw_only=True):
    """The answer to one text; which fields it has is the task's matter."""

    id: str | UnsetType = UNSET
    """By which feedback names this answer, where it was asked for."""


class Predicted(Struct, kw_only=True):
    """Answers, all of one version."""

    model: str
    version: int | None
    """Number of the version in the registry; null for a folder."""
    digest: str
    """SHA-256 of the bundle."""
    predictions: list[One]
    """One a text, in their order."""


class Line(Struct, forbid_unknown_fields=True, kw_only=True):
    """One line of a stream."""

    text: Row
    id: str | int | UnsetType = UNSET
    """Comes back with the answer."""


class AskWhy(Struct, forbid_unknown_fields=True, kw_only=True):
    """A text whose answer is to be explained."""

    text: str
    label: str | UnsetType = UNSET
    """Explain this label, given or not; else every label, or entity, that the text gets."""
    rows: int = ROWS
    """Shortened texts that are answered for it, at most: the more, the finer, and the longer it takes."""


class PartOfText(Struct):
    """A stretch of a text, and how much it moved an answer."""

    start: int
    """First character, counted from 0 in code points."""
    end: int
    """One past the last character."""
    text: str
    weight: float
    """Log-odds (nats) that it adds to the answer, less than 0 where it speaks against: 0.7 doubles the odds."""


class Why(Struct, kw_only=True):
    """What one label, or one entity, was given for."""

    label: str
    score: float
    """Probability of the label, or of the entity."""
    log_odds: float
    """Natural logarithm of the odds of the label in the whole text; of an entity, the mean over its units."""
    rest: float | None
    """The same of a text of which nothing is left; with the weights it makes `log_odds`. Null for an entity."""
    span: Entity | UnsetType = UNSET
    """The entity."""
    parts: list[PartOfText]
    """In the order of the text."""


class Explained(Struct, kw_only=True):
    """Why a text got its answer."""

    model: str
    version: int | None
    """Number of the version in the registry; null for a folder."""
    digest: str
    """SHA-256 of the bundle."""
    method: str
    """`shapley`: the weights share the whole of the answer; `left-out`: each is what changes without its part alone."""
    rows: int
    """Texts that were answered for it."""
    reasons: list[Why]
    """One a label that was given or asked for, the likeliest first; one an entity, in the order of the text."""


class Problem(Struct, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    """Kind of error."""
    status: int
    detail: str
    """What was found, and what was wanted."""
    hint: str | UnsetType = UNSET
    """How to mend it."""


class Streamed(OfText, kw_only=True):
    """The answer to one line of a stream: what the text's is, or an error."""

    index: int
    """Which line, counted from 0; blank ones do not count."""
    id: str | int | UnsetType = UNSET
    """As it came in."""
    version: int | UnsetType | None = UNSET
    """Number of the version that answered; null for a folder."""
    answer_id: str | UnsetType = UNSET
    """By it feedback names the answer, where ids were asked for."""
    error: Problem | UnsetType = UNSET
    """Why this line has no answer."""


class VersionStatus(Struct, kw_only=True):
    """How a version is, in the words of TensorFlow Serving."""

    version: str
    state: str
    """`AVAILABLE`, `START` where the first request opens it, or `END` where it could not be opened."""
    status: dict[str, str]


class About(Struct, kw_only=True):
    """A model that is served."""

    name: str
    version: int | None
    """Number of the version that answers; null for a folder, or where none is open."""
    digest: str
    """Of the version that answers; empty where none is open."""
    open: bool
    """It is in memory; else the first request opens it."""
    problem: str
    """Why its newest version does not answer; empty where all is well."""
    task: str | UnsetType = UNSET
    labels: list[str] | UnsetType = UNSET
    model_version_status: list[VersionStatus] | UnsetType = UNSET
    """The same as clients of TensorFlow Serving look for it."""


class ListedModel(Struct, kw_only=True):
    """A model as clients of OpenAI's surface list it."""

    id: str
    object: str = "model"
    created: int = 0
    """Not told."""
    owned_by: str = "luban"


class Models(Struct):
    """The models that the caller may use."""

    models: list[About]
    object: str = "list"
    data: list[ListedModel] = []
    """The same names as clients of OpenAI's surface look for them."""


class Index(Struct, kw_only=True):
    """Where everything is on this server."""

    server: str = "luban"
    version: str
    """Of Luban."""
    models: str = "/v1/models"
    docs: str = "/docs"
    """Every route, for reading."""
    openapi: str = "/openapi.json"
    ready: str = "/readyz"


class Health(Struct):
    """How the server is."""

    status: str


def one(prediction: Prediction, task: Task, *, scores: bool) -> One:
    """Return the answer to one text as it goes out."""
    if task.per_token:
        return One(spans=[_entity(span) for span in prediction.spans])
    score = round(prediction.score, DECIMALS)
    each: Any = {label: round(value, DECIMALS) for label, value in prediction.scores.items()} if scores else UNSET
    if getattr(task, "multi_label", False):
        return One(labels=list(prediction.labels), score=score, scores=each)
    return One(label=prediction.label, score=score, scores=each)


def predicted(answer: Answer, *, scores: bool, ids: Sequence[str] = ()) -> Predicted:
    """Return the answers to a request as they go out."""
    served, task = answer.served, answer.served.engine.task
    found = Predicted(
        model=served.name, version=served.number, digest=served.digest,
        predictions=[one(prediction, task, scores=scores) for prediction in answer.predictions],
    )  # fmt: skip
    for said, id in zip(found.predictions, ids, strict=False):
        said.id = id
    return found


def explained(found: hosting.Explained) -> Explained:
    """Return an explanation as it goes out."""
    served, told = found.served, found.explanation
    return Explained(
        model=served.name, version=served.number, digest=served.digest, method=told.method, rows=told.n_rows,
        reasons=[_why(reason) for reason in told.reasons],
    )  # fmt: skip


def _why(reason: Reason) -> Why:
    return Why(
        label=reason.label, score=round(reason.score, DECIMALS), log_odds=round(reason.log_odds, DECIMALS),
        rest=None if reason.rest is None else round(reason.rest, DECIMALS),
        span=UNSET if reason.span is None else _entity(reason.span),
        parts=[PartOfText(part.start, part.end, part.text, round(part.weight, DECIMALS)) for part in reason.parts],
    )  # fmt: skip


def _entity(span: Span) -> Entity:
    return Entity(span.start, span.end, span.label, span.text, round(span.score, DECIMALS))


def version_status(model: Model) -> list[VersionStatus]:
    """Return how a model's version is; 1 stands for a folder, which has no number."""
    served = model.served
    state = "AVAILABLE" if served is not None else "END" if model.problem else "START"
    code = "UNAVAILABLE" if state == "END" else "OK"
    told = str((served.number if served is not None else None) or 1)
    return [VersionStatus(version=told, state=state, status={"error_code": code, "error_message": model.problem})]


def about(model: Model, *, whole: bool = False) -> About:
    """Return what is told of a model; the whole of it has task and labels."""
    served = model.served
    found = About(
        name=model.name, version=served.number if served else None, digest=served.digest if served else "",
        open=served is not None, problem=model.problem,
    )  # fmt: skip
    if whole:
        found.model_version_status = version_status(model)
    if whole and served is not None:
        found.task, found.labels = served.engine.task.kind, list(served.engine.labels)
    return found


encode = msgspec.json.Encoder().encode
ASK: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)
ASK_WHY: msgspec.json.Decoder[AskWhy] = msgspec.json.Decoder(AskWhy)
AnyLine = str | Line
"""A line of a stream: its text, or an object with it."""
LINE: msgspec.json.Decoder[str | Line] = msgspec.json.Decoder(AnyLine)
TYPES: Sequence[Any] = (
    Index,
    ListedModel,
    Ask,
    Line,
    Predicted,
    One,
    Entity,
    AskWhy,
    Explained,
    Why,
    PartOfText,
    Models,
    About,
    Health,
    Problem,
)
