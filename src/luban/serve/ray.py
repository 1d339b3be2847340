"""The same server on Ray: replicas on one machine or many, more of them under load and fewer without.

A replica is one process with the engine, its batching, its limits and its routes, as `luban serve` has them without
Ray. Ray Serve brings the HTTP proxy, the sharing out, and the number of replicas; its own batching is not used, since
it waits for company and knows nothing of lengths. What the listener of `luban serve` does against slow clients, and its
admin port, are not there: Ray's proxy holds the connections, and Ray's metrics count requests.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.bundle.runtimes import n_callers
from luban.errors import LubanError, MissingExtra, ServeError, install
from luban.serve import surfaces
from luban.serve.admit import Application
from luban.serve.batch import Batcher
from luban.serve.hosting import Hosting
from luban.serve.process import access, taken_by
from luban.serve.protocols.asking import Asking
from luban.serve.rest import Rest
from luban.serve.telemetry import Telemetry, event, log_to_stderr

if TYPE_CHECKING:
    from luban.serve.process import Settings

APPLICATION = "luban"
"""What it is called among a cluster's applications."""
_AHEAD = 4
"""How many times its queue a replica is sent: it tells the rest itself, at once, when to come again."""
_STORE_BYTES = 100 << 20
"""For Ray's shared objects, of which there are none; it takes 30% of the memory else."""
_START_S = 300.0
_SWITCH_S = 0.0005
"""As in `luban.serve.process`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How many replicas there are, and when."""

    least: int = 1
    most: int = 4
    target: float = 8.0
    """Requests that a replica should have inside: with more there will be more replicas, with fewer fewer."""
    up_s: float = 3.0
    """Seconds for which there must have been more."""
    down_s: float = 60.0
    """Seconds for which there must have been fewer."""


class Replica:
    """One replica's models and routes, as an ASGI application that opens and closes them by its lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = False
        self._application: Application | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer a request; or open the models, and close them at the end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._application is not None
        await self._application(scope, receive, send)

    async def _live(self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        settings, telemetry = self._settings, Telemetry()
        sys.setswitchinterval(_SWITCH_S)
        doorkeeper = access(settings)
        batcher = Batcher(
            runners=n_callers(settings.n_threads), most_tokens=settings.limits.tokens, on_batch=telemetry.batch
        )
        hosting = Hosting(
            {name: settings.source(name) for name in settings.models}, batcher, telemetry,
            threads=settings.n_threads, memory_bytes=settings.memory_bytes, poll_s=settings.poll_s,
            vectors=settings.embeddings, graphs=Path(settings.graphs) if settings.graphs else None,
        )  # fmt: skip
        await receive()
        try:
            await hosting.start()
        except LubanError as error:
            event("failed", 40, problem=error.message, hint=error.hint)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        feedback = taken_by(settings, hosting, telemetry)
        asking = Asking(hosting, settings.limits, telemetry, lambda: hosting.ready and not self._stopping, feedback)
        rest = Rest(hosting, settings.limits, telemetry, asking.ready, feedback)
        self._application = Application(surfaces.routes(rest, asking), doorkeeper, settings.limits, telemetry)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._stopping = True
        await feedback.close()
        await hosting.close()
        doorkeeper.close()
        batcher.close()
        await send({"type": "lifespan.shutdown.complete"})


def run(settings: Settings, scaling: Scaling | None = None) -> int:
    """Serve on Ray until told to stop, and return the exit code.

    The cluster is the one that RAY_ADDRESS names, where bundles and registry must be found at the same places; without
    it one is started on this machine, for as long as this lasts.

    Args:
        settings: what to serve; `workers` and `admin_port` mean nothing here.
        scaling: how many replicas.

    Raises:
        MissingExtra: Ray is not installed.
        ServeError: nobody would be kept out, or the replicas do not start.
    """
    scaling = scaling or Scaling()
    access(settings).close()
    ray, serve = imported()
    own_cluster = not os.environ.get("RAY_ADDRESS")
    started = {"include_dashboard": False, "object_store_memory": _STORE_BYTES} if own_cluster else {}
    ray.init(logging_level="warning", **started)
    stopping = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stopping.set())
    try:
        _start(ray, serve, settings, scaling)
        event("ready", url=f"http{'s' if settings.cert else ''}://{settings.host}:{settings.port}", **_told(scaling))
        stopping.wait()
        event("draining")
        serve.delete(APPLICATION)  # its replicas answer whoever is inside; only then the proxies may go
        event("drained")
        return 0
    finally:
        if own_cluster:
            serve.shutdown()
        ray.shutdown()


def _start(ray: Any, serve: Any, settings: Settings, scaling: Scaling) -> None:
    """Start the proxies and the replicas, and wait until they answer.

    Raises:
        ServeError: they do not.
    """
    options = {
        "host": settings.host, "port": settings.port, "keep_alive_timeout_s": int(settings.limits.keep_alive_s),
        "ssl_certfile": settings.cert or None, "ssl_keyfile": settings.key or None,
    }  # fmt: skip
    try:
        _patiently(serve.start, proxy_location="EveryNode", http_options=options)
        _patiently(serve.run, application(settings, scaling), name=APPLICATION, route_prefix="/")
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        raise ServeError(
            f"Ray does not start what serves: {_last_line(error)}",
            hint=f"look at the lines above, and whether {settings.host}:{settings.port} is free",
        ) from error


def _patiently(begin: Callable[..., Any], *given: Any, **named: Any) -> None:
    """Call what waits a minute for processes to come up, and wait on where a busy machine takes longer.

    Raises:
        TimeoutError: they did not come in `_START_S`.
    """
    until = time.monotonic() + _START_S
    while True:
        try:
            begin(*given, **named)
            return
        except TimeoutError:
            if time.monotonic() > until:
                raise


def application(settings: Settings, scaling: Scaling) -> Any:
    """Return the Ray Serve application, for `serve.run` or a `serve build` file of one's own.

    Raises:
        MissingExtra: Ray is not installed.
    """
    _, serve = imported()

    def build() -> Replica:
        log_to_stderr()
        return Replica(settings)

    deployment = serve.deployment(
        name=APPLICATION,
        ray_actor_options={"num_cpus": settings.n_threads},
        max_ongoing_requests=_AHEAD * settings.limits.queue,
        graceful_shutdown_timeout_s=settings.limits.drain_s,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config={"enable_access_log": False},
        autoscaling_config={
            "min_replicas": scaling.least, "max_replicas": scaling.most, "initial_replicas": scaling.least,
            "target_ongoing_requests": scaling.target, "upscale_delay_s": scaling.up_s,
            "downscale_delay_s": scaling.down_s, "look_back_period_s": max(1.0, scaling.up_s),
            "metrics_interval_s": min(1.0, scaling.up_s),
        },
    )  # fmt: skip
    return deployment(serve.ingress(build)(type("Luban", (), {}))).bind()


def imported() -> tuple[Any, Any]:
    """Import Ray and Ray Serve, which then tell nobody of their use.

    Raises:
        MissingExtra: they are not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray gives a proxy 5 s to import what it needs, and begins again where a busy machine takes longer.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingExtra(f"--ray needs the package ray[serve]: {error}", hint=install("ray")) from error
    return ray, serve


def _told(scaling: Scaling) -> dict[str, Any]:
    return {"replicas": [scaling.least, scaling.most], "target": scaling.target}


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
