"""`luban.Client`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from luban.client import calls, transport
from luban.client.calls import Answer, Call, Explained, Feedback, Row, Send, ServedModel, Terms
from luban.records import Prediction

T = TypeVar("T")


class Client:
    """Asks a server that `luban serve` runs, and waits. Share one between threads: it keeps its connections open.

    >>> with luban.Client("http://127.0.0.1:8080") as client:
    ...     client.predict("bank", ["Where is my card?"])[0].label
    'card_arrival'
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 30.0, retries: int = 5, verify: Any = True
    ) -> None:
        """Prepare it; nothing is sent yet.

        Args:
            url: the server's.
            key: an API key; without one, what the environment variable `LUBAN_KEY` holds.
            timeout_s: seconds within which a call ends, with all its retries.
            retries: how often a request is sent again that was turned away or lost, after waiting as the server asks.
            verify: an `ssl.SSLContext` that knows the server's certificate, where it is not a public one.

        Raises:
            BadRequest: `url` is no address.
            MissingExtra: httpx is not installed.
        """
        self._terms = Terms(url=url.rstrip("/"), key=key, timeout_s=timeout_s, retries=retries)
        self._http = transport.library().Client(base_url=self._terms.url, headers=self._terms.headers, verify=verify)

    def predict(self, model: str, rows: Sequence[Row], *, scores: bool = False, ids: bool = False) -> Answer:
        """Answer a few rows.

        Args:
            model: its name on the server.
            rows: texts, or lists of tokens where the task takes them; as many as the server takes at once.
            scores: give the probability of every label; else that of the best alone.
            ids: give each answer an id, by which `feedback` names it.

        Returns:
            One `Prediction` a row, in their order, and which version made them.

        Raises:
            LubanError: what the server says: `NotFound`, `BadRequest`, `TooLarge`, `Forbidden`, `Unauthenticated`, ...
            Overloaded: it was turned away each time.
            Unavailable: the server can't be reached.
            DeadlineExceeded: the time is over.
        """
        return self._run(calls.predict(self._terms, model, rows, scores=scores, ids=ids))

    def feedback(self, model: str, said: Feedback | Sequence[Feedback], *, once: str | None = None) -> tuple[str, ...]:
        """Say which answers were right or wrong, and what would have been right.

        When this returns, it is on the server's disk. It is sent under a key, so that it is kept once though a request
        or its answer was lost and it was sent again.

        Args:
            model: its name on the server.
            said: of one answer, or of as many as the server takes at once: all of it is kept, or none.
            once: the key, for who may do the same again after a crash; without it each call has a new one.

        Returns:
            The ids of what was kept, in order.

        Raises:
            LubanError: what the server says: `BadRequest` where a label is none of the task's, `Conflict` where
                something else was sent under `once`, `NotFound` where it keeps no feedback, ...
        """
        return self._run(calls.feedback(self._terms, model, said, once=once))

    def predict_many(self, model: str, rows: Iterable[Row], *, scores: bool = False) -> Iterator[Prediction]:
        """Answer any number of rows as they are read, in their order, with memory that does not grow with them.

        Raises:
            LubanError: as `predict`, when the row's answer is asked for.
        """
        with ThreadPoolExecutor(calls.AHEAD, thread_name_prefix="luban-client") as pool:
            running: deque[Future[Answer]] = deque()
            try:
                for chunk in calls.chunks(rows):
                    running.append(pool.submit(self.predict, model, chunk, scores=scores))
                    if len(running) >= calls.AHEAD:
                        yield from running.popleft().result().predictions
                while running:
                    yield from running.popleft().result().predictions
            finally:
                for future in running:
                    future.cancel()

    def explain(self, model: str, text: str, label: str | None = None, *, rows: int | None = None) -> Explained:
        """Tell why a text gets its answer; see `Engine.explain`.

        Args:
            model: its name on the server.
            text: one text.
            label: explain this one, given or not; without it every label, or entity, that the text gets.
            rows: shortened texts that are answered for it, at most; without it the server's own number.

        Raises:
            LubanError: as `predict`.
        """
        return self._run(calls.explain(self._terms, model, text, label=label, rows=rows))

    def models(self) -> tuple[ServedModel, ...]:
        """List the models that this key may use."""
        return self._run(calls.models(self._terms))

    def model(self, name: str) -> ServedModel:
        """Tell of one model, with its labels.

        Raises:
            NotFound: there is none.
        """
        return self._run(calls.model(self._terms, name))

    def ready(self) -> bool:
        """Tell whether the server should be sent requests."""
        return self._run(calls.ready(self._terms))

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        came: Any = None
        try:
            while True:
                todo = call.send(came)
                if isinstance(todo, Send):
                    came = self._send(todo)
                else:
                    time.sleep(todo.seconds)
                    came = None
        except StopIteration as done:
            found: T = done.value
            return found

    def _send(self, todo: Send) -> Any:
        try:
            response = self._http.request(todo.method, todo.path, content=todo.body, timeout=todo.timeout_s)
        except transport.library().TransportError as error:
            return transport.lost(error)
        return calls.Reply(response.status_code, response.headers, response.content)
