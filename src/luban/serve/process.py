"""One serving process: event loop, batch threads, models, two ports, and its end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from luban.bundle.engine import n_callers
from luban.errors import LubanError, ServeError
from luban.models.limits import cores
from luban.serve import keyring
from luban.serve.access import Access, Open
from luban.serve.admit import Application
from luban.serve.batch import Batcher
from luban.serve.hosting import Hosting
from luban.serve.limits import Limits
from luban.serve.listener import Port, bind
from luban.serve.rest import Rest
from luban.serve.sources import FromFolder, FromRegistry, Source
from luban.serve.telemetry import Telemetry, event, log_to_stderr

_SWITCH_S = 0.0005
"""Seconds after which a thread that computes in Python lets another: the event loop would wait 5 ms for a batch."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve, and where."""

    models: dict[str, str]
    """Name here -> `NAME@ALIAS` or `NAME@NUMBER` of the registry, or an absolute folder."""
    registry: str = ""
    """The registry: a folder or a URL."""
    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes any that is free."""
    admin_port: int = 9464
    """On the loopback address alone; 0 takes any that is free."""
    workers: int = 1
    threads: int = 0
    """Of each process; 0 shares the cores out."""
    memory_bytes: int = 0
    """Of the models that are open at once in a process, by their files; 0 is no limit."""
    poll_s: float = 1.0
    """Seconds between two looks for new versions."""
    cert: str = ""
    """File of the TLS certificate's chain; empty for plain HTTP."""
    key: str = ""
    """File of its key."""
    everybody: bool = False
    """Without keys, let everybody in though the address is not a loopback one."""
    limits: Limits = msgspec.field(default_factory=Limits)

    @property
    def n_threads(self) -> int:
        """Threads that a process may use."""
        return self.threads or max(1, cores() // self.workers)

    def source(self, name: str) -> Source:
        """Return where a model's versions come from."""
        given = self.models[name]
        return FromFolder(Path(given)) if given.startswith("/") else FromRegistry(self.registry, given)


def access(settings: Settings) -> Access:
    """Return what knows the keys: those of the registry, or where none was ever made, nothing.

    Raises:
        ServeError: nobody is kept out, and the address can be reached from elsewhere.
        RegistryError: the registry can't be read.
    """
    ring = keyring.opened(settings.registry, n_processes=settings.workers) if settings.registry else None
    if ring is not None:
        return ring
    if not (settings.everybody or _is_loopback(settings.host)):
        raise ServeError(
            f"{settings.host} can be reached from elsewhere, and nobody would be kept out",
            hint="`luban keys create --name NAME --scopes predict`; or serve on 127.0.0.1, or say --everybody",
        )
    return Open()


def sockets(settings: Settings) -> tuple[socket.socket, socket.socket]:
    """Return the bound sockets of both ports.

    Raises:
        ServeError: one can't be had.
    """
    found: list[socket.socket] = []
    for what, host, port in (
        ("--port", settings.host, settings.port),
        ("--admin-port", "127.0.0.1", settings.admin_port),
    ):
        try:
            found.append(bind(host, port))
        except OSError as error:
            for one in found:
                one.close()
            raise ServeError(
                f"can't listen on {host}:{port}: {error.strerror or error}", hint=f"name another: {what} 0 takes any"
            ) from None
    return found[0], found[1]


def told(settings: Settings, api: socket.socket, admin: socket.socket) -> dict[str, Any]:
    """Return the addresses, for the log."""
    scheme = "https" if settings.cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "url": f"{scheme}://{host}:{api.getsockname()[1]}", "admin": f"http://127.0.0.1:{admin.getsockname()[1]}",
        "models": settings.models,
    }  # fmt: skip


def run(settings: Settings, api: socket.socket, admin: socket.socket) -> int:
    """Serve until told to stop, and return the exit code.

    Raises:
        LubanError: a model can't be opened, or the settings can't be kept.
    """
    import uvloop

    sys.setswitchinterval(_SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, api, admin))


async def _serve(settings: Settings, api: socket.socket, admin: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    hurry = asyncio.Event()

    def stop() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop)
    limits, telemetry = settings.limits, Telemetry()
    doorkeeper = access(settings)
    batcher = Batcher(
        runners=n_callers(settings.n_threads), most_tokens=limits.tokens, on_batch=telemetry.batch
    )  # fmt: skip
    hosting = Hosting(
        {name: settings.source(name) for name in settings.models}, batcher, telemetry, threads=settings.n_threads,
        memory_bytes=settings.memory_bytes, poll_s=settings.poll_s,
    )  # fmt: skip
    rest = Rest(hosting, limits, telemetry, lambda: hosting.ready and not stopping.is_set())
    application = Application(rest.routes, doorkeeper, limits, telemetry)
    ports = [
        Port(application, limits, cert=settings.cert, key=settings.key),
        Port(Application(rest.admin_routes, Open(), limits, telemetry, "admin"), limits),
    ]
    telemetry.watch(lambda: application.n_inside, lambda: ports[0].n_connections)
    telling = asyncio.create_task(_tell(telemetry))
    try:
        await ports[1].open(admin)
        opening = asyncio.create_task(hosting.start())
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait([opening, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            return 0
        await opening
        await ports[0].open(api)
        if isinstance(doorkeeper, Open):
            event("no keys: whoever reaches this port may do everything", logging.WARNING)
        event("ready", **told(settings, api, admin))
        await waiting
        begun = time.monotonic()
        event("draining", inside=application.n_open, connections=ports[0].n_connections)
        drain, hurried = asyncio.create_task(ports[0].drain()), asyncio.create_task(hurry.wait())
        await asyncio.wait([drain, hurried], return_when=asyncio.FIRST_COMPLETED)
        event("drained", seconds=round(time.monotonic() - begun, 3), left=application.n_open)
        for task in (drain, hurried):
            task.cancel()
        return 0
    finally:
        telling.cancel()
        for port in ports:
            await port.close()
        await hosting.close()
        doorkeeper.close()
        await loop.run_in_executor(None, batcher.close)


async def _tell(telemetry: Telemetry) -> None:
    while True:
        await asyncio.sleep(1.0)
        telemetry.tell()


def child() -> int:
    """Serve as one of several processes: the settings come on stdin, and the parent has bound the sockets."""
    log_to_stderr()
    given = json.load(sys.stdin)
    settings = msgspec.convert(given["settings"], Settings)
    api, admin = (socket.socket(fileno=number) for number in given["sockets"])
    try:
        return run(settings, api, admin)
    except LubanError as error:
        event("failed", logging.ERROR, problem=error.message, hint=error.hint)
        return 78  # EX_CONFIG: to start it again would not help


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
