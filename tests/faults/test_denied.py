"""Every route and every method of a server that has keys, asked with every kind of key that is not good for it: each is
denied, over REST, gRPC and the protocols of others alike. A route or method that is not in `DECIDED` fails the test.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from serving import Server, served
from unit.bundle.made import Made
from unit.serve.test_surfaces import asking

from luban.serve import surfaces
from luban.serve.access import SCOPES
from luban.serve.protocols.messages import message
from luban.serve.rest import Rest
from luban.serve.routing import PUBLIC, Route
from luban.serve.rpc import Method
from luban.stages import access

DECIDED = {
    "POST /v1/models/{name}/predict": "predict", "POST /v1/models/{name}/batch": "predict", "GET /v1/models": "read",
    "GET /v1/models/{name}": "read", "GET /healthz": PUBLIC, "GET /readyz": PUBLIC, "GET /v2": PUBLIC,
    "GET /v2/health/live": PUBLIC, "GET /v2/health/ready": PUBLIC, "GET /v2/models/{name}": "read",
    "GET /v2/models/{name}/versions/{version}": "read", "GET /v2/models/{name}/ready": "read",
    "GET /v2/models/{name}/versions/{version}/ready": "read", "POST /v2/models/{name}/infer": "predict",
    "POST /v2/models/{name}/versions/{version}/infer": "predict", "POST /v1/models/{name}:predict": "predict",
    "POST /v1/models/{name}/versions/{version}:predict": "predict",
    "POST /v1/models/{name}/labels/{label}:predict": "predict", "GET /v1/models/{name}/versions/{version}": "read",
    "GET /v1/models/{name}/labels/{label}": "read", "GET /v1/models/{name}/metadata": "read",
    "GET /v1/models/{name}/versions/{version}/metadata": "read", "GET /ping": PUBLIC, "POST /invocations": "predict",
    "POST /v1/models/{name}/explain": "predict", "GET /": PUBLIC, "/luban.v1.Predictor/Explain": "predict",
    "POST /v1/models/{name}/feedback": "feedback", "/luban.v1.Predictor/SendFeedback": "feedback",
    "POST /v1/embeddings": "predict", "GET /openapi.json": PUBLIC, "GET /docs": PUBLIC,
    "/luban.v1.Predictor/Predict": "predict", "/luban.v1.Predictor/PredictStream": "predict",
    "/luban.v1.Predictor/ListModels": "read", "/inference.GRPCInferenceService/ServerLive": PUBLIC,
    "/inference.GRPCInferenceService/ServerReady": PUBLIC, "/inference.GRPCInferenceService/ServerMetadata": PUBLIC,
    "/inference.GRPCInferenceService/ModelReady": "read", "/inference.GRPCInferenceService/ModelMetadata": "read",
    "/inference.GRPCInferenceService/ModelInfer": "predict", "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}  # fmt: skip
"""What a key must be good for, said here once more: who adds a route decides it twice."""
BODIES: Mapping[str, Any] = {
    "/v1/embeddings": {"model": "bank", "input": "a"}, "/invocations": {"texts": ["a"]},
    "/infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
    ":predict": {"instances": ["a"]}, "/predict": {"text": "a"}, "/explain": {"text": "a", "rows": 32}, "/batch": "a",
    "/feedback": {"items": [{"text": "a", "label": "card lost"}]},
}  # fmt: skip
OF_NO_MODEL = {"GET /v1/models", "/luban.v1.Predictor/ListModels"}
"""They tell of the models that a key is for."""
DENIED = {401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED"}
MISTAKES = {
    "models_not_asked_about": "other model", "scopes_not_asked_about": "scope", "revoked_keys_count": "revoked",
    "expired_keys_count": "expired", "a_route_for_everybody": "without", "methods_not_asked_about": "other model",
}  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """A registry's keys: a good one, and those that are not, by what is wrong with them."""

    place: str
    good: str
    bad: Mapping[str, str]
    of_scope: Mapping[str, str]
    """Good for one scope alone."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    place = str(tmp_path_factory.mktemp("keys") / "registry")

    def create(name: str, *scopes: str, **more: Any) -> str:
        return access.create_key(name, scopes or SCOPES, registry=place, who="test", **more).secret

    good, revoked = create("good"), create("revoked")
    access.revoke_key("revoked", registry=place, who="test")
    bad = {
        "without": "", "malformed": "?", "of another form": "luban", "unknown": good[:-43] + secrets.token_urlsafe(32),
        "cut": good[:-1], "with more": good + "A", "in capitals": good.upper(), "revoked": revoked,
        "expired": create("expired", expires="0.001s"), "other model": create("other", models=["names", "bank-*"]),
        "other tenant": create("tenant", tenant="another", models=["another-*"]),
    }  # fmt: skip
    return Keys(place, good, bad, {scope: create(scope, scope) for scope in SCOPES})


def doors() -> tuple[list[Route], list[Method]]:
    with asking() as found:
        rest = Rest(found.hosting, found.limits, found.telemetry, found.ready)
        return list(surfaces.routes(rest, found)), list(surfaces.methods(found))


def label(door: Route | Method) -> str:
    return f"{door.method} {door.path}" if isinstance(door, Route) else door.path


def wrong_keys(keys: Keys, scope: str, door: str) -> Iterator[tuple[str, str]]:
    """Yield the keys that must not open a door, with what is wrong with them."""
    for kind, secret in keys.bad.items():
        if not (kind.startswith("other") and door in OF_NO_MODEL):
            yield kind, secret
    for one, secret in keys.of_scope.items():
        if one != scope:
            yield f"scope {one}", secret


def opened(server: Server, keys: Keys) -> list[str]:
    """Return each door that a wrong key opens, or that the right one does not."""
    found: list[str] = []
    routes, methods = doors()
    with (
        httpx.Client(base_url=server.url, trust_env=False) as client,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        for door in (*routes, *methods):
            scope = DECIDED[label(door)]
            if scope == PUBLIC:
                continue

            def ask(secret: str, door: Route | Method = door) -> int | str:
                return by_http(client, door, secret) if isinstance(door, Route) else by_grpc(channel, door, secret)

            for kind, secret in wrong_keys(keys, scope, label(door)):
                if (told := ask(secret)) not in DENIED:
                    found.append(f"{label(door)} with a key {kind}: {told}")
            if (told := ask(keys.of_scope[scope])) in DENIED or told == 500:
                found.append(f"{label(door)} with a good key: {told}")
    return found


def by_http(client: httpx.Client, route: Route, secret: str) -> int:
    path = route.path.replace("{name}", "bank").replace("{version}", "1").replace("{label}", "champion")
    body = next((json.dumps(one) for end, one in BODIES.items() if path.endswith(end)), None)
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return client.request(route.method, path, content=body, headers=headers).status_code


def by_grpc(channel: grpc.Channel, method: Method, secret: str) -> str:
    given: dict[str, Any] = {}
    fields = method.takes.DESCRIPTOR.fields_by_name
    for name in ("model", "name", "model_name"):
        if name in fields:
            given[name] = "bank"
    if "request" in fields:
        given["request"] = message("luban.v1.PredictRequest")(model="bank", texts=["a"])
    if "text" in fields:
        given |= {"text": "a", "rows": 32}
    if "texts" in fields:
        given["texts"] = ["a"]
    if "items" in fields:
        given["items"] = [message("luban.v1.Remark")(text="a", label="card lost")]
    body = method.takes(**given).SerializeToString()
    metadata = (("authorization", f"Bearer {secret}"),) if secret else ()
    try:
        if method.streams == "both":
            list(channel.stream_stream(method.path)(iter([body]), metadata=metadata))
        else:
            channel.unary_unary(method.path)(body, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_every_door_has_a_decision_and_no_other_is_there() -> None:
    routes, methods = doors()
    assert {label(door): door.scope for door in (*routes, *methods)} == DECIDED


def test_every_wrong_key_is_denied_everywhere(classify: Made, keys: Keys) -> None:
    arguments = (f"bank={classify.folder}", "--registry", keys.place, "--grpc-port", "0", "--embeddings")
    with served(*arguments, "--host", "127.0.0.2") as server:
        assert opened(server, keys) == []
        shown = httpx.get(f"{server.url}/v1/models", headers={"x-api-key": keys.bad["other model"]}, trust_env=False)
        assert shown.json()["models"] == shown.json()["data"] == [], "what is not one's own is not there"
        both = {"authorization": f"Bearer {keys.good}", "x-api-key": keys.bad["revoked"]}
        assert httpx.get(f"{server.url}/v1/models", headers=both, trust_env=False).status_code == 401
        for method in ("HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            told = httpx.request(method, f"{server.url}/v1/models/bank/predict", trust_env=False)
            assert told.status_code in (401, 405), method
        assert httpx.get(f"{server.url}/metrics", trust_env=False).status_code == 404
        assert server.admin.startswith("http://127.0.0.1:"), "numbers are for this machine alone"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_harness_finds_mistakes_made_on_purpose(classify: Made, keys: Keys, mistake: str) -> None:
    arguments = (f"bank={classify.folder}", "--registry", keys.place, "--grpc-port", "0", "--embeddings")
    with served(*arguments, mistake=mistake) as server:
        found = opened(server, keys)
    assert any(MISTAKES[mistake] in one for one in found), found
