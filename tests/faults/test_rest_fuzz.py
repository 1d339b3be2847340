"""Every route of REST, asked what its own OpenAPI document allows, what it does not, and what is near to either, by
schemathesis: nothing fails within the server, and every answer is as the document says.

`LUBAN_FUZZ` says how many requests, 15 for each 2 of it: `LUBAN_FUZZ=4000`, as `make fuzz` has it, makes 30,000.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from faults.test_data_fuzz import any_texts, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Server, served
from unit.bundle.made import made

from luban.serve import surfaces
from luban.stages import registering

DOCUMENT = json.loads(surfaces._document())
OPERATIONS = [f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]
FUZZ = os.environ.get("LUBAN_FUZZ")
EACH = -(-int(FUZZ or 36) * 15 // 2 // len(OPERATIONS))
"""Requests of an operation."""
CHECKS: list[Any] = [
    status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
    allow_header_conformance,
]  # fmt: skip
LINES = "application/x-ndjson"
NAMED = {"name": "bank", "version": "1", "label": "champion"}
KEPT = {"content-length", "transfer-encoding", "host", "connection"}
"""Headers that say where a request ends: what a server does about wrong ones is in `test_serving_faults.py`."""

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
kinds = st.sampled_from([
    "application/json", "text/csv", "text/plain; charset=latin-1", "application/jsonlines", "application/x-ndjson",
    "text/*", "*/*", "", ";", ",", "application/json;q=0",
])  # fmt: skip
headers = st.fixed_dictionaries({}, optional={
    "content-type": kinds, "accept": kinds, "x-request-id": words, "x-api-key": words, "authorization": words,
    "inference-header-content-length": st.integers(-1, 400).map(str) | words,
    "traceparent": words | st.just(f"00-{'ab' * 16}-{'cd' * 8}-01"), "expect": st.just("100-continue"),
    "content-encoding": st.sampled_from(["gzip", "br"]), "x-http-method-override": st.just("DELETE"),
})  # fmt: skip
rows = st.lists(any_texts, max_size=6) | st.lists(st.just("a"), min_size=30, max_size=40)
row = any_texts | values
number = st.integers(-2, 40) | st.integers()
tensor = st.fixed_dictionaries(
    {"name": st.just("text") | words, "datatype": st.sampled_from(["BYTES", "FP32", ""]),
     "shape": st.lists(number, max_size=3)},
    optional={"data": rows | st.lists(row, max_size=3) | st.lists(st.lists(row, max_size=2), max_size=3),
              "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), number | values, max_size=2)},
)  # fmt: skip
fitting = rows.map(lambda one: {"name": "text", "datatype": "BYTES", "shape": [len(one)], "data": one})
outputs = st.lists(st.fixed_dictionaries(
    {"name": st.sampled_from(["label", "score", "scores", "labels", "spans", "x"])},
    optional={"parameters": st.dictionaries(st.just("binary_data"), st.booleans() | values, max_size=1)},
), max_size=3)  # fmt: skip
remark = st.fixed_dictionaries({}, optional={
    "id": any_texts, "text": row, "right": st.booleans(), "label": st.just("card lost") | row,
    "labels": st.lists(row, max_size=2), "source": row, "comment": row,
    "spans": st.lists(st.fixed_dictionaries({"start": number, "end": number, "label": row}), max_size=2),
})  # fmt: skip
good_remark = any_texts.map(lambda text: {"text": text, "label": "card lost"})
NEAR: dict[str, st.SearchStrategy[Any]] = {
    "predict": st.fixed_dictionaries({"texts": rows}) | st.fixed_dictionaries({}, optional={
        "text": row, "texts": rows | st.lists(row), "scores": st.booleans(), "ids": st.booleans()}),
    "explain": st.fixed_dictionaries({"text": row}, optional={
        "label": st.sampled_from(["refund | late", "person"]) | any_texts, "rows": number | st.integers(16, 64)}),
    "feedback": st.fixed_dictionaries(
        {"items": st.lists(good_remark, max_size=3) | st.lists(remark | good_remark, max_size=4)},
        optional={"once": any_texts}),
    "batch": row | st.fixed_dictionaries({"text": row}, optional={"id": any_texts | number}),
    "infer": st.fixed_dictionaries(
        {"inputs": st.lists(fitting, min_size=1, max_size=1) | st.lists(fitting | tensor, max_size=2)},
        optional={"outputs": outputs, "id": any_texts,
                  "parameters": st.dictionaries(st.just("binary_data_output"), values, max_size=1)}),
    ":predict": st.fixed_dictionaries({}, optional={
        "instances": rows | st.lists(row | st.fixed_dictionaries({"text": row}), max_size=4),
        "inputs": row | rows | st.fixed_dictionaries({"text": rows | row}),
        "signature_name": st.just("serving_default") | any_texts}),
    "embeddings": st.fixed_dictionaries(
        {"model": st.sampled_from(["bank", "names", "bnak"]), "input": rows | row},
        optional={"encoding_format": st.sampled_from(["float", "base64", "x"]), "dimensions": number | st.none()}),
    "invocations": row | rows | st.dictionaries(st.sampled_from(["texts", "instances", "text"]), row | rows),
}  # fmt: skip
"""What the route that ends so takes, or nearly."""
GOOD: dict[str, Any] = {
    "predict": {"text": "where is my card", "scores": True}, "batch": {"text": "我的卡", "id": 7},
    "explain": {"text": "where is my card", "rows": 32},
    "feedback": {"items": [{"text": "where is my card", "label": "card lost"}]},
    "infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
    ":predict": {"instances": ["a", {"text": "b"}]}, "invocations": {"texts": ["a"]},
    "embeddings": {"model": "bank", "input": ["a", "b"]},
}  # fmt: skip
"""What it answers."""


@schemathesis.serializer(LINES, "application/jsonlines", "application/x-jsonlines", "text/csv")
def as_lines(context: Any, body: Any) -> dict[str, Any]:
    return {"data": body if isinstance(body, bytes) else json.dumps(body).encode()}


def ending_of(label: str) -> str:
    return max((one for one in NEAR if label.endswith(one)), key=len)


def near(label: str) -> st.SearchStrategy[bytes]:
    """Return bodies that are nearly what a route takes, and a few that are nothing."""
    one = NEAR[ending := ending_of(label)]
    many = st.lists(one, max_size=5) if ending in ("batch", "invocations") else one.map(lambda value: [value])
    told = st.tuples(many, st.booleans(), st.sampled_from(["utf-8"] * 15 + ["utf-16"])).map(
        lambda drawn: "\n".join(json.dumps(value, ensure_ascii=drawn[1]) for value in drawn[0]).encode(
            drawn[2], "surrogatepass"
        )
    )
    cut = st.tuples(told, st.integers(0, 60), st.binary(max_size=3)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] :]
    )
    kinds = [told] * 8 + [cut, any_texts.map(lambda text: text.encode("utf-8", "surrogatepass"))]
    return st.integers(0, len(kinds) - 1).flatmap(kinds.__getitem__)  # more often nearly right than nothing at all


@st.composite
def cases(draw: st.DrawFn, operation: Any) -> tuple[Case, dict[str, str], bytes | None]:
    """Return a request: allowed, not allowed, or near, for a model that is there or for any name."""
    named = {name: value for name, value in NAMED.items() if f"{{{name}}}" in operation.path}
    posts = operation.label.startswith("POST")
    how = draw(st.sampled_from(["named", "named", "named", "allowed", "wrong"] if named or posts else ["allowed"]))
    mode = GenerationMode.NEGATIVE if how == "wrong" else GenerationMode.POSITIVE
    case = draw(operation.as_strategy(generation_mode=mode, path_parameters={} if how == "allowed" else named))
    body = draw(near(operation.label)) if posts and draw(st.integers(0, 4)) else None
    return case, draw(headers) if draw(st.integers(0, 3)) == 0 else {}, body


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory, "classify", "onnx").folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bank: Path) -> Iterator[Server]:
    place = str(tmp_path_factory.mktemp("fuzzed") / "registry")
    registering.register(bank, name="bank", registry=place, measure=False, who="test")
    registering.promote("bank@1", registry=place, force=True, why="a test", who="test")
    names = f"names={made(tmp_path_factory, 'tag', 'onnx').folder}"
    with served("bank=champion", names, "--registry", place, "--embeddings", "--request-s", "60") as server:
        yield server


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    found = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    assert found.raw_schema["paths"].keys() == DOCUMENT["paths"].keys()
    return found


def ask(server: Server, session: requests.Session, case: Case, extra: dict[str, str], body: bytes | None) -> Any:
    """Send a request, and return the answer, which is as the document says."""
    if body is not None:
        case.body = body
    case.headers = {name: value for name, value in {**case.headers, **extra}.items() if name.lower() not in KEPT}
    answer = case.call(base_url=server.url, session=session, timeout=60)
    case.validate_response(answer, checks=CHECKS)
    deliberate = (
        answer.status_code == 503 and answer.json()["title"] == "Unavailable" and "retry-after" in answer.headers
    )
    assert answer.status_code < 500 or deliberate, answer.text
    if answer.status_code >= 400:
        told = answer.json()
        assert told["status"] == answer.status_code and told["detail"] and len(answer.content) < 20_000
    if answer.headers["content-type"][0].startswith(LINES):
        schema = case.operation.definition.raw["responses"]["200"]["content"][LINES]["schema"]
        assert_lines(answer.content, {**schema, "components": DOCUMENT["components"]})
    return answer


def assert_lines(found: bytes, schema: dict[str, Any]) -> None:
    """Assert that every line of a stream is as the document says, and that none failed within the server."""
    for line in found.splitlines():
        told = json.loads(line)
        jsonschema_rs.validate(schema, told)
        assert told.get("error", {}).get("status", 200) < 500, told


def fuzz(server: Server, session: requests.Session, schema: Any, label: str, n: int) -> None:
    """Send a request that is answered, then so many that may be anything; every answer is as the document says."""
    method, path = label.split()
    operation = schema[path][method]
    named = {name: value for name, value in NAMED.items() if f"{{{name}}}" in path}
    good = json.dumps(GOOD[ending_of(label)]).encode() if method == "POST" else None
    kinds = [*operation.get_request_payload_content_types(), None]
    first = operation.Case(path_parameters=named, media_type=kinds[0])
    assert ask(server, session, first, {}, good).status_code == 200

    @settings(
        max_examples=n, deadline=None, derandomize=FUZZ is None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases(operation))
    def asked(drawn: tuple[Case, dict[str, str], bytes | None]) -> None:
        ask(server, session, *drawn)

    asked()


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_as_the_document_says(
    server: Server, session: requests.Session, schema: Any, label: str
) -> None:
    fuzz(server, session, schema, label, EACH)


@pytest.mark.parametrize("mistake", [
    "crashes_on_a_text", "a_field_of_another_type", "another_status_than_it_says", "a_refusal_without_its_kind",
    "a_status_that_nobody_was_told_of",
])  # fmt: skip
def test_mistakes_made_on_purpose_are_found(session: requests.Session, schema: Any, bank: Path, mistake: str) -> None:
    with served(f"bank={bank}", mistake=mistake) as server, pytest.raises((AssertionError, FailureGroup, Failure)):
        fuzz(server, session, schema, "POST /v1/models/{name}/predict", max(EACH, 600))
