"""What a server tells of itself: a JSON line an event, and counts and times for Prometheus. Never a text.

Series do not grow with what callers send: routes, models and reasons are those of the server; of a version's labels and
a model's versions the first ones have series of their own, and the rest share one called `(other)`.

With several worker processes, the counts of all are added up by whichever is asked: they are kept in files of a folder
that the parent names in `PROMETHEUS_MULTIPROC_DIR` before prometheus_client is imported.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from luban.serve.asked import ASKED, Asked, request_id

if TYPE_CHECKING:
    from luban.records import Prediction
    from luban.serve.batch import Batch
    from luban.serve.hosting import Answer, Served
    from luban.serve.tracing import Traces

Shed = Literal["queue", "explanations", "streams", "rate", "pace", "late"]
"""Why a request was turned away: all places are taken, those for explanations or for streams are, the caller's rate is
used up, by the measured pace its deadline could not be kept, or it was not kept."""

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_MOST_LABELS = 200
"""Labels of a version that have a series of their own."""
_MOST_VERSIONS = 50
"""Versions of a model, in the life of a process."""
OTHER = "(other)"
_OUTCOMES = {
    "champion": ("answered", "failed", "slow"),
    "challenger": ("answered", "failed", "slow", "agreed", "disagreed", "dropped"),
}
_SAID = {True: "wrong", False: "right", None: "label"}
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


class Spoken(logging.Formatter):
    """For a person at a terminal: where the server is and what it serves in a few lines, then a short line an event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        facts: dict[str, Any] = getattr(record, "facts", {})
        if record.getMessage() in ("ready", "serving") and "url" in facts:
            told = _banner(facts)
        else:
            at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
            level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
            some = "  ".join(f"{name}={value}" for name, value in facts.items())
            told = f"{at}  {level}{record.getMessage()}  {some}".rstrip()
        return f"{told}\n{self.formatException(record.exc_info)}" if record.exc_info else told


def _banner(facts: Mapping[str, Any]) -> str:
    models = [f"{name}: {source}" if source != name else name for name, source in facts.get("models", {}).items()]
    keys = "every request needs one" if facts.get("keys") else "none: whoever reaches this port may do everything"
    told = {
        "models": "\n            ".join(models), "ask": f"{facts['url']}/v1/models/NAME/predict",
        "docs": f"{facts['url']}/docs", "grpc": facts.get("grpc", ""),
        "metrics": f"{facts['admin']}/metrics" if "admin" in facts else "",
        "keys": keys,
    }  # fmt: skip
    lines = [f"  {name:<10}{value}" for name, value in told.items() if value]
    return "\n".join([f"Luban serves at {facts['url']}", *lines, "Ctrl-C stops it when those inside are answered."])


def log_to_stderr(as_json: bool = True) -> None:
    """Write every event, and every warning of the libraries beneath, to stderr.

    Args:
        as_json: a JSON line each; else for a person to read.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if as_json else Spoken())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("luban").setLevel(logging.INFO)


class Telemetry:
    """The numbers of one process. Event loop and batch threads may tell it things at once."""

    def __init__(self, *, log_share: float = 0.0, traces: Traces | None = None) -> None:
        """Begin.

        Args:
            log_share: of the requests that get a line in the log; those that fail within the server all do, if any do.
            traces: takes spans of requests; None makes none.
        """
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._several = bool(os.environ.get(MULTIPROCESS))
        of: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("luban_requests", "Requests.", ("route", "status"), **of)
        self._latency = Histogram(
            "luban_request_seconds", "From the headers to the answer's last byte.", ("route",), buckets=_SECONDS, **of
        )
        self._shed = Counter("luban_shed", "Requests that were turned away, or answered too late.", ("reason",), **of)
        for reason in ("queue", "streams", "rate", "pace", "late"):
            self._shed.labels(reason)  # a rate can be told only from a series that began at nothing
        self._answered = Counter("luban_answered", "Requests that a version answered.", ("model", "version"), **of)
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
        self._waiting = Gauge(
            "luban_requests_waiting", "Requests that wait for a batch.", multiprocess_mode="livesum", **of
        )
        self._connections = Gauge("luban_connections", "Open connections.", multiprocess_mode="livesum", **of)
        trial = ("model", "version", "arm")
        self._trial = Counter("luban_trial_outcomes", "What came of requests in a trial.", (*trial, "outcome"), **of)
        self._trial_time = Histogram(
            "luban_trial_seconds", "Of batches with requests in a trial.", trial, buckets=_SECONDS, **of
        )
        self._trials_ended = Counter("luban_trials_ended", "Trials that ended here.", ("model", "state"), **of)
        self._feedback = Counter("luban_feedback", "What callers said of answers.", ("model", "said"), **of)
        self._log_share = log_share
        self._traces = traces
        self.marks = bool(log_share) or traces is not None
        """Answers carry the request's id, by which it is found in logs and traces."""
        self._counted: dict[tuple[str, ...], set[str]] = {}
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

    def _among(self, value: str, of: tuple[str, ...], most: int) -> str:
        """Return a value as it is, or `(other)` where there are too many already."""
        known = self._counted.setdefault(of, set())
        if value in known:
            return value
        if len(known) >= most:
            return OTHER
        known.add(value)
        return value

    def version(self, served: Served) -> str:
        """Return how a version is called in metrics, logs and traces: its number, or the beginning of its digest."""
        return self._among(str(served.number or served.digest[:12]), (served.name,), _MOST_VERSIONS)

    def watch(
        self, inside: Callable[[], int], connections: Callable[[], int], waiting: Callable[[], int] = lambda: 0
    ) -> None:
        """Let gauges ask for their numbers when they are read; several processes tell theirs by `tell`."""
        self._now = ((self._inside, inside), (self._connections, connections), (self._waiting, waiting))
        if not self._several:
            for gauge, function in self._now:
                gauge.set_function(function)

    def tell(self) -> None:
        """Write down the gauges of this process, for the others."""
        if self._several:
            for gauge, function in self._now:
                gauge.set(function())

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request, and tell of it where that is wanted."""
        self._child(self._requests, route, str(status)).inc()
        self._child(self._latency, route).observe(seconds)
        if self.marks and (asked := ASKED.get()) is not None:
            self._tell_of(asked, route, status, seconds)

    def _tell_of(self, asked: Asked, route: str, status: int, seconds: float) -> None:
        trace = self._traces.end(asked, route, status, seconds) if self._traces is not None else ""
        if not self._log_share or (status < 500 and random.random() >= self._log_share):
            return
        facts: dict[str, Any] = {"request": request_id(asked), "route": route, "status": status,
                                 "ms": round(1000 * seconds, 3)}  # fmt: skip
        if trace:
            facts["trace_id"] = trace
        if asked.principal is not None:
            facts["caller"] = asked.principal.name
        if asked.answered:
            facts |= {
                "model": asked.model, "version": asked.version, "rows": asked.n_rows, "tokens": asked.n_tokens,
                "waited_ms": round(1000 * asked.waited_s, 3), "ran_ms": round(1000 * asked.ran_s, 3),
                "batch_rows": asked.batch_rows,
            }  # fmt: skip
        event("request", logging.ERROR if status >= 500 else logging.INFO, **facts)

    def shed(self, reason: Shed) -> None:
        """Count a request that was turned away."""
        self._child(self._shed, reason).inc()

    def batch(self, batch: Batch) -> None:
        """Count a batch."""
        self._child(self._batch, batch.name).observe(batch.rows)
        self._child(self._run, batch.name).observe(batch.seconds)

    def answered(self, answer: Answer) -> None:
        """Count answers, by version and label."""
        served = answer.served
        version = self.version(served)
        if (asked := ASKED.get()) is not None:
            asked.took(answer, version)
        self._child(self._answered, served.name, version).inc()
        self._child(self._wait, served.name).observe(answer.answered.waited_s)
        self._child(self._tokens, served.name, version).inc(answer.answered.n_tokens)
        of = (served.name, version)
        for label in _labels(answer.predictions):
            self._child(self._labels, *of, self._among(label, of, _MOST_LABELS)).inc()

    def trial(self, challenger: Served, arm: str, outcome: str, seconds: float | None = None) -> None:
        """Count what came of a request in a trial: `answered`, `failed`, `slow`, `agreed`, `disagreed`, `dropped`."""
        of = (challenger.name, self.version(challenger), arm)
        self._child(self._trial, *of, outcome).inc()
        if seconds is not None:
            self._child(self._trial_time, *of).observe(seconds)

    def trial_began(self, challenger: Served) -> None:
        """Begin the series of a trial: a rate is told only of a series that was there before."""
        for state in ("rolled_back", "stopped", "passed", "promoted"):
            self._child(self._trials_ended, challenger.name, state)
        of = (challenger.name, self.version(challenger))
        for arm, outcomes in _OUTCOMES.items():
            for outcome in outcomes:
                self._child(self._trial, *of, arm, outcome)

    def trial_ended(self, model: str, state: str) -> None:
        """Count a trial that ended."""
        self._child(self._trials_ended, model, state).inc()

    def feedback(self, model: str, wrong: Sequence[bool | None]) -> None:
        """Count what callers said of answers: `right`, `wrong`, or `label` where no answer was named."""
        for one in wrong:
            self._child(self._feedback, model, _SAID[one]).inc()

    def embedded(self, answer: Answer) -> None:
        """Count vectors, by version."""
        version = str(answer.served.number or answer.served.digest[:12])
        self._child(self._wait, answer.served.name).observe(answer.answered.waited_s)
        self._child(self._tokens, answer.served.name, version).inc(answer.answered.n_tokens)

    def explained(self, answer: Answer) -> None:
        """Count what a part of an explanation took, by version. How long it waited says nothing of those in a hurry."""
        version = self.version(answer.served)
        if (asked := ASKED.get()) is not None:
            asked.took(answer, version)
        self._child(self._tokens, answer.served.name, version).inc(answer.answered.n_tokens)

    def opened(self, served: Served, seconds: float) -> None:
        """Count a version that was opened."""
        self._opened.labels(served.name).inc()
        self._trouble.labels(served.name)
        self._opening.labels(served.name, self.version(served)).set(seconds)

    def trouble(self, model: str) -> None:
        """Count a version that was not."""
        self._trouble.labels(model).inc()

    def close(self) -> None:
        """Send off the spans that are still here."""
        if self._traces is not None:
            self._traces.close()

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
