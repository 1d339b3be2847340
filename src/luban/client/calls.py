"""What a client says and understands, without any input or output: what both clients are made of.

A call is a generator. It yields what is to be done, a request to send or a time to wait, and is sent what came of it;
what it returns is the call's result. All of retrying, of deadlines and of errors is here, once.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from luban import errors
from luban.records import Explanation, Part, Prediction, Reason, Span

ROWS = 32
"""Rows of a request: what a server takes at once."""
AHEAD = 2
"""Requests of many rows that are on their way at once, so that the server never waits for the next."""
KEY = "LUBAN_KEY"
_AGAIN = frozenset({429, 503})
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0
Row = str | Sequence[str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Sequence[Prediction]):
    """The answers to one request, all of one version."""

    model: str
    version: int | None
    """Number of the version in the registry; None for a folder."""
    digest: str
    """SHA-256 of the bundle."""
    predictions: tuple[Prediction, ...]
    """One a row, in their order."""
    ids: tuple[str, ...] = ()
    """One a row, where they were asked for: by these `feedback` names the answers."""

    def __getitem__(self, place: Any) -> Any:
        return self.predictions[place]

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True, slots=True)
class Explained:
    """Why one version gives its answer to a text."""

    model: str
    version: int | None
    """Number of the version in the registry; None for a folder."""
    digest: str
    """SHA-256 of the bundle."""
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server tells of a model."""

    name: str
    version: int | None
    """Number of the version that answers; None for a folder, or where none is open."""
    digest: str
    open: bool
    """It is in memory; else the first request opens it."""
    problem: str
    """Why its newest version does not answer; empty where all is well."""
    task: str = ""
    """Told of one model alone, when it is open."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What is said of one answer, or of one text: whether it was right, and what is right.

    >>> Feedback(id=answer.ids[0], text="Where is my card?", label="card_arrival")
    """

    id: str | None = None
    """Id of the answer, from `Answer.ids`."""
    text: str | None = None
    """The text; with `id` the one that was answered. Without a text nothing can be learnt from it."""
    right: bool | None = None
    """Whether the answer was right; needs `id`."""
    label: str | None = None
    """The right label."""
    labels: Sequence[str] | None = None
    """The right labels, where a text may have several."""
    spans: Sequence[Span] | None = None
    """The right entities, where texts are tagged."""
    source: str | None = None
    """Who or what it comes from, such as a user's id: by it, it can be deleted."""
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """A request to send."""

    method: str
    path: str
    timeout_s: float
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """A time to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """What came of a request that was not answered."""

    reason: str
    timed_out: bool = False


Todo = Send | Wait
Call = Generator[Todo, "Reply | Lost | None", T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a client was told of its server."""

    url: str
    key: str | None = field(default=None, repr=False)
    """A key; without one, what `LUBAN_KEY` holds."""
    timeout_s: float = 30.0
    """Seconds within which a call ends, with all its retries."""
    retries: int = 5
    """How often a request is sent again that was turned away, or lost. 0 sends each once."""
    random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Raise BadRequest for what is no address of a server."""
        if not self.url.startswith(("http://", "https://")):
            raise errors.BadRequest(f"url: got {self.url!r}, wanted an address", hint=f"write http://{self.url}")

    @property
    def headers(self) -> dict[str, str]:
        """Return what goes with every request."""
        key = os.environ.get(KEY) if self.key is None else self.key
        return {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}


def predict(terms: Terms, model: str, rows: Sequence[Row], *, scores: bool, ids: bool = False) -> Call[Answer]:
    """Answer up to `ROWS` rows.

    Raises:
        BadRequest: `rows` is a text itself, or a row is neither a text nor tokens.
        LubanError: what the server says.
    """
    body = json.dumps({"texts": _checked(rows), "scores": scores, **({"ids": True} if ids else {})}).encode()
    found = yield from _asked(terms, "POST", f"/v1/models/{quote(model, safe='')}/predict", body)
    given = tuple(one["id"] for one in found["predictions"]) if ids else ()
    predictions = tuple(map(_prediction, found["predictions"]))
    return Answer(found["model"], found["version"], found["digest"], predictions, given)


def feedback(
    terms: Terms, model: str, said: Feedback | Sequence[Feedback], *, once: str | None
) -> Call[tuple[str, ...]]:
    """Say what was right or wrong; sent again under one key, so that it is kept once whatever gets lost.

    Raises:
        LubanError: what the server says.
    """
    items = [_remark(one) for one in ([said] if isinstance(said, Feedback) else said)]
    body = json.dumps({"items": items, "once": secrets.token_hex(16) if once is None else once}).encode()
    found = yield from _asked(terms, "POST", f"/v1/models/{quote(model, safe='')}/feedback", body)
    return tuple(found["ids"])


def explain(terms: Terms, model: str, text: str, *, label: str | None, rows: int | None) -> Call[Explained]:
    """Tell why a text gets its answer.

    Raises:
        LubanError: what the server says.
    """
    asked = {"text": text, **({} if label is None else {"label": label}), **({} if rows is None else {"rows": rows})}
    found = yield from _asked(terms, "POST", f"/v1/models/{quote(model, safe='')}/explain", json.dumps(asked).encode())
    told = Explanation(text, found["method"], found["rows"], tuple(map(_reason, found["reasons"])))
    return Explained(found["model"], found["version"], found["digest"], told)


def models(terms: Terms) -> Call[tuple[ServedModel, ...]]:
    """List the models that the caller may use."""
    found = yield from _asked(terms, "GET", "/v1/models")
    return tuple(map(_model, found["models"]))


def model(terms: Terms, name: str) -> Call[ServedModel]:
    """Tell of one model, with its labels."""
    return _model((yield from _asked(terms, "GET", f"/v1/models/{quote(name, safe='')}")))


def ready(terms: Terms) -> Call[bool]:
    """Tell whether the server should be sent requests; one that can't be reached is not ready."""
    came = yield Send("GET", "/readyz", terms.timeout_s)
    return isinstance(came, Reply) and came.status == 200


def chunks(rows: Iterable[Row], n_rows: int = ROWS) -> Iterator[list[Row]]:
    """Yield rows some at a time."""
    if isinstance(rows, str | bytes):
        raise _one_text()
    left = iter(rows)
    while chunk := list(islice(left, n_rows)):
        yield chunk


def _asked(terms: Terms, method: str, path: str, body: bytes | None = None) -> Call[Any]:
    """Ask until there is an answer, or no time or no hope of one; every request here may be sent twice.

    Raises:
        LubanError: what the server says.
        Unavailable: it can't be reached.
        DeadlineExceeded: the time is over.
    """
    end = time.monotonic() + terms.timeout_s
    wait_s = _FIRST_WAIT_S
    for attempt in range(terms.retries + 1):
        left_s = end - time.monotonic()
        if left_s <= 0:
            break
        came = yield Send(method, path, left_s, body)
        if isinstance(came, Reply) and came.status < 400:
            return _json(came, terms.url)
        last = _problem(came, terms) if isinstance(came, Reply) else _unreachable(came, terms)
        again = came.status in _AGAIN if isinstance(came, Reply) else isinstance(came, Lost) and not came.timed_out
        if not again or attempt == terms.retries:
            raise last
        # Half of it is chance: those who were turned away together must not come back together.
        pause_s = max(_asked_for_s(came), wait_s * (0.5 + 0.5 * terms.random.random()))
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if time.monotonic() + pause_s >= end:
            raise last
        yield Wait(pause_s)
    raise errors.DeadlineExceeded(f"{terms.url}: no answer within {terms.timeout_s:g} s", hint="raise timeout_s")


def _asked_for_s(came: Reply | Lost | None) -> float:
    """Return for how long the server wants to be left alone: seconds, or until a date."""
    given = came.headers.get("retry-after", "") if isinstance(came, Reply) else ""
    try:
        return float(given) if given else 0.0
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(given).timestamp() - time.time()
    except ValueError:
        return 0.0


def _json(came: Reply, url: str) -> Any:
    try:
        return json.loads(came.body)
    except ValueError:
        hint = "is this the address of `luban serve`?"
        raise errors.ServeError(f"{url} answers {came.body[:60]!r}, wanted JSON", hint=hint) from None


def _problem(came: Reply, terms: Terms) -> errors.LubanError:
    """Return the error that a server tells of, as the library would raise it."""
    try:
        told = json.loads(came.body)
        title, detail, hint = str(told["title"]), str(told["detail"]), str(told.get("hint", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        title, detail, hint = "", f"{terms.url} answers {came.status}: {came.body[:200]!r}", ""
    kind = getattr(errors, title, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.LubanError)):
        kind = next((one for one, codes in reversed(errors.CODES.items()) if codes.http == came.status), None)
    if kind is None or issubclass(kind, errors.GateError | errors.ProjectError | errors.DataError):
        kind = errors.ServeError
    error: errors.LubanError = kind(detail, hint=hint)
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        error.retry_after_s = max(0.0, _asked_for_s(came))
    return error


def _unreachable(came: Lost | None, terms: Terms) -> errors.LubanError:
    reason = came.reason if came else ""
    if came and came.timed_out:
        return errors.DeadlineExceeded(f"{terms.url}: no answer within {terms.timeout_s:g} s", hint="raise timeout_s")
    return errors.Unavailable(f"{terms.url} can't be reached: {reason}", hint="is `luban serve` there?")


def _checked(rows: Sequence[Row]) -> list[Any]:
    if isinstance(rows, str | bytes):
        raise _one_text()
    checked: list[Any] = []
    for number, row in enumerate(rows):
        if not isinstance(row, str | list | tuple):
            raise errors.BadRequest(
                f"row {number}: got a value of the type {type(row).__name__}, wanted a text or a list of tokens",
                hint="rows are counted from 0",
            )
        checked.append(row if isinstance(row, str) else list(row))
    return checked


def _one_text() -> errors.BadRequest:
    return errors.BadRequest("rows: got one text, wanted a list of them", hint="put it in brackets")


def _prediction(given: Mapping[str, Any]) -> Prediction:
    """Return one answer. Where the scores were not asked for, it has that of the best label alone, if one was given."""
    if "spans" in given:
        return Prediction(spans=tuple(Span(**span) for span in given["spans"]))
    labels = tuple(given["labels"]) if "labels" in given else (() if given["label"] is None else (given["label"],))
    return Prediction(labels=labels, scores=given.get("scores") or ({labels[0]: given["score"]} if labels else {}))


def _reason(given: Mapping[str, Any]) -> Reason:
    span = Span(**given["span"]) if "span" in given else None
    parts = tuple(Part(**part) for part in given["parts"])
    return Reason(given["label"], given["score"], given["log_odds"], given["rest"], parts, span)


def _remark(said: Feedback) -> dict[str, Any]:
    """Return what is said of one answer as it is sent: only what was given."""
    found = {one.name: value for one in fields(Feedback) if (value := getattr(said, one.name)) is not None}
    if said.labels is not None:
        found["labels"] = list(said.labels)
    if said.spans is not None:
        found["spans"] = [{"start": one.start, "end": one.end, "label": one.label} for one in said.spans]
    return found


def _model(given: Mapping[str, Any]) -> ServedModel:
    return ServedModel(
        name=given["name"], version=given["version"], digest=given["digest"], open=given["open"],
        problem=given["problem"], task=given.get("task", ""), labels=tuple(given.get("labels", ())),
    )  # fmt: skip
