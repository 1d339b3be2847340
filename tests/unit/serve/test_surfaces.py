"""Every door of a server: no route and no method is without a decision on who may use it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from unit.serve.test_admit import Keys, ask, run

from luban.serve import surfaces
from luban.serve.access import SCOPES
from luban.serve.admit import Application
from luban.serve.batch import Batcher
from luban.serve.hosting import Hosting, Model
from luban.serve.limits import Limits
from luban.serve.listener import keep
from luban.serve.places import Places
from luban.serve.protocols.asking import Asking, alias
from luban.serve.protocols.messages import message
from luban.serve.rest import Rest
from luban.serve.routing import PUBLIC
from luban.serve.rpc import Method, Port
from luban.serve.sources import FromFolder, FromRegistry
from luban.serve.telemetry import Telemetry

PUBLIC_ROUTES = {
    "/", "/healthz", "/readyz", "/openapi.json", "/docs", "/v2", "/v2/health/live", "/v2/health/ready", "/ping",
}  # fmt: skip
PUBLIC_METHODS = {
    "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ServerMetadata",
}  # fmt: skip
LIMITS = Limits()
BODIES = {"/v1/embeddings": {"model": "other", "input": "a"}, "/invocations": ["a"]}


@contextmanager
def asking() -> Iterator[Asking]:
    """Hold models that are never opened: who may not use one must not get so far."""
    batcher, telemetry = Batcher(), Telemetry()
    nowhere = {name: FromFolder(Path("/nowhere")) for name in ("other", "bank-1")}
    try:
        yield Asking(Hosting(nowhere, batcher, telemetry), LIMITS, telemetry, lambda: True)
    finally:
        batcher.close()


def routes() -> list[Any]:
    with asking() as found:
        rest = Rest(found.hosting, LIMITS, found.telemetry, found.ready)
        return [pytest.param(one.method, one.path, one.scope, id=f"{one.method} {one.path}")
                for one in surfaces.routes(rest, found)]  # fmt: skip


def methods() -> list[Any]:
    with asking() as found:
        return [pytest.param(one.path, one.scope, id=one.path) for one in surfaces.methods(found)]


def test_only_these_are_for_everybody() -> None:
    assert {one.values[1] for one in routes() if one.values[2] == PUBLIC} == PUBLIC_ROUTES
    assert {one.values[0] for one in methods() if one.values[1] == PUBLIC} == PUBLIC_METHODS


@pytest.mark.parametrize(("method", "path", "scope"), [one for one in routes() if one.values[2] != PUBLIC])
def test_a_route_refuses_who_may_not(method: str, path: str, scope: str) -> None:
    wrong = next(one for one in SCOPES if one != scope)
    filled = path.replace("{name}", "other").replace("{version}", "1").replace("{label}", "champion")
    about_a_model = "{name}" in path or path in BODIES
    body = json.dumps(BODIES.get(path, {})).encode()

    async def main() -> None:
        with asking() as found:
            rest = Rest(found.hosting, LIMITS, found.telemetry, found.ready)
            application = Application(surfaces.routes(rest, found), Keys(), LIMITS, found.telemetry)
            for key, status in (("", 401), ("nonsense", 401), (wrong, 403), (scope, 403)):
                if key != scope or about_a_model:
                    got, _, told = await ask(application, method, filled, body, key)
                    assert got == status, (key, told)

    run(main())


async def on_a_port(found: Asking, use: Callable[[Any], Awaitable[None]], **given: Any) -> None:
    port = Port(surfaces.methods(found), Keys(), LIMITS, found.telemetry, Places(LIMITS, found.telemetry), **given)
    kept = keep("127.0.0.1", 0)
    address = f"127.0.0.1:{kept.getsockname()[1]}"
    try:
        await port.open(address)
        if given:
            credentials = grpc.ssl_channel_credentials(Path(given["cert"]).read_bytes())
            channel = grpc.aio.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "localhost")])
        else:
            channel = grpc.aio.insecure_channel(address)
        async with channel:
            await use(channel)
    finally:
        kept.close()
        await port.close()


async def called(channel: Any, method: Method, key: str, request: bytes) -> str:
    """Return the code with which a call ends."""
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    try:
        if method.streams == "both":
            stream = channel.stream_stream(method.path)(iter([request]), metadata=metadata)
            await stream.read()
        else:
            await channel.unary_unary(method.path)(request, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_every_method_refuses_who_may_not() -> None:
    async def main() -> None:
        with asking() as found:

            async def use(channel: Any) -> None:
                for method in surfaces.methods(found):
                    if method.scope == PUBLIC:
                        continue
                    wrong = next(one for one in SCOPES if one != method.scope)
                    for key, code in (("", "UNAUTHENTICATED"), ("x", "UNAUTHENTICATED"), (wrong, "PERMISSION_DENIED")):
                        assert await called(channel, method, key, b"") == code, (method.path, key)
                    if (request := about_other(method)) is not None:
                        got = await called(channel, method, method.scope, request)
                        assert got == "PERMISSION_DENIED", method.path

            await on_a_port(found, use)

    run(main())


def about_other(method: Method) -> bytes | None:
    """Return a request that names a model which the key is not for; None where the method's requests name none."""
    fields: Mapping[str, Any] = method.takes.DESCRIPTOR.fields_by_name
    for name in ("model", "name", "model_name"):
        if name in fields:
            return bytes(method.takes(**{name: "other"}).SerializeToString())
    if "request" in fields:
        return bytes(method.takes(request=message("luban.v1.PredictRequest")(model="other")).SerializeToString())
    return None


def test_every_method_that_names_a_model_was_asked_about_another() -> None:
    with asking() as found:
        named = {method.name for method in surfaces.methods(found) if about_other(method) is not None}
    assert named == {
        "Predict", "PredictStream", "Explain", "SendFeedback", "ModelReady", "ModelMetadata", "ModelInfer",
    }  # fmt: skip


def test_a_method_that_is_not_there_is_not_answered() -> None:
    async def main() -> None:
        with asking() as found:

            async def use(channel: Any) -> None:
                with pytest.raises(grpc.RpcError) as caught:
                    await channel.unary_unary("/luban.v1.Predictor/Drop")(b"")
                assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

            await on_a_port(found, use)

    run(main())


def test_over_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip

    async def main() -> None:
        with asking() as found:

            async def use(channel: Any) -> None:
                ready = channel.unary_unary(
                    "/inference.GRPCInferenceService/ServerReady",
                    response_deserializer=message("inference.ServerReadyResponse").FromString,
                )
                assert (await ready(b"")).ready

            await on_a_port(found, use, cert=str(cert), key=str(key))

    run(main())


def test_two_servers_do_not_share_a_port() -> None:
    kept = keep("127.0.0.1", 0)
    with kept, pytest.raises(OSError, match="in use"):
        keep("127.0.0.1", kept.getsockname()[1])


@pytest.mark.parametrize(("reference", "wanted"), [("bank@champion", "champion"), ("bank@3", "")])
def test_a_label_of_tensorflow_is_the_alias_that_a_model_follows(reference: str, wanted: str) -> None:
    assert alias(Model("bank", FromRegistry("nowhere", reference))) == wanted
    assert alias(Model("bank", FromFolder(Path("/nowhere")))) == ""
