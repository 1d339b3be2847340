"""The native REST surface: predict, batch, explain, models, health, and the documentation of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from luban.errors import LubanError, Overloaded, TooLarge
from luban.serve import schemas
from luban.serve.feedback import Feedback, wanted
from luban.serve.hosting import Answer, Hosting
from luban.serve.limits import Limits
from luban.serve.routing import EXAMPLE, PUBLIC, Request, Response, Route, decoded, problem
from luban.serve.schemas import Health, Models, encode
from luban.serve.telemetry import Telemetry

NDJSON = b"application/x-ndjson"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_AHEAD = 2
"""Chunks of a stream that are with the engine at once: while one is sent off, the next runs."""
STREAM_S = 60.0
"""Seconds within which a chunk of a stream is answered: it gives way to requests that are in a hurry."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """What is wanted of every line of a stream."""

    name: str
    """The model's."""
    scores: bool
    ids: Callable[[Answer, Sequence[Any]], list[str]] | None
    """Gives answers ids, where they are wanted."""


class Rest:
    """What the routes do."""

    def __init__(
        self,
        hosting: Hosting,
        limits: Limits,
        telemetry: Telemetry,
        ready: Callable[[], bool],
        feedback: Feedback | None = None,
    ) -> None:
        self._hosting = hosting
        self._limits = limits
        self._telemetry = telemetry
        self._ready = ready
        self._feedback = feedback

    async def predict(self, request: Request) -> Response:
        """Answer a few texts."""
        name = self._hosting.model(request.params["name"]).name
        asked = decoded(await request.body(), schemas.ASK, self._limits)
        rows = asked.rows(self._limits.items)
        answer = await self._hosting.predict(name, rows, request.deadline)
        self._telemetry.answered(answer)
        ids = await wanted(self._feedback).ids(request.principal, answer, rows) if asked.ids else ()
        return Response(encode(schemas.predicted(answer, scores=asked.scores, ids=ids)))

    async def batch(self, request: Request) -> Response:
        """Answer a stream of lines, in their order, with memory that does not grow with it."""
        name = self._hosting.model(request.params["name"]).name
        given = dict(part.partition("=")[::2] for part in request.scope["query_string"].decode("latin-1").split("&"))
        scores, ids = (given.get(one) in ("1", "true") for one in ("scores", "ids"))
        giver = await wanted(self._feedback).giver(request.principal) if ids else None
        return Response(self._answers(request, _Stream(name, scores, giver)), kind=NDJSON)

    async def _answers(self, request: Request, stream: _Stream) -> AsyncGenerator[bytes]:
        running: list[asyncio.Task[bytes]] = []
        n_lines = 0
        try:
            async for lines in _lines(request, self._limits):
                running.append(asyncio.create_task(self._chunk(stream, lines, n_lines)))
                n_lines += len(lines)
                if len(running) >= _AHEAD:
                    yield await running.pop(0)
            while running:
                yield await running.pop(0)
        except LubanError as error:
            while running:
                yield await running.pop(0)
            yield _failed({"index": n_lines}, error) + b"\n"
        finally:
            for task in running:
                task.cancel()

    async def _chunk(self, stream: _Stream, lines: list[bytes], first: int) -> bytes:
        """Return the answers to some lines, as lines."""
        told: list[bytes] = [b""] * len(lines)
        rows: list[Any] = []
        places: list[int] = []
        heads: list[dict[str, Any]] = []
        for place, line in enumerate(lines):
            head: dict[str, Any] = {"index": first + place}
            try:
                found = decoded(line, schemas.LINE, self._limits, "the line")
                if isinstance(found, schemas.Line):
                    head |= {} if found.id is msgspec.UNSET else {"id": found.id}
                rows.append(found.text if isinstance(found, schemas.Line) else found)
                places.append(place)
            except LubanError as error:
                told[place] = _failed(head, error)
            heads.append(head)
        for place, answer in zip(places, await self._each(stream, rows), strict=True):
            if isinstance(answer, LubanError):
                told[place] = _failed(heads[place], answer)
            else:
                prediction, served, given = answer
                body = msgspec.to_builtins(schemas.one(prediction, served.engine.task, scores=stream.scores))
                told[place] = encode({**heads[place], "version": served.number, **body, **given})
        return b"\n".join(told) + b"\n"

    async def _each(self, stream: _Stream, rows: list[Any]) -> list[Any]:
        """Answer rows together; where that fails, each alone, so that one bad row fails alone.

        Returns:
            For each an error, or the prediction, the version that made it, and the field with its id, if any.
        """
        if not rows:
            return []
        end = time.monotonic() + STREAM_S
        while True:
            try:
                answer = await self._hosting.predict(stream.name, rows, end)
                given: list[dict[str, str]] = [{}] * len(rows)
                if stream.ids is not None:
                    given = [{"answer_id": one} for one in stream.ids(answer, rows)]
            except Overloaded as error:
                if time.monotonic() + error.retry_after_s >= end:
                    return [error] * len(rows)
                await asyncio.sleep(min(1.0, error.retry_after_s))
            except LubanError as error:
                if len(rows) == 1:
                    return [error]
                return [found for row in rows for found in await self._each(stream, [row])]
            else:
                self._telemetry.answered(answer)
                return [(one, answer.served, id) for one, id in zip(answer.predictions, given, strict=True)]

    async def explain(self, request: Request) -> Response:
        """Tell why a text gets its answer."""
        name = self._hosting.model(request.params["name"]).name
        asked = decoded(await request.body(), schemas.ASK_WHY, self._limits)
        label = None if isinstance(asked.label, msgspec.UnsetType) else asked.label
        found = await self._hosting.explain(name, asked.text, label, asked.rows, request.deadline)
        return Response(encode(schemas.explained(found)))

    async def models(self, request: Request) -> Response:
        """List the models that the caller may use."""
        found = [schemas.about(one) for one in self._hosting.models if request.principal.may_use(one.name)]
        return Response(encode(Models(found, data=[schemas.ListedModel(id=one.name) for one in found])))

    async def model(self, request: Request) -> Response:
        """Tell of one model; where it is not open, without its labels."""
        return Response(encode(schemas.about(self._hosting.model(request.params["name"]), whole=True)))

    async def health(self, request: Request) -> Response:
        """Tell that the process lives."""
        return Response(encode(Health("alive")))

    async def readiness(self, request: Request) -> Response:
        """Tell whether it should be sent requests."""
        ready = self._ready()
        return Response(encode(Health("ready" if ready else "not ready")), 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Return counts and times."""
        return Response(self._telemetry.text(), kind=TEXT)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Those of the port that callers use."""
        return (
            Route(method="POST", path="/v1/models/{name}/predict", scope="predict", answer=self.predict,
                  about="Answer one text, or a few.", asks_model=True, takes=schemas.Ask, gives=schemas.Predicted,
                  example={"text": EXAMPLE, "scores": True}),
            Route(method="POST", path="/v1/models/{name}/batch", scope="predict", answer=self.batch, streams=True,
                  about="Answer any number of lines, JSON strings or objects, as they come (NDJSON).",
                  takes=schemas.AnyLine, gives=schemas.Streamed, example=EXAMPLE,
                  query={"scores": "Give the probability of every label.",
                         "ids": "Give each answer an id, by which feedback names it."}),
            Route(method="POST", path="/v1/models/{name}/explain", scope="predict", answer=self.explain,
                  about="Tell what each word of a text adds to its answer.", asks_model=True, explains=True,
                  takes=schemas.AskWhy, gives=schemas.Explained, example={"text": EXAMPLE}),
            Route(method="GET", path="/v1/models", scope="read", answer=self.models, gives=Models,
                  about="List the models that the caller may use."),
            Route(method="GET", path="/v1/models/{name}", scope="read", answer=self.model, gives=schemas.About,
                  about="Tell of a model: version, digest, task, labels."),
            *self.probes,
        )  # fmt: skip

    @property
    def probes(self) -> tuple[Route, ...]:
        """Whether it lives, and whether it is ready."""
        return (
            Route(method="GET", path="/healthz", scope=PUBLIC, answer=self.health, gives=Health,
                  about="Tell that the process lives."),
            Route(method="GET", path="/readyz", scope=PUBLIC, answer=self.readiness, gives=Health, tells_unready=True,
                  about="Tell whether it should be sent requests: its models are open, and it does not stop."),
        )  # fmt: skip

    @property
    def admin_routes(self) -> tuple[Route, ...]:
        """Those of the admin port."""
        return (
            Route(method="GET", path="/metrics", scope="admin", answer=self.metrics, about="Counts, for Prometheus."),
            *self.probes,
        )


async def _lines(request: Request, limits: Limits) -> AsyncGenerator[list[bytes]]:
    """Yield the lines of a stream, some at a time; blank ones are left out.

    Raises:
        TooLarge: a line has more bytes than a body may have.
    """
    lines: list[bytes] = []
    rest = b""
    async for piece in request.chunks():
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > limits.body_bytes:
            raise TooLarge(f"a line has more than {limits.body_bytes} bytes", hint="one text a line")
        lines += [line for line in whole if line.strip()]
        while len(lines) >= limits.items:
            yield lines[: limits.items]
            del lines[: limits.items]
    if rest.strip():
        lines.append(rest)
    if lines:
        yield lines


def _failed(head: dict[str, Any], error: LubanError) -> bytes:
    body = problem(error).body
    assert isinstance(body, bytes)
    return encode({**head, "error": msgspec.Raw(body)})
