"""gRPC's standard services: health, of the server and each model, and reflection, for tools that ask what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from luban.errors import NotFound, Overloaded
from luban.serve.protocols.asking import Asking, answers
from luban.serve.protocols.messages import pool
from luban.serve.routing import PUBLIC
from luban.serve.rpc import Call, Method

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_LOOK_S = 0.5
_MOST_WATCHES = 32
"""At once: whoever watches needs no key, and stays."""


class Probes:
    """What the methods do."""

    def __init__(self, asking: Asking, services: tuple[str, ...]) -> None:
        """Prepare it; `services` are the names of those that health and reflection know besides their own."""
        from grpc_health.v1 import health_pb2
        from grpc_reflection.v1alpha import reflection

        self._asking = asking
        self._services = services
        self._reflecting = reflection.ReflectionServicer((*services, HEALTH, REFLECTION[1]), pool=pool())
        self._messages: Any = health_pb2
        self._n_watches = 0

    def _status(self, service: str) -> Any:
        """Return how a service is: the server for an empty name, a service of it, or a model.

        Raises:
            NotFound: there is no such service.
        """
        statuses = self._messages.HealthCheckResponse
        ready = self._asking.ready()
        if service and service not in self._services:
            model = next((one for one in self._asking.hosting.models if one.name == service), None)
            if model is None:
                raise NotFound(f"no service and no model is called {service!r}")
            ready = answers(self._asking, model)
        return statuses.SERVING if ready else statuses.NOT_SERVING

    async def check(self, call: Call, request: Any) -> Any:
        """Tell how a service is."""
        return self._messages.HealthCheckResponse(status=self._status(request.service))

    async def watch(self, call: Call, requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """Tell how a service is, and again whenever that changes.

        Raises:
            Overloaded: too many watch already.
        """
        if self._n_watches >= _MOST_WATCHES:
            raise Overloaded(f"{_MOST_WATCHES} watch already", retry_after_s=10.0, hint="call Check now and then")
        response = self._messages.HealthCheckResponse
        told: Any = None
        self._n_watches += 1
        try:
            request = await anext(aiter(requests))
            while True:
                try:
                    status = self._status(request.service)
                except NotFound:
                    status = response.SERVICE_UNKNOWN
                if status != told:
                    yield response(status=status)
                    told = status
                await asyncio.sleep(_LOOK_S)
        finally:
            self._n_watches -= 1

    async def reflect(self, call: Call, requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """Tell which services and messages there are."""
        async for request in requests:
            for found in self._reflecting.ServerReflectionInfo(iter((request,)), None):
                yield found

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those of the services."""
        from grpc_reflection.v1alpha import reflection_pb2

        asked = self._messages.HealthCheckRequest
        return (
            Method(service=HEALTH, name="Check", scope=PUBLIC, answer=self.check, takes=asked),
            Method(service=HEALTH, name="Watch", scope=PUBLIC, answer=self.watch, takes=asked, streams="answers"),
            *(Method(service=one, name="ServerReflectionInfo", scope=PUBLIC, answer=self.reflect, streams="both",
                     takes=reflection_pb2.ServerReflectionRequest) for one in REFLECTION),
        )  # fmt: skip
