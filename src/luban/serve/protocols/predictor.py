"""Luban's own gRPC service: `luban.proto`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from luban.bundle.explain import ROWS
from luban.errors import BadRequest, LubanError, codes
from luban.serve.feedback import wanted
from luban.serve.protocols.asking import Asking
from luban.serve.protocols.messages import PREDICTOR, message
from luban.serve.remarks import Remark, Stretch
from luban.serve.rest import STREAM_S
from luban.serve.rpc import Call, Method

if TYPE_CHECKING:
    from luban.records import Prediction, Reason, Span
    from luban.serve.hosting import Answer, Model

_AHEAD = 4
"""Requests of a stream that are with the engine at once."""


class Predictor:
    """What the methods do."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def predict(self, call: Call, request: Any) -> Any:
        """Answer a few rows."""
        rows = _rows(request)
        answer = await self._asking.predict(request.model, rows, call.deadline)
        response = _response(answer, scores=request.scores)
        if request.ids:
            ids = await wanted(self._asking.feedback).ids(call.principal, answer, rows)
            for prediction, id in zip(response.predictions, ids, strict=True):
                prediction.id = id
        return response

    async def predict_stream(self, call: Call, requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """Answer requests as they come, in their order."""
        running: list[asyncio.Task[Any]] = []
        try:
            async with aclosing(requests) as given:  # type: ignore[type-var]
                async for request in given:
                    running.append(asyncio.create_task(self._answer(call, request)))
                    if len(running) >= _AHEAD:
                        yield await running.pop(0)
            while running:
                yield await running.pop(0)
        finally:
            for task in running:
                task.cancel()

    async def _answer(self, call: Call, asked: Any) -> Any:
        """Answer one request of a stream; its error is its answer."""
        of_one = Call(call.principal, time.monotonic() + STREAM_S)
        response = message("luban.v1.PredictStreamResponse")
        try:
            return response(id=asked.id, response=await self.predict(of_one, asked.request))
        except LubanError as error:
            return response(id=asked.id, error=_error(error))

    async def explain(self, call: Call, request: Any) -> Any:
        """Tell why a text gets its answer."""
        label = request.label if request.HasField("label") else None
        found = await self._asking.explain(request.model, request.text, label, request.rows or ROWS, call.deadline)
        told = found.explanation
        return message("luban.v1.ExplainResponse")(
            model=found.served.name, version=found.served.number, digest=found.served.digest, method=told.method,
            rows=told.n_rows, reasons=[_reason(one) for one in told.reasons],
        )  # fmt: skip

    async def send_feedback(self, call: Call, request: Any) -> Any:
        """Keep what is said of a few answers."""
        taken = await wanted(self._asking.feedback).take(
            call.principal, request.model, [_remark(one) for one in request.items], request.once, call.deadline
        )
        return message("luban.v1.FeedbackResponse")(ids=taken.ids, state=taken.state)

    async def list_models(self, call: Call, request: Any) -> Any:
        """List the models that the caller may use."""
        found = [_model(one) for one in self._asking.hosting.models if call.principal.may_use(one.name)]
        return message("luban.v1.ListModelsResponse")(models=found)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those of the service."""
        return (
            Method(service=PREDICTOR, name="Predict", scope="predict", asks_model=True, answer=self.predict,
                   takes=message("luban.v1.PredictRequest"), model=lambda request: request.model),
            Method(service=PREDICTOR, name="PredictStream", scope="predict", streams="both",
                   answer=self.predict_stream, takes=message("luban.v1.PredictStreamRequest"),
                   model=lambda asked: asked.request.model),
            Method(service=PREDICTOR, name="Explain", scope="predict", asks_model=True, explains=True,
                   answer=self.explain, takes=message("luban.v1.ExplainRequest"), model=lambda request: request.model),
            Method(service=PREDICTOR, name="SendFeedback", scope="feedback", answer=self.send_feedback,
                   takes=message("luban.v1.FeedbackRequest"), model=lambda request: request.model),
            Method(service=PREDICTOR, name="ListModels", scope="read", answer=self.list_models,
                   takes=message("luban.v1.ListModelsRequest")),
        )  # fmt: skip


def _rows(request: Any) -> list[Any]:
    """Return the rows of a request.

    Raises:
        BadRequest: it has none, or both texts and tokens.
    """
    if bool(request.texts) == bool(request.tokens):
        raise BadRequest("the request: wanted one of `texts` and `tokens`, with one row at least")
    return list(request.texts) or [list(one.tokens) for one in request.tokens]


def _remark(given: Any) -> Remark:
    """Return what is said of an answer as it is said over HTTP."""
    found = Remark()
    for name in ("id", "source", "comment"):
        if value := getattr(given, name):
            setattr(found, name, value)
    for name in ("text", "right"):
        if given.HasField(name):
            setattr(found, name, getattr(given, name))
    truth = given.WhichOneof("truth")
    if truth == "label":
        found.label = given.label
    elif truth == "labels":
        found.labels = list(given.labels.labels)
    elif truth == "spans":
        found.spans = [Stretch(start=one.start, end=one.end, label=one.label) for one in given.spans.spans]
    return found


def _response(answer: Answer, *, scores: bool) -> Any:
    return message("luban.v1.PredictResponse")(
        model=answer.served.name, version=answer.served.number, digest=answer.served.digest,
        predictions=[_prediction(one, scores=scores) for one in answer.predictions],
    )  # fmt: skip


def _prediction(found: Prediction, *, scores: bool) -> Any:
    spans = [_span(one) for one in found.spans]
    each = dict(found.scores.items()) if scores else {}
    return message("luban.v1.Prediction")(labels=found.labels, score=found.score, scores=each, spans=spans)


def _span(one: Span) -> Any:
    return message("luban.v1.Span")(start=one.start, end=one.end, label=one.label, text=one.text, score=one.score)


def _reason(one: Reason) -> Any:
    part = message("luban.v1.Part")
    return message("luban.v1.Reason")(
        label=one.label, score=one.score, log_odds=one.log_odds, rest=one.rest,
        span=None if one.span is None else _span(one.span),
        parts=[part(start=each.start, end=each.end, text=each.text, weight=each.weight) for each in one.parts],
    )  # fmt: skip


def _error(error: LubanError) -> Any:
    import grpc

    return message("luban.v1.Error")(
        kind=type(error).__name__, code=grpc.StatusCode[codes(error).grpc].value[0], detail=error.message,
        hint=error.hint, retry_after_s=getattr(error, "retry_after_s", None),
    )  # fmt: skip


def _model(model: Model) -> Any:
    served = model.served
    found = message("luban.v1.Model")(name=model.name, open=served is not None, problem=model.problem)
    if served is not None:
        found.digest, found.task = served.digest, served.engine.task.kind
        found.labels.extend(served.engine.labels)
        if served.number is not None:
            found.version = served.number
    return found
