"""What a server tells: series that stay few, lines without texts, and traces that go on."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from unit.serve.test_rollout import version

from luban.bundle.engine import Engine
from luban.errors import BadRequest
from luban.records import Prediction
from luban.serve import asked, telemetry
from luban.serve.access import ANYONE
from luban.serve.batch import Answered, Batcher
from luban.serve.hosting import Answer, Served
from luban.serve.telemetry import Spoken, Telemetry

ROUTE = "/v1/models/{name}/predict"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def served(engine: Engine) -> Iterator[Served]:
    batcher = Batcher(runners=1)
    yield version(engine, 3, batcher)
    batcher.close()


def answer(served: Served, label: str = "late") -> Answer:
    return Answer(served, Answered([Prediction((label,), {label: 1.0})], 5, 0.001, 0.002, 4, 20))


def one(it: Telemetry, served: Served, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    """Go through one request as a surface does, in a task of its own."""

    async def run() -> None:
        about = asked.begin(headers)
        about.principal, about.admitted = ANYONE, about.begun + 0.0001
        it.answered(answer(served))
        it.request(ROUTE, status, 0.005)

    asyncio.run(run())


def test_labels_and_versions_beyond_the_first_share_a_series(served: Served) -> None:
    it = Telemetry()
    for number in range(telemetry._MOST_LABELS + 50):
        it.answered(answer(served, f"label {number}"))
    lines = [line for line in it.text().decode().splitlines() if line.startswith("luban_predictions_total")]
    assert len(lines) == telemetry._MOST_LABELS + 1
    assert 'luban_predictions_total{label="(other)",model="bank",version="3"} 50.0' in lines
    assert 'luban_answered_total{model="bank",version="3"} 250.0' in it.text().decode()


def test_why_requests_are_turned_away_is_told_from_the_beginning() -> None:
    it = Telemetry()
    it.shed("pace")
    told = it.text().decode()
    for reason, n in (("queue", 0), ("streams", 0), ("rate", 0), ("pace", 1), ("late", 0)):
        assert f'luban_shed_total{{reason="{reason}"}} {n}.0' in told


def test_a_line_a_request_without_its_text(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "luban.serve")
    one(Telemetry(log_share=1.0), served, (b"x-request-id", b"abc-1"))
    facts = json.loads(telemetry.Lines().format(caplog.records[-1]))
    assert facts["event"] == "request" and facts["request"] == "abc-1" and facts["caller"] == "anyone"
    assert {name: facts[name] for name in ("route", "status", "model", "version", "rows", "tokens", "batch_rows")} == {
        "route": ROUTE, "status": 200, "model": "bank", "version": "3", "rows": 1, "tokens": 5, "batch_rows": 4,
    }  # fmt: skip
    assert (facts["ms"], facts["waited_ms"], facts["ran_ms"]) == (5.0, 1.0, 2.0)


def test_lines_are_a_sample_but_failures_all_have_one(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "luban.serve")
    it = Telemetry(log_share=0.2)
    for _ in range(300):
        one(it, served)
    assert 20 < len(caplog.records) < 120
    caplog.clear()
    for _ in range(20):
        one(it, served, status=500)
    assert len(caplog.records) == 20
    caplog.clear()
    one(Telemetry(), served, status=500)
    assert not caplog.records


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 65, b'{"a":1}', "é".encode()])
def test_an_id_that_could_spoil_a_log_is_not_taken(given: bytes) -> None:
    made = asked.request_id(asked.Asked([(b"x-request-id", given)]))
    assert len(made) == 16 and made != asked.request_id(asked.Asked([]))


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, self.headers.get("content-encoding", ""), body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    """Run what takes OTLP over HTTP."""
    server = HTTPServer(("127.0.0.1", 0), _Collector)
    server.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def spans(collector: HTTPServer) -> list[Any]:
    import gzip

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = []
    for path, encoding, body in collector.got:  # type: ignore[attr-defined]
        assert path == "/v1/traces"
        told = ExportTraceServiceRequest.FromString(gzip.decompress(body) if encoding == "gzip" else body)
        found += [span for part in told.resource_spans for scope in part.scope_spans for span in scope.spans]
    return found


def test_a_caller_s_trace_goes_on_to_a_real_collector(served: Served, collector: HTTPServer) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    from luban.serve.tracing import Traces

    it = Telemetry(traces=Traces(f"http://127.0.0.1:{collector.server_port}"))
    one(it, served, (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()))
    one(it, served, (b"traceparent", f"00-{TRACE}-{PARENT}-00".encode()))
    one(it, served, (b"traceparent", b"nonsense"), status=500)
    it.close()
    found = spans(collector)
    assert len(found) == 8, "the caller did not want the second one recorded"
    of_caller = {span.name: span for span in found if span.trace_id.hex() == TRACE}
    assert set(of_caller) == {ROUTE, "admission", "queue", "run"}
    root = of_caller[ROUTE]
    assert root.parent_span_id.hex() == PARENT
    assert root.end_time_unix_nano - root.start_time_unix_nano == pytest.approx(5e6, rel=0.01)
    for name in ("admission", "queue", "run"):
        assert of_caller[name].parent_span_id == root.span_id
    run = of_caller["run"]
    assert run.end_time_unix_nano - run.start_time_unix_nano == pytest.approx(2e6, rel=0.01)
    facts = {pair.key: pair.value for pair in root.attributes}
    assert facts["luban.model"].string_value == "bank" and facts["http.response.status_code"].int_value == 200
    failed = [span for span in found if span.name == ROUTE and span.trace_id.hex() != TRACE]
    assert [span.status.code for span in failed] == [2]


def test_a_collector_that_is_no_url_is_refused() -> None:
    from luban.serve.tracing import Traces

    with pytest.raises(BadRequest, match="wanted a URL"):
        Traces("localhost:4318")


def test_a_person_at_a_terminal_is_told_where_it_is_and_whether_there_are_keys() -> None:
    def spoken(event: str, level: int = logging.INFO, **facts: Any) -> str:
        record = logging.LogRecord("luban.serve", level, "", 0, event, (), None)
        record.facts = facts
        return Spoken().format(record)

    facts = {"url": "http://127.0.0.1:8080", "admin": "http://127.0.0.1:9464", "models": {"bank": "bank@champion"}}
    open_to_all = spoken("ready", **facts, keys=False).splitlines()
    assert open_to_all[0] == "Luban serves at http://127.0.0.1:8080"
    assert any("bank: bank@champion" in line for line in open_to_all)
    assert any(line.endswith("http://127.0.0.1:8080/docs") for line in open_to_all)
    assert any("keys" in line and "none" in line for line in open_to_all)
    assert "every request needs one" in spoken("serving", **facts, keys=True, workers=2)
    assert spoken("worker.died", logging.ERROR, pid=7).endswith("error: worker.died  pid=7")
