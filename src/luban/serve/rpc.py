"""gRPC: methods behind the same admission as routes have, and the port on which they answer.

In this order: who asks, and may that one; is there a place; only then the message is read, and may the caller use the
model that it names. No method is reached but through `Port`, and none can be made without a scope.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luban.errors import (
    CODES,
    BadRequest,
    DeadlineExceeded,
    LubanError,
    MissingExtra,
    Overloaded,
    ServeError,
    TooSlow,
    Unavailable,
    codes,
    install,
)
from luban.serve import asked
from luban.serve.access import Access, Principal, Scope
from luban.serve.admit import NOBODY
from luban.serve.limits import Limits
from luban.serve.places import Places
from luban.serve.routing import PUBLIC
from luban.serve.telemetry import Telemetry, event

_DETAILS = "grpc-status-details-bin"
_STILL_S = 1.0
"""Seconds for which a server that is to stop answers as before."""
_QUIET_S = 0.5
_TICK_S = 0.05
_PUSHBACK = "grpc-retry-pushback-ms"
_STATUSES = {"OK": 200, "CANCELLED": 499, **{one.grpc: one.http for one in reversed(CODES.values())}}
"""The same as numbers of HTTP, for metrics."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was let in."""

    principal: Principal
    deadline: float
    """By `time.monotonic`: the caller's own, or the server's where that is sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of one service."""

    service: str
    """Its full name, such as `luban.v1.Predictor`."""
    name: str
    scope: Scope | Literal["public"]
    """What the caller must be allowed."""
    takes: Any
    """Class of the request's message."""
    answer: Callable[[Call, Any], Any]
    """Takes a message, and returns one when it is awaited; of a stream, takes an iterator and yields messages."""
    streams: Literal["no", "answers", "both"] = "no"
    asks_model: bool = False
    """Takes a place, and is refused where none is free."""
    explains: bool = False
    """The place that it takes is one of those for explanations."""
    model: Callable[[Any], str] = lambda _: ""
    """The model that a message names: whoever may not use it is refused. Empty where it names none."""

    @property
    def path(self) -> str:
        """As it stands on the wire."""
        return f"/{self.service}/{self.name}"


class Port:
    """A socket on which methods answer."""

    def __init__(
        self,
        methods: Sequence[Method],
        access: Access,
        limits: Limits,
        telemetry: Telemetry,
        places: Places,
        *,
        cert: str = "",
        key: str = "",
    ) -> None:
        """Prepare it.

        Args:
            methods: all that it answers.
            access: knows the keys; they are in the metadata, as they are in the headers of HTTP.
            limits: of messages, rows and times.
            telemetry: is told.
            places: those that it shares with other surfaces.
            cert: file of the certificate's chain, PEM; without it there is no TLS.
            key: file of its key.
        """
        self.methods = tuple(methods)
        self._access = access
        self._limits = limits
        self._telemetry = telemetry
        self._places = places
        self._cert, self._key = cert, key
        self._server: Any = None
        self.n_open = 0
        """Calls that have no answer yet, but for probes."""
        self._n_seen = 0
        self._refuses_from: float | None = None

    async def open(self, address: str) -> None:
        """Answer on an address; other processes may answer on it too.

        Raises:
            MissingExtra: grpcio is not installed.
            ServeError: the address can't be had.
        """
        try:
            import grpc
        except ImportError as error:
            raise MissingExtra(f"gRPC needs the package grpcio: {error}", hint=install("grpc")) from error
        limits = self._limits
        options = {
            "grpc.max_receive_message_length": limits.body_bytes,
            "grpc.max_metadata_size": limits.header_bytes,
            "grpc.max_concurrent_streams": 4 * limits.queue,
            "grpc.max_connection_idle_ms": int(1000 * limits.keep_alive_s),
            "grpc.server_handshake_timeout_ms": int(1000 * limits.header_s),
            "grpc.so_reuseport": 1,
        }
        self._server = grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=limits.connections)
        services: dict[str, dict[str, Any]] = {}
        for method in self.methods:
            services.setdefault(method.service, {})[method.name] = self._handler(method)
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items())
        )
        try:
            if self._cert:
                pair = Path(self._key).read_bytes(), Path(self._cert).read_bytes()
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServeError(f"can't listen on {address}: {error}", hint="name another port: --grpc-port") from None
        await self._server.start()

    async def drain(self) -> None:
        """Answer those who are here, tell the others to go elsewhere, and stop.

        For a moment calls are answered as before, while health says already that they should go elsewhere; then they
        are refused as UNAVAILABLE. Only when none has come for a while the server stops: gRPC breaks off a call that
        comes in just then, and its caller can't know whether it was answered.
        """
        if self._server is None:
            return
        begun = time.monotonic()
        end = begun + self._limits.drain_s
        self._refuses_from = begun + min(_STILL_S, self._limits.drain_s / 4)
        n_seen, quiet_since = self._n_seen, begun
        while (now := time.monotonic()) < end:
            if self.n_open or self._n_seen != n_seen:
                n_seen, quiet_since = self._n_seen, now
            elif now - quiet_since >= _QUIET_S:
                break
            await asyncio.sleep(_TICK_S)
        await self._server.stop(max(0.0, end - time.monotonic()))

    async def close(self) -> None:
        """Break off what is left."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _handler(self, method: Method) -> Any:
        import grpc

        if method.streams == "no":

            async def answer(body: bytes, context: Any) -> bytes:
                return await self._unary(method, body, context)

            return grpc.unary_unary_rpc_method_handler(answer)
        if method.streams == "answers":

            async def tell(body: bytes, context: Any) -> AsyncGenerator[bytes]:
                async for part in self._stream(method, _one(body), context):
                    yield part

            return grpc.unary_stream_rpc_method_handler(tell)

        async def both(bodies: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes]:
            async for part in self._stream(method, bodies, context):
                yield part

        return grpc.stream_stream_rpc_method_handler(both)

    async def _unary(self, method: Method, body: bytes, context: Any) -> bytes:
        watch = _Told(self, method)
        with watch:
            try:
                call = await self._admitted(method, context)
                with self._place(method):
                    request = _parsed(method, body)
                    self._check(method, call, request)
                    found: bytes = (await method.answer(call, request)).SerializeToString()
                    watch.code = "OK"
                    return found
            except Exception as error:
                failed = _failed(method, error)
            await watch.abort(context, failed)
            raise AssertionError("abort raises")

    async def _stream(self, method: Method, bodies: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes]:
        watch = _Told(self, method)
        with watch:
            try:
                call = await self._admitted(method, context)
                with self._place(method):
                    async for found in method.answer(call, self._requests(method, call, bodies)):
                        yield found.SerializeToString()
                watch.code = "OK"
                return
            except Exception as error:
                failed = _failed(method, error)
            await watch.abort(context, failed)

    async def _requests(self, method: Method, call: Call, bodies: AsyncIterator[bytes]) -> AsyncGenerator[Any]:
        """Yield the messages of a stream; each must come in time.

        Raises:
            TooSlow: one did not.
            BadRequest, Forbidden: as for one message.
        """
        iterator = aiter(bodies)
        while True:
            try:
                async with asyncio.timeout(self._limits.body_s):
                    body = await anext(iterator)
            except StopAsyncIteration:
                return
            except TimeoutError:
                hint = "end a stream when there is no more to ask"
                raise TooSlow(f"nothing came within {self._limits.body_s:g} s", hint=hint) from None
            request = _parsed(method, body)
            self._check(method, call, request)
            yield request

    async def _admitted(self, method: Method, context: Any) -> Call:
        """Return the call, if it may pass.

        Raises:
            Unauthenticated, Forbidden: it may not.
            Unavailable: the server stops.
        """
        left = context.time_remaining()
        limit = self._limits.request_s
        deadline = time.monotonic() + (limit if left is None else min(limit, left))
        if method.scope == PUBLIC:
            return Call(NOBODY, deadline)
        if self._refuses_from is not None and time.monotonic() >= self._refuses_from:
            raise Unavailable("the server stops", hint="ask another one")
        about = asked.begin(_headers(context))
        try:
            principal = await self._access.principal(about.headers)
        except Overloaded:
            self._telemetry.shed("rate")
            raise
        principal.want(method.scope)
        about.principal, about.admitted = principal, time.monotonic()
        return Call(principal, deadline)

    def _check(self, method: Method, call: Call, request: Any) -> None:
        if method.scope != PUBLIC and (name := method.model(request)):
            call.principal.want(method.scope, name)

    def _place(self, method: Method) -> AbstractContextManager[None]:
        if method.streams == "both" and method.scope != PUBLIC:
            return self._places.stream()
        if method.explains:
            return self._places.explanation()
        return self._places.one() if method.asks_model else nullcontext()

    def begin(self, method: Method) -> None:
        """Count a call that came in."""
        if method.scope != PUBLIC:
            self.n_open += 1
            self._n_seen += 1

    def end(self, method: Method, code: str, seconds: float) -> None:
        """Count a call that has ended."""
        if method.scope != PUBLIC:
            self.n_open -= 1
        self._telemetry.request(method.path, _STATUSES[code], seconds)


class _Told:
    """Counts a call, and how it ended."""

    def __init__(self, port: Port, method: Method) -> None:
        self._port, self._method = port, method
        self._begun = time.monotonic()
        self.code = "CANCELLED"

    def __enter__(self) -> None:
        self._port.begin(self._method)

    def __exit__(self, *_: object) -> None:
        self._port.end(self._method, self.code, time.monotonic() - self._begun)

    async def abort(self, context: Any, error: LubanError) -> None:
        """End a call with an error; it always raises."""
        import grpc

        self.code = codes(error).grpc
        await context.abort(grpc.StatusCode[self.code], str(error), trailing_metadata=details(error))


def details(error: LubanError) -> tuple[tuple[str, str | bytes], ...]:
    """Return what goes with an error's status: its kind and hint, and when to ask again (google.rpc.Status)."""
    import grpc
    from google.protobuf import any_pb2, duration_pb2
    from google.rpc import error_details_pb2, status_pb2

    later = getattr(error, "retry_after_s", None)
    facts = {"hint": error.hint} if error.hint else {}
    parts = [error_details_pb2.ErrorInfo(reason=type(error).__name__, domain="luban", metadata=facts)]
    metadata: list[tuple[str, str | bytes]] = []
    if later is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * later))
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
        metadata.append((_PUSHBACK, str(round(1000 * later))))
    packed = []
    for part in parts:
        packed.append(any_pb2.Any())
        packed[-1].Pack(part)
    code = grpc.StatusCode[codes(error).grpc].value[0]
    status = status_pb2.Status(code=code, message=error.message, details=packed)
    return (*metadata, (_DETAILS, status.SerializeToString()))


def _failed(method: Method, error: Exception) -> LubanError:
    """Return what to tell of an error, and log what the server is at fault for."""
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("no answer in time", hint="ask for fewer texts at once, or later")
    if isinstance(error, LubanError):
        if codes(error).http == 500:
            event("request.failed", logging.ERROR, route=method.path, problem=str(error))
        return error
    logging.getLogger("luban.serve").error("request.crashed", exc_info=error)
    return LubanError("something failed within the server", hint="its log says what")


def _parsed(method: Method, body: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return method.takes.FromString(body)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the message is no {method.takes.DESCRIPTOR.full_name}: {error}") from None


def _headers(context: Any) -> list[tuple[bytes, bytes]]:
    given: Sequence[tuple[str, str | bytes]] = context.invocation_metadata() or ()
    return [(name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
            for name, value in given]  # fmt: skip


async def _one(body: bytes) -> AsyncGenerator[bytes]:
    yield body
