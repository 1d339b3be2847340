"""Traces of requests by OpenTelemetry, sent to a collector over OTLP.

A request's spans are made when it has been answered, out of moments that were noted on the way: until then tracing
costs nothing, and without `--traces` this is not even imported. Who sent `traceparent` (W3C Trace Context) gets its
own trace continued, and its own decision kept whether to record it.
"""

from __future__ import annotations

import time
from typing import Any

from luban.errors import BadRequest, MissingExtra, install
from luban.serve.asked import Asked, request_id

_PATH = "/v1/traces"


class Traces:
    """Makes spans, and sends them off from a thread of its own."""

    def __init__(self, collector: str, share: float = 1.0) -> None:
        """Begin.

        Args:
            collector: URL of a collector that takes OTLP over HTTP; `/v1/traces` is added where no path is named.
            share: of the requests to record, where the caller has not decided it.

        Raises:
            MissingExtra: a package of the extra `otel` is not installed.
            BadRequest: the collector is no URL.
        """
        if not collector.startswith(("http://", "https://")):
            raise BadRequest(f"traces: got {collector!r}, wanted a URL", hint="e.g. http://127.0.0.1:4318")
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MissingExtra(f"traces need OpenTelemetry: {error}", hint=install("otel")) from error
        self._api = trace
        endpoint = (
            collector if collector.count("/") > 2 and not collector.endswith("/") else collector.rstrip("/") + _PATH
        )
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "luban"}), sampler=ParentBased(TraceIdRatioBased(share))
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("luban.serve")
        self._propagator = TraceContextTextMapPropagator()

    def end(self, asked: Asked, route: str, status: int, seconds: float) -> str:
        """Make the spans of a request that has just been answered, and return its trace id; empty if not recorded.

        Args:
            asked: what was noted of it.
            route: pattern of its path, or its method of gRPC.
            status: of HTTP.
            seconds: that it took.
        """
        # The wall clock may be set meanwhile: one reading of both clocks serves all moments of a request.
        offset_ns = time.time_ns() - time.monotonic_ns()
        end = asked.begun + seconds

        def at(moment: float) -> int:
            return int(moment * 1e9) + offset_ns

        carrier = {name: value.decode("latin-1") for name in ("traceparent", "tracestate")
                   if (value := asked.header(name.encode())) is not None}  # fmt: skip
        context = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span(
            route, context, kind=self._api.SpanKind.SERVER, start_time=at(asked.begun),
            attributes={"http.route": route, "http.response.status_code": status},
        )  # fmt: skip
        if not span.is_recording():
            return ""
        span.set_attributes(_facts(asked))
        within = self._api.set_span_in_context(span)
        if asked.admitted:
            self._part("admission", within, at(asked.begun), at(asked.admitted))
        if asked.answered:
            taken = asked.answered - asked.ran_s
            self._part("queue", within, at(max(asked.begun, taken - asked.waited_s)), at(taken))
            self._part("run", within, at(taken), at(asked.answered))
        if status >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(at(end))
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send off what is left."""
        self._provider.shutdown()

    def _part(self, name: str, within: Any, begin_ns: int, end_ns: int) -> None:
        self._tracer.start_span(name, within, start_time=begin_ns).end(end_ns)


def _facts(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = {"luban.request": request_id(asked)}
    if asked.answered:
        found |= {
            "luban.model": asked.model, "luban.version": asked.version, "luban.rows": asked.n_rows,
            "luban.tokens": asked.n_tokens, "luban.batch_rows": asked.batch_rows,
        }  # fmt: skip
    return found
