"""The places of a process: how many requests are inside at once, whatever surface they came by."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from luban.errors import Overloaded
from luban.serve.limits import Limits
from luban.serve.telemetry import Shed, Telemetry, event


class Places:
    """Lets requests in as long as there is a place, and counts those who are inside. For the event loop alone."""

    def __init__(self, limits: Limits, telemetry: Telemetry, name: str = "api") -> None:
        """Begin with all places free; `name` is for the log."""
        self._limits = limits
        self._telemetry = telemetry
        self._name = name
        self.n_inside = 0
        """Requests that ask a model."""
        self.n_explained = 0
        self.n_streams = 0
        self._n_shed = 0
        self._shed_told = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a request's place.

        Raises:
            Overloaded: there is none.
        """
        if self.n_inside >= self._limits.queue:
            raise self._full("queue", f"{self._limits.queue} requests are inside already", 1.0)
        self.n_inside += 1
        try:
            yield
        finally:
            self.n_inside -= 1

    @contextmanager
    def explanation(self) -> Iterator[None]:
        """Hold the place of a request that asks for an explanation: it takes none from those for answers.

        Raises:
            Overloaded: there is none.
        """
        most = self._limits.explanations
        if self.n_explained >= most:
            raise self._full("explanations", f"{most} explanations are under way already", 1.0)
        self.n_explained += 1
        try:
            yield
        finally:
            self.n_explained -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Hold a stream's place.

        Raises:
            Overloaded: there is none.
        """
        if self.n_streams >= self._limits.streams:
            raise self._full("streams", f"{self._limits.streams} streams are open already", 5.0)
        self.n_streams += 1
        try:
            yield
        finally:
            self.n_streams -= 1

    def _full(self, reason: Shed, message: str, retry_after_s: float) -> Overloaded:
        self._telemetry.shed(reason)
        self._n_shed += 1
        now = time.monotonic()
        if now - self._shed_told >= 1.0:  # a line a second says it; one a request would be an attack on the log
            event("requests.shed", logging.WARNING, n=self._n_shed, port=self._name)
            self._shed_told, self._n_shed = now, 0
        return Overloaded(message, retry_after_s=retry_after_s, hint="ask again later")
