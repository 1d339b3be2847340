"""What a server tells of itself: a JSON line an event, and counts and times for Prometheus. Never a text.

With several worker processes, the counts of all are added up by whichever is asked: they are kept in files of a folder
that the parent names in `PROMETHEUS_MULTIPROC_DIR` before prometheus_client is imported.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.records import Prediction
    from luban.serve.batch import Batch
    from luban.serve.hosting import Answer, Served

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_log = logging.getLogger("luban.serve")


def event(name: str, level: int = logging.INFO, **facts: Any) -> None:
    """Log that something happened, with facts that are JSON values."""
    _log.log(level, name, extra={"facts": facts})


class Lines(logging.Formatter):
    """One JSON object a line: `at`, `level`, `event`, and what belongs to the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), "process": record.process}
        told |= getattr(record, "facts", {})
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def log_to_stderr() -> None:
    """Write every event, and every warning of the libraries beneath, as a line on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("luban").setLevel(logging.INFO)


class Telemetry:
    """The numbers of one process. Event loop and batch threads may tell it things at once."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._several = bool(os.environ.get(MULTIPROCESS))
        of: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("luban_requests", "Requests.", ("route", "status"), **of)
        self._latency = Histogram(
            "luban_request_seconds", "From the headers to the answer's last byte.", ("route",), buckets=_SECONDS, **of
        )
        self._shed = Counter("luban_shed", "Requests that were turned away before their body was read.", **of)
        self._wait = Histogram("luban_wait_seconds", "Until a batch was taken.", ("model",), buckets=_SECONDS, **of)
        self._batch = Histogram("luban_batch_rows", "Rows of a batch.", ("model",), buckets=_ROWS, **of)
        self._run = Histogram("luban_batch_seconds", "Of a batch.", ("model",), buckets=_SECONDS, **of)
        self._tokens = Counter("luban_tokens", "Tokens, without padding.", ("model", "version"), **of)
        self._labels = Counter("luban_predictions", "Answers.", ("model", "version", "label"), **of)
        self._opened = Counter("luban_versions_opened", "Versions that were opened.", ("model",), **of)
        self._opening = Gauge(
            "luban_open_seconds", "What opening it took.", ("model", "version"), multiprocess_mode="mostrecent", **of
        )
        self._trouble = Counter("luban_versions_refused", "Versions that could not be opened.", ("model",), **of)
        self._inside = Gauge("luban_requests_inside", "Requests inside.", multiprocess_mode="livesum", **of)
        self._connections = Gauge("luban_connections", "Open connections.", multiprocess_mode="livesum", **of)
        self._known: dict[tuple[Any, ...], Any] = {}
        self._making = threading.Lock()

    def _child(self, metric: Any, *labels: str) -> Any:
        """Return a metric's part for these labels; to ask the library each time would take ten times as long."""
        key = (metric, *labels)
        found = self._known.get(key)
        if found is None:
            with self._making:
                found = self._known[key] = metric.labels(*labels)
        return found

    def watch(self, inside: Callable[[], int], connections: Callable[[], int]) -> None:
        """Let two gauges ask for their numbers when they are read; several processes tell theirs by `tell`."""
        self._now = inside, connections
        if not self._several:
            self._inside.set_function(inside)
            self._connections.set_function(connections)

    def tell(self) -> None:
        """Write down the gauges of this process, for the others."""
        if self._several:
            self._inside.set(self._now[0]())
            self._connections.set(self._now[1]())

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._child(self._requests, route, str(status)).inc()
        self._child(self._latency, route).observe(seconds)

    def shed(self) -> None:
        """Count a request that was turned away."""
        self._shed.inc()

    def batch(self, batch: Batch) -> None:
        """Count a batch."""
        self._child(self._batch, batch.name).observe(batch.rows)
        self._child(self._run, batch.name).observe(batch.seconds)

    def answered(self, answer: Answer) -> None:
        """Count answers, by version and label."""
        served = answer.served
        version = str(served.number or served.digest[:12])
        self._child(self._wait, served.name).observe(answer.answered.waited_s)
        self._child(self._tokens, served.name, version).inc(answer.answered.n_tokens)
        for label in _labels(answer.predictions):
            self._child(self._labels, served.name, version, label).inc()

    def embedded(self, answer: Answer) -> None:
        """Count vectors, by version."""
        version = str(answer.served.number or answer.served.digest[:12])
        self._child(self._wait, answer.served.name).observe(answer.answered.waited_s)
        self._child(self._tokens, answer.served.name, version).inc(answer.answered.n_tokens)

    def opened(self, served: Served, seconds: float) -> None:
        """Count a version that was opened."""
        self._opened.labels(served.name).inc()
        self._opening.labels(served.name, str(served.number or served.digest[:12])).set(seconds)

    def trouble(self, model: str) -> None:
        """Count a version that was not."""
        self._trouble.labels(model).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess

        if not self._several:
            return generate_latest(self._registry)
        self.tell()
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _labels(predictions: Sequence[Prediction]) -> list[str]:
    """Return every label that was given: `(none)` where a text has none."""
    found: list[str] = []
    for one in predictions:
        if one.scores:
            found += one.labels or ("(none)",)
        else:
            found += [span.label for span in one.spans] or ["(none)"]
    return found
