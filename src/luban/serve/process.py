"""One serving process: event loop, batch threads, models, two ports, and its end."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from luban.bundle.runtimes import n_callers
from luban.errors import LubanError, ServeError
from luban.models.limits import cores
from luban.serve import surfaces
from luban.serve.access import Access, Open
from luban.serve.admit import Application
from luban.serve.batch import Batcher
from luban.serve.feedback import KEEP_DAYS, Feedback
from luban.serve.hosting import Hosting
from luban.serve.limits import Limits
from luban.serve.listener import Port, bind, keep
from luban.serve.places import Places
from luban.serve.protocols.asking import Asking
from luban.serve.rest import Rest
from luban.serve.rollouts import Rollouts
from luban.serve.rpc import Port as RpcPort
from luban.serve.sources import FromFolder, FromRegistry, Source
from luban.serve.telemetry import Telemetry, event, log_to_stderr
from luban.serve.unlocked import Unlocked, may_hold_keys

_SWITCH_S = 0.0005
"""Seconds after which a thread that computes in Python lets another: the event loop would wait 5 ms for a batch."""

_COLLECT = (10_000, 20, 20)
"""New objects from which on the collector looks at them, and how often each time older ones too."""


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
    grpc_port: int | None = None
    """None serves no gRPC; 0 takes any that is free."""
    embeddings: bool = False
    """Open bundles so that they give vectors too."""
    workers: int = 1
    threads: int = 0
    """Of each process; 0 shares the cores out."""
    memory_bytes: int = 0
    """Of the models that are open at once in a process, by their files; 0 is no limit."""
    graphs: str = ""
    """Folder in which graphs are kept ready for this machine, shared by all processes; empty keeps none."""
    poll_s: float = 1.0
    """Seconds between two looks for new versions."""
    cert: str = ""
    """File of the TLS certificate's chain; empty for plain HTTP."""
    key: str = ""
    """File of its key."""
    everybody: bool = False
    """Without keys, let everybody in though the address is not a loopback one."""
    limits: Limits = msgspec.field(default_factory=Limits)
    log_json: bool = True
    """Log a JSON line an event; else for a person at a terminal."""
    feedback_days: float = KEEP_DAYS
    """For how long feedback is kept; 0 for as long as it is not deleted."""
    feedback_raw: bool = False
    """Keep the texts of feedback with the personal data that is in them."""
    names_by: tuple[str, ...] = ()
    """Folders of bundles that tag names, by which those in feedback are masked, too."""
    log_share: float = 0.0
    """Of the requests that get a line in the log."""
    traces: str = ""
    """URL of an OpenTelemetry collector, such as `http://127.0.0.1:4318`; empty makes no traces."""
    trace_share: float = 1.0
    """Of the requests that are traced, where the caller has not decided it."""

    @property
    def n_threads(self) -> int:
        """Threads that a process may use."""
        return self.threads or max(1, cores() // self.workers)

    def source(self, name: str) -> Source:
        """Return where a model's versions come from."""
        given = self.models[name]
        return FromFolder(Path(given)) if given.startswith("/") else FromRegistry(self.registry, given)


def access(settings: Settings) -> Access:
    """Return what knows the keys: those of the registry; until one is made, everybody is let in.

    Raises:
        ServeError: nobody is kept out, and the address can be reached from elsewhere.
        RegistryError: the registry can't be read.
    """
    if settings.registry and may_hold_keys(settings.registry):
        from luban.serve import keyring

        if (ring := keyring.opened(settings.registry, n_processes=settings.workers)) is not None:
            return ring
    if not (settings.everybody or _is_loopback(settings.host)):
        raise ServeError(
            f"{settings.host} can be reached from elsewhere, and nobody would be kept out",
            hint="`luban keys create --name NAME --scopes predict`; or serve on 127.0.0.1, or say --everybody",
        )
    return Unlocked(settings.registry, n_processes=settings.workers) if settings.registry else Open()


def sockets(settings: Settings) -> list[socket.socket]:
    """Return the bound sockets of the ports: HTTP, admin, and, where it is wanted, one that keeps gRPC's port.

    Raises:
        ServeError: one can't be had.
    """
    found: list[socket.socket] = []
    wanted = [("--port", settings.host, settings.port, bind), ("--admin-port", "127.0.0.1", settings.admin_port, bind)]
    if settings.grpc_port is not None:
        wanted.append(("--grpc-port", settings.host, settings.grpc_port, keep))
    for what, host, port, take in wanted:
        try:
            found.append(take(host, port))
        except OSError as error:
            for one in found:
                one.close()
            raise ServeError(
                f"can't listen on {host}:{port}: {error.strerror or error}", hint=f"name another: {what} 0 takes any"
            ) from None
    return found


def told(
    settings: Settings, api: socket.socket, admin: socket.socket, rpc: socket.socket | None = None
) -> dict[str, Any]:
    """Return the addresses, for the log."""
    scheme = "https" if settings.cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    grpc = {"grpc": f"{host}:{rpc.getsockname()[1]}"} if rpc is not None else {}
    return {
        "url": f"{scheme}://{host}:{api.getsockname()[1]}", "admin": f"http://127.0.0.1:{admin.getsockname()[1]}",
        **grpc, "models": settings.models,
    }  # fmt: skip


def run(settings: Settings, bound: Sequence[socket.socket], parent: int | None = None) -> int:
    """Serve until told to stop, and return the exit code.

    Args:
        settings: what to serve.
        bound: the sockets that `sockets` returned.
        parent: descriptor of a pipe whose other end the parent holds: when that dies, this process stops, too.

    Raises:
        LubanError: a model can't be opened, or the settings can't be kept.
    """
    import uvloop

    sys.setswitchinterval(_SWITCH_S)
    # Batches run side by side already: a tokeniser's own threads would only take the cores from them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, bound, parent))


async def _serve(settings: Settings, bound: Sequence[socket.socket], parent: int | None) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    hurry = asyncio.Event()

    def stop() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def orphaned() -> None:
        assert parent is not None
        loop.remove_reader(parent)
        event("parent.died", logging.ERROR)
        stop()

    if parent is not None:
        loop.add_reader(parent, orphaned)
    limits, telemetry = settings.limits, _telemetry(settings)
    doorkeeper = access(settings)
    batcher = Batcher(
        runners=n_callers(settings.n_threads), most_tokens=limits.tokens, on_batch=telemetry.batch
    )  # fmt: skip
    hosting = Hosting(
        {name: settings.source(name) for name in settings.models}, batcher, telemetry, threads=settings.n_threads,
        memory_bytes=settings.memory_bytes, poll_s=settings.poll_s, vectors=settings.embeddings,
        graphs=Path(settings.graphs) if settings.graphs else None,
    )  # fmt: skip
    rollouts = Rollouts(hosting, batcher, telemetry, place=settings.registry, poll_s=settings.poll_s)
    places = Places(limits, telemetry)
    feedback = taken_by(settings, hosting, telemetry)
    asking = Asking(hosting, limits, telemetry, lambda: hosting.ready and not stopping.is_set(), feedback)
    rest = Rest(hosting, limits, telemetry, asking.ready, feedback)
    application = Application(surfaces.routes(rest, asking), doorkeeper, limits, telemetry, places)
    ports = [
        Port(application, limits, cert=settings.cert, key=settings.key),
        Port(Application(rest.admin_routes, Open(), limits, telemetry), limits),
    ]
    rpc = _rpc(settings, asking, doorkeeper, places)
    serving: list[Port | RpcPort] = [ports[0], *rpc]
    telemetry.watch(lambda: places.n_inside, lambda: ports[0].n_connections, lambda: batcher.n_waiting)
    telling = asyncio.create_task(_tell(telemetry))
    try:
        await ports[1].open(bound[1])
        opening = asyncio.create_task(hosting.start())
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait([opening, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            return 0
        await opening
        rollouts.start()
        _spare_the_collector()
        await ports[0].open(bound[0])
        for one in rpc:
            await one.open(_address(bound[2]))
        keyed = not isinstance(doorkeeper, Open | Unlocked)
        if not keyed and settings.log_json:
            event("no keys: whoever reaches this port may do everything", logging.WARNING)
        if settings.workers == 1 or settings.log_json:
            event("ready", **told(settings, *bound), keys=keyed)
        await waiting
        begun = time.monotonic()
        event("draining", inside=places.n_inside, connections=ports[0].n_connections)
        drain = asyncio.ensure_future(asyncio.gather(*(one.drain() for one in serving)))
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait((drain, hurried), return_when=asyncio.FIRST_COMPLETED)
        event("drained", seconds=round(time.monotonic() - begun, 3), left=sum(one.n_open for one in serving))
        for task in (drain, hurried):
            task.cancel()
        return 0
    finally:
        telling.cancel()
        for one in rpc:
            await one.close()
        for port in ports:
            await port.close()
        await feedback.close()
        await rollouts.close()
        await hosting.close()
        doorkeeper.close()
        await loop.run_in_executor(None, batcher.close)
        await loop.run_in_executor(None, telemetry.close)


def taken_by(settings: Settings, hosting: Hosting, telemetry: Telemetry) -> Feedback:
    """Return what takes feedback."""
    return Feedback(
        hosting, settings.limits, telemetry, place=settings.registry, raw=settings.feedback_raw,
        keep_days=settings.feedback_days, names_by=settings.names_by,
    )  # fmt: skip


def _spare_the_collector() -> None:
    """Let Python's collector of cycles look at what is new alone, and less often.

    All that was made until now stays. A look at it takes longer than many an answer, and requests leave few cycles:
    with the library's own thresholds a sixth of the event loop's time went there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


def _telemetry(settings: Settings) -> Telemetry:
    """Return what is told.

    Raises:
        MissingExtra: traces are wanted, and a package of the extra `otel` is not installed.
    """
    if not settings.traces:
        return Telemetry(log_share=settings.log_share)
    from luban.serve.tracing import Traces

    return Telemetry(log_share=settings.log_share, traces=Traces(settings.traces, settings.trace_share))


def _rpc(settings: Settings, asking: Asking, doorkeeper: Access, places: Places) -> list[RpcPort]:
    """Return the port of gRPC, where it is wanted.

    Raises:
        MissingExtra: a package of the extra `grpc` is not installed.
    """
    if settings.grpc_port is None:
        return []
    methods = surfaces.methods(asking)
    return [
        RpcPort(methods, doorkeeper, settings.limits, asking.telemetry, places, cert=settings.cert, key=settings.key)
    ]


def _address(kept: socket.socket) -> str:
    host, port = kept.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _tell(telemetry: Telemetry) -> None:
    while True:
        await asyncio.sleep(1.0)
        telemetry.tell()


def child() -> int:
    """Serve as one of several processes: the settings are stdin's first line, and the parent has bound the sockets."""
    given = json.loads(sys.stdin.readline())
    settings = msgspec.convert(given["settings"], Settings)
    log_to_stderr(settings.log_json)
    bound = [socket.socket(fileno=number) for number in given["sockets"]]
    try:
        return run(settings, bound, sys.stdin.fileno())
    except LubanError as error:
        event("failed", logging.ERROR, problem=error.message, hint=error.hint)
        return 78  # EX_CONFIG: to start it again would not help


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
