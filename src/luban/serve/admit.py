"""Admission, before anything is parsed: what can't be answered is turned away while it is cheap.

In this order: is there such a route; does the head say that the body is too large; who asks, and may that one; is there
a place in the queue. Only then the body is read. A raw ASGI application: turning a request away costs microseconds, and
what is turned away takes nothing from those who are inside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any

from luban.errors import (
    BadRequest,
    DeadlineExceeded,
    LubanError,
    NotFound,
    Overloaded,
    TooLarge,
    TooSlow,
    Unavailable,
    codes,
)
from luban.serve import asked
from luban.serve.access import Access, Principal
from luban.serve.limits import Limits
from luban.serve.places import Places
from luban.serve.routing import PUBLIC, ClientLeftError, Receive, Request, Response, Route, Router, problem
from luban.serve.telemetry import Telemetry, event

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
NOBODY = Principal(name="nobody")
CLIENT_LEFT = 499
BUSY = "luban.busy"
"""In the scope of a request for which the server had no place, or no time: the connection may wait."""
_WATCH_S = 0.25
"""Seconds after which a server looks whether the client still waits: most answers are there before."""
_CLOSE = (b"connection", b"close")
_LEFT = object()


class Application:
    """Routes behind admission, as an ASGI application."""

    def __init__(
        self,
        routes: Sequence[Route],
        access: Access,
        limits: Limits,
        telemetry: Telemetry,
        places: Places | None = None,
    ) -> None:
        """Prepare it; `places` are those that it shares with other surfaces."""
        self.router = Router(routes)
        self._access = access
        self._limits = limits
        self._telemetry = telemetry
        self._places = places or Places(limits, telemetry)
        self.n_open = 0
        """Requests of every kind that have no answer yet."""
        self.draining = False
        """Whoever is answered now is told to come back on another connection."""
        self.closed = False
        """The time to drain is over: whoever comes is turned away."""

    @property
    def n_inside(self) -> int:
        """Requests inside that ask a model, on every surface that shares its places."""
        return self._places.n_inside

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; see the ASGI specification, version 3."""
        if scope["type"] != "http":
            return
        begun = time.monotonic()
        methods, params = self.router.find(scope["path"])
        method = scope["method"]
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        self.n_open += 1
        status = CLIENT_LEFT
        try:
            response, whole = await self._answer(route, methods, params, scope, receive)
            status = response.status
            if self._telemetry.marks and (about := asked.ASKED.get()) is not None:
                marked = (*response.headers, (b"x-request-id", asked.request_id(about).encode()))
                response = Response(response.body, status, response.kind, marked)
            await _send(send, response, close=self.draining or not whole, bare=method == "HEAD")
        except ClientLeftError:
            pass
        finally:
            self.n_open -= 1
            self._telemetry.request(route.path if route else "(none)", status, time.monotonic() - begun)

    async def _answer(
        self,
        route: Route | None,
        methods: Mapping[str, Route],
        params: Mapping[str, str],
        scope: MutableMapping[str, Any],
        receive: Receive,
    ) -> tuple[Response, bool]:
        """Return the answer, and whether the connection can go on: not where a body lies unread that may be long."""
        n_bytes = -1
        request: Request | None = None
        try:
            n_bytes = _length(scope, self._limits, streams=route is not None and route.streams)
            if route is None:
                raise _no_route(scope, methods)
            about = asked.begin(scope["headers"]) if route.asks_model or route.streams else None
            principal = await self._admitted(route, params, scope)
            if about is not None:
                about.principal, about.admitted = principal, time.monotonic()
            request = Request(scope, receive, self._limits, principal, params)
            return await self._inside(route, request), True
        except LubanError as error:
            if request is not None and isinstance(error, Overloaded):  # before that, it was the caller's own rate
                scope[BUSY] = True
            more = 405 if isinstance(error, NotFound) and methods and route is None else None
            added = {"title": "MethodNotAllowed"} if more else route.told(error) if route else {}
            response = problem(error, more, **added)
            if isinstance(error, TooSlow):
                return response, False
            if more:
                allowed = ", ".join(methods).encode()
                response = Response(response.body, more, response.kind, ((b"allow", allowed),))
            elif codes(error).http == 500:
                event("request.failed", logging.ERROR, route=route.path if route else "", problem=str(error))
        except (ClientLeftError, asyncio.CancelledError):
            raise
        except Exception as error:
            logging.getLogger("luban.serve").error("request.crashed", exc_info=error)
            crashed = LubanError("something failed within the server", hint="its log says what")
            response = problem(crashed, **(route.told(crashed) if route else {}))
        short = 0 <= n_bytes <= self._limits.body_bytes or (request is not None and request.read)
        return response, short

    async def _admitted(self, route: Route, params: Mapping[str, str], scope: Mapping[str, Any]) -> Principal:
        """Return who may pass.

        Raises:
            Unauthenticated, Forbidden: it may not.
            Unavailable: the server stops.
        """
        if self.closed and route.scope != PUBLIC:
            raise Unavailable("the server stops", hint="ask another one")
        if route.scope == PUBLIC:
            return NOBODY
        try:
            principal = await self._access.principal(scope["headers"])
        except Overloaded:
            self._telemetry.shed("rate")
            raise
        principal.want(route.scope, params.get("name"))
        return principal

    async def _inside(self, route: Route, request: Request) -> Response:
        """Let a request in, if there is a place.

        Raises:
            Overloaded: there is none.
        """
        if route.streams:
            place = self._places.stream()
            place.__enter__()
            response = await _freeing(place, route.answer(request))
            assert not isinstance(response.body, bytes)
            return Response(_streamed(place, response.body), response.status, response.kind, response.headers)
        if not route.asks_model:
            return await route.answer(request)
        with self._places.explanation() if route.explains else self._places.one():
            watch = _Watch(request)
            try:
                return await route.answer(request)
            except asyncio.CancelledError as cancelled:
                if _LEFT not in cancelled.args:
                    raise
                if task := asyncio.current_task():
                    task.uncancel()
                raise ClientLeftError from None
            except TimeoutError:
                raise DeadlineExceeded("no answer in time", hint="ask for fewer texts at once, or later") from None
            finally:
                watch.stop()


class _Watch:
    """Cancels a request whose client leaves, once it has been inside for longer than most."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watching: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(_WATCH_S, self._begin)

    def _begin(self) -> None:
        if self._request.read:
            self._watching = self._loop.create_task(self._until_it_leaves())
        else:  # whoever reads the body sees it leave; two may not read at once
            self._timer = self._loop.call_later(_WATCH_S, self._begin)

    async def _until_it_leaves(self) -> None:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._watching = None
            self._task.cancel(_LEFT)

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()


async def _freeing(place: AbstractContextManager[None], answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except BaseException:
        place.__exit__(None, None, None)
        raise


async def _streamed(place: AbstractContextManager[None], body: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(body):
            async for part in body:
                yield part
    finally:
        place.__exit__(None, None, None)


async def _send(send: Send, response: Response, *, close: bool, bare: bool) -> None:
    headers = [(b"content-type", response.kind), *response.headers]
    if close:
        headers.append(_CLOSE)
    body = response.body
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if bare else body})
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async with aclosing(body):
        async for part in body:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _no_route(scope: Mapping[str, Any], methods: Mapping[str, Route]) -> NotFound:
    if methods:
        return NotFound(f"this path does not take {scope['method']}", hint=f"it takes {', '.join(methods)}")
    return NotFound("there is no such path", hint="see /openapi.json")


def _length(scope: Mapping[str, Any], limits: Limits, *, streams: bool) -> int:
    """Return how long the head says that the body is: 0 where there is none, -1 where it does not say.

    Raises:
        TooLarge: longer than may be.
        BadRequest: it is no number.
    """
    found = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit():
                raise BadRequest("content-length: wanted a number of bytes")
            found = int(value)
        elif name == b"transfer-encoding":
            return -1
    if found > limits.body_bytes and not streams:
        raise TooLarge(
            f"the body: got {found} bytes, wanted {limits.body_bytes} at most", hint="send fewer texts at once"
        )
    return found
