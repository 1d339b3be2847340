"""HTTP on a socket: uvicorn's protocol on httptools and uvloop, with limits that it lacks, and a drain without losses.

Chosen by measurement (`bench/http_server.py`): of uvicorn, granian and hypercorn it takes least of the processor for a
request. What it lacks is small, and here: a time for the headers and for a body that nobody reads any more, a most of
bytes before the body, a most of connections, and a way to stop.
"""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from luban.serve.admit import BUSY, Application
from luban.serve.limits import Limits

_QUIET_S = 0.5
"""Without a request for so long, a server that is to stop takes it that nobody sends any more."""
_LINGER_S = 3.0
"""For so long at most it still takes connections, until those who send requests here have heard that it stops."""
_TICK_S = 0.05
_BREATH_S = 0.1
"""For so long the next request of a connection is not read, after one for which there was no place: those who ask again
at once would take more of the server than the answers that it gives."""


class _Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, config: Config, server_state: ServerState, loop: Any, limits: Limits) -> None:
        super().__init__(config, server_state, {}, loop)
        self._limits = limits
        self._timer: Any = None
        self._breathing: Any = None
        self._head_bytes = 0
        """Of a request whose head is not whole; -1 where it is."""
        self._whole = True
        """The request that came last has come to its end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "too many connections")
        else:
            self._wait(self._limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(0)
        if self._breathing is not None:
            self._breathing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            most = self._limits.header_bytes
            self._head_bytes += len(data)
            # Looked at before it is parsed: a great many headers take long. With its end near, the rest is a body.
            if self._head_bytes > most and b"\r\n\r\n" not in data[:most]:
                self._refuse(431, f"the request's head has more than {most} bytes")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._whole = 0, False
        self._wait(self._limits.header_s)

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        self._wait(0)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes, self._whole = 0, True
        self._wait(0)

    def on_response_complete(self) -> None:
        busy = self.cycle is not None and BUSY in self.cycle.scope
        super().on_response_complete()
        if busy and not self.transport.is_closing():
            self.flow.pause_reading()
            if self._breathing is not None:  # of a request before this one, that was sent along with it
                self._breathing.cancel()
            self._breathing = self.loop.call_later(_BREATH_S, self.flow.resume_reading)
        if not self._whole:  # answered before its body has come, which nobody reads: it may not come for ever
            self._wait(self._limits.body_s)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _wait(self, seconds: float) -> None:
        """Close the connection after so long, or, with 0, not."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._give_up) if seconds else None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()
            else:
                self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        body = msgspec.json.encode({"type": "about:blank", "title": "BadRequest", "status": status, "detail": detail})
        head = b"content-type: application/problem+json\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: "
        self.transport.write(b"%s%s%d\r\n\r\n%s" % (STATUS_LINE[status], head, len(body), body))
        self.transport.close()


class Port:
    """A socket on which an application answers."""

    def __init__(self, application: Application, limits: Limits, *, cert: str = "", key: str = "") -> None:
        """Prepare it.

        Args:
            application: answers.
            limits: of connections and their times.
            cert: file of the certificate's chain, PEM; without it there is no TLS.
            key: file of its key.
        """
        self.application = application
        self._limits = limits
        self._config = Config(
            application, loop="none", http=_Connection, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=int(limits.keep_alive_s),
            ssl_certfile=cert or None, ssl_keyfile=key or None,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self._server: asyncio.AbstractServer | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def n_connections(self) -> int:
        """Connections that are open."""
        return len(self._state.connections)

    @property
    def n_open(self) -> int:
        """Requests that have no answer yet."""
        return self.application.n_open

    async def open(self, listening: socket.socket) -> None:
        """Answer on a socket that is bound."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._config, self._state, loop, self._limits), sock=listening, ssl=self._config.ssl,
            backlog=self._limits.connections,
        )  # fmt: skip
        self._date()
        self._ticking = asyncio.create_task(self._tick())

    async def drain(self) -> None:
        """Answer those who are here, tell each to come back elsewhere, and close.

        For some seconds all are answered, on connections that are there and on new ones, and each answer closes its
        connection. Whoever comes still after that is told that the server stops. It ends as soon as nobody sends
        anything any more, so that no request lies unread in a connection that is closed.
        """
        end = time.monotonic() + self._limits.drain_s
        self.application.draining = True
        if not await self._quiet(min(_LINGER_S, self._limits.drain_s / 2)):
            self.application.closed = True
            await self._quiet(min(_LINGER_S, self._limits.drain_s / 4))
        if self._server is not None:
            self._server.close()
        self.application.closed = True
        while self.application.n_open and time.monotonic() < end:
            await asyncio.sleep(_TICK_S)

    async def _quiet(self, seconds: float) -> bool:
        """Wait until nobody sends anything, for so long at most, and tell whether it came to that."""
        begun = quiet_since = time.monotonic()
        n_seen = self._state.total_requests
        while (now := time.monotonic()) < begun + seconds:
            if self.application.n_open or self._state.total_requests != n_seen:
                n_seen, quiet_since = self._state.total_requests, now
            elif now - quiet_since >= _QUIET_S or not self.n_connections:
                return True
            await asyncio.sleep(_TICK_S)
        return False

    async def close(self) -> None:
        """Close every connection."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        for task in list(self._state.tasks):
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=1.0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._date()

    def _date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any that is free.

    Raises:
        OSError: the port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(512)
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    listening.set_inheritable(True)
    return listening


def keep(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port, without listening, for what opens it by its number; 0 is any that is free.

    Raises:
        OSError: the port is taken, or the host is not this machine's.
    """
    bind(host, port).close()  # two servers that both share a port would take each other's requests
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind((host, port))
    except BaseException:
        kept.close()
        raise
    kept.set_inheritable(True)
    return kept
