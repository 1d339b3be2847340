"""`luban.AsyncClient`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from luban.client import calls, transport
from luban.client.calls import Answer, Call, Explained, Feedback, Row, Send, ServedModel, Terms
from luban.records import Prediction

T = TypeVar("T")


class AsyncClient:
    """Asks a server that `luban serve` runs, on an event loop; see `Client`, whose methods it has."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 30.0, retries: int = 5, verify: Any = True
    ) -> None:
        """Prepare it; see `Client`."""
        self._terms = Terms(url=url.rstrip("/"), key=key, timeout_s=timeout_s, retries=retries)
        self._http = transport.library().AsyncClient(
            base_url=self._terms.url, headers=self._terms.headers, verify=verify
        )

    async def predict(self, model: str, rows: Sequence[Row], *, scores: bool = False, ids: bool = False) -> Answer:
        """Answer a few rows; see `Client.predict`."""
        return await self._run(calls.predict(self._terms, model, rows, scores=scores, ids=ids))

    async def feedback(
        self, model: str, said: Feedback | Sequence[Feedback], *, once: str | None = None
    ) -> tuple[str, ...]:
        """Say which answers were right or wrong; see `Client.feedback`."""
        return await self._run(calls.feedback(self._terms, model, said, once=once))

    async def predict_many(self, model: str, rows: Iterable[Row], *, scores: bool = False) -> AsyncIterator[Prediction]:
        """Answer any number of rows as they are read; see `Client.predict_many`."""
        running: deque[asyncio.Task[Answer]] = deque()
        try:
            for chunk in calls.chunks(rows):
                running.append(asyncio.create_task(self.predict(model, chunk, scores=scores)))
                if len(running) >= calls.AHEAD:
                    for one in (await running.popleft()).predictions:
                        yield one
            while running:
                for one in (await running.popleft()).predictions:
                    yield one
        finally:
            for task in running:
                task.cancel()

    async def explain(self, model: str, text: str, label: str | None = None, *, rows: int | None = None) -> Explained:
        """Tell why a text gets its answer; see `Client.explain`."""
        return await self._run(calls.explain(self._terms, model, text, label=label, rows=rows))

    async def models(self) -> tuple[ServedModel, ...]:
        """List the models that this key may use."""
        return await self._run(calls.models(self._terms))

    async def model(self, name: str) -> ServedModel:
        """Tell of one model; see `Client.model`."""
        return await self._run(calls.model(self._terms, name))

    async def ready(self) -> bool:
        """Tell whether the server should be sent requests."""
        return await self._run(calls.ready(self._terms))

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        came: Any = None
        try:
            while True:
                todo = call.send(came)
                if isinstance(todo, Send):
                    came = await self._send(todo)
                else:
                    await asyncio.sleep(todo.seconds)
                    came = None
        except StopIteration as done:
            found: T = done.value
            return found

    async def _send(self, todo: Send) -> Any:
        try:
            response = await self._http.request(todo.method, todo.path, content=todo.body, timeout=todo.timeout_s)
        except transport.library().TransportError as error:
            return transport.lost(error)
        return calls.Reply(response.status_code, response.headers, response.content)
