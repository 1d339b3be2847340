"""gRPC, asked by a real client: answers, deadlines, refusals, health and reflection."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from golden.descriptors import made as remade
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving import Server, served
from unit.bundle.made import Made
from unit.serve.test_admit import Keys, run

from luban.bundle.engine import Engine
from luban.serve.limits import Limits
from luban.serve.listener import keep
from luban.serve.places import Places
from luban.serve.protocols.messages import DESCRIPTORS, PREDICTOR, message
from luban.serve.rpc import Call, Method, Port
from luban.serve.telemetry import Telemetry

TEXTS = ["ab cd", "我的卡还没到", "a b c d e f"]


@pytest.fixture(scope="module")
def server(classify: Made) -> Iterator[Server]:
    with served(f"bank={classify.folder}", "--grpc-port", "0", "--request-s", "30") as found:
        yield found


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as found:
        yield found


def predict(channel: grpc.Channel) -> Any:
    return channel.unary_unary(
        f"/{PREDICTOR}/Predict",
        request_serializer=lambda one: one.SerializeToString(),
        response_deserializer=message("luban.v1.PredictResponse").FromString,
    )


def request(**given: Any) -> Any:
    return message("luban.v1.PredictRequest")(**{"model": "bank", "texts": TEXTS} | given)


def test_what_is_committed_is_what_protoc_makes() -> None:
    assert json.loads(DESCRIPTORS.read_text("utf-8")) == json.loads(remade()), "run `make protocols`"


def test_it_answers_as_the_engine_does(channel: grpc.Channel, engine: Engine) -> None:
    got = predict(channel)(request(scores=True))
    assert (got.model, got.digest, got.HasField("version")) == ("bank", engine.digest, False)
    for found, wanted in zip(got.predictions, engine.predict(TEXTS), strict=True):
        assert tuple(found.labels) == wanted.labels
        assert found.scores == pytest.approx(dict(wanted.scores), abs=1e-5)
        assert found.score == pytest.approx(wanted.score, abs=1e-5)


def test_a_stream_is_answered_in_its_order_and_one_bad_request_alone_fails(channel: grpc.Channel) -> None:
    asked = message("luban.v1.PredictStreamRequest")
    stream = channel.stream_stream(
        f"/{PREDICTOR}/PredictStream",
        request_serializer=lambda one: one.SerializeToString(),
        response_deserializer=message("luban.v1.PredictStreamResponse").FromString,
    )
    sent = [asked(id=str(number), request=request(texts=[f"a {number}"])) for number in range(50)]
    sent[7].request.model = "bnak"
    sent[9].request.texts.extend(["a"] * 32)
    got = list(stream(iter(sent)))
    assert [one.id for one in got] == [str(number) for number in range(50)]
    failed = {one.id: (one.error.kind, one.error.code) for one in got if one.WhichOneof("outcome") == "error"}
    assert failed == {
        "7": ("NotFound", grpc.StatusCode.NOT_FOUND.value[0]),
        "9": ("TooLarge", grpc.StatusCode.INVALID_ARGUMENT.value[0]),
    }
    assert "did you mean 'bank'" in got[7].error.hint


def test_the_models_are_listed(channel: grpc.Channel, engine: Engine) -> None:
    listing = channel.unary_unary(
        f"/{PREDICTOR}/ListModels", response_deserializer=message("luban.v1.ListModelsResponse").FromString
    )
    (model,) = listing(b"").models
    assert (model.name, model.open, model.task, model.digest) == ("bank", True, "classify", engine.digest)
    assert tuple(model.labels) == engine.labels


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        ({"model": "bnak"}, "NOT_FOUND", "did you mean 'bank'"),
        ({"texts": []}, "INVALID_ARGUMENT", "wanted one of `texts` and `tokens`"),
        ({"texts": ["a"] * 33}, "INVALID_ARGUMENT", "got 33, wanted 32 at most"),
        ({"texts": [], "tokens": [{"tokens": ["a"]}]}, "INVALID_ARGUMENT", "row 0: got a list of tokens"),
    ],
)
def test_errors_have_a_code_a_reason_and_a_mend(
    channel: grpc.Channel, given: dict[str, Any], code: str, told: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel)(request(**given))
    assert caught.value.code().name == code
    assert told in caught.value.details()
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    reason = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(reason) and reason.domain == "luban"
    assert reason.reason in ("NotFound", "BadRequest", "TooLarge") and status.code == caught.value.code().value[0]


def test_a_message_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel)(request(texts=["a" * (1 << 20)]))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_is_no_message_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{PREDICTOR}/Predict")(b"\xff\xff\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_health_tells_of_the_server_and_of_each_model(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", PREDICTOR, "bank"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="bnak"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="bank"))
    assert next(watch).status == serving
    watch.cancel()


def test_reflection_tells_of_services_and_messages(channel: grpc.Channel) -> None:
    found = ProtoReflectionDescriptorDatabase(channel)
    assert {PREDICTOR, "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(found.get_services())
    file = found.FindFileContainingSymbol(PREDICTOR)
    assert [method.name for method in file.service[0].method] == [
        "Predict", "PredictStream", "Explain", "SendFeedback", "ListModels",
    ]  # fmt: skip


def test_a_server_that_stops_breaks_off_no_call(classify: Made) -> None:
    """Eight callers ask without a pause while SIGTERM comes: each call is answered, or told to go elsewhere."""
    failed: list[str] = []
    answered: list[float] = []
    several = threading.Event()

    def ask(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            call = predict(channel)
            while True:
                try:
                    assert len(call(request(), timeout=30).predictions) == len(TEXTS)
                except grpc.RpcError as error:
                    failed.append(f"{error.code().name} {error.details().splitlines()[0]}")
                    return
                answered.append(time.monotonic())
                if len(answered) > 50:
                    several.set()

    with served(f"bank={classify.folder}", "--grpc-port", "0", "--request-s", "30") as server:
        callers = [threading.Thread(target=ask, args=(server.grpc,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        assert several.wait(60)
        server.process.terminate()
        assert server.process.wait(30) == 0
        for caller in callers:
            caller.join()
        assert server.wait_for("drained")["left"] == 0
    assert failed == ["UNAVAILABLE the server stops"] * 8


class Slow:
    """A port in this process whose one method waits for the test, with keys and two places."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.deadlines: list[float] = []

    async def answer(self, call: Call, request: Any) -> Any:
        self.deadlines.append(call.deadline - time.monotonic())
        self.begun.set()
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return message("luban.v1.PredictResponse")(model=request.model)

    @asynccontextmanager
    async def opened(self, **limits: Any) -> AsyncIterator[tuple[Any, Port]]:
        method = Method(
            service="test.Slow", name="Answer", scope="predict", asks_model=True, answer=self.answer,
            takes=message("luban.v1.PredictRequest"), model=lambda request: request.model,
        )  # fmt: skip
        chosen, telemetry = Limits(**{"queue": 2} | limits), Telemetry()
        port = Port([method], Keys(), chosen, telemetry, Places(chosen, telemetry))
        kept = keep("127.0.0.1", 0)
        try:
            address = f"127.0.0.1:{kept.getsockname()[1]}"
            await port.open(address)
            async with grpc.aio.insecure_channel(address) as channel:
                yield (
                    channel.unary_unary(
                        "/test.Slow/Answer",
                        request_serializer=lambda one: one.SerializeToString(),
                        response_deserializer=message("luban.v1.PredictResponse").FromString,
                    ),
                    port,
                )
        finally:
            kept.close()
            await port.close()


GOOD = (("authorization", "Bearer predict"),)
ASKED = {"model": "bank-1"}


def test_a_third_call_is_told_when_to_come_again_and_the_others_are_answered() -> None:
    async def main() -> None:
        slow = Slow()
        async with slow.opened() as (ask, _):
            first = [ask(request(**ASKED), metadata=GOOD) for _ in range(2)]
            waiting = [asyncio.ensure_future(one) for one in first]
            while len(slow.deadlines) < 2:
                await asyncio.sleep(0.001)
            with pytest.raises(grpc.RpcError) as caught:
                await ask(request(**ASKED), metadata=GOOD)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            trailers = dict(caught.value.trailing_metadata())
            assert trailers["grpc-retry-pushback-ms"] == "1000"
            retry = error_details_pb2.RetryInfo()
            status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details[1].Unpack(retry)
            assert retry.retry_delay.seconds == 1
            slow.end.set()
            assert [one.model for one in await asyncio.gather(*waiting)] == ["bank-1"] * 2

    run(main())


def test_the_callers_deadline_is_kept_and_frees_its_place() -> None:
    async def main() -> None:
        slow = Slow()
        async with slow.opened() as (ask, port):
            with pytest.raises(grpc.RpcError) as caught:
                await ask(request(**ASKED), metadata=GOOD, timeout=0.3)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await slow.cancelled.wait()
            assert 0 < slow.deadlines[0] <= 0.301  # gRPC counts it in milliseconds
            while port.n_open:
                await asyncio.sleep(0.001)

    run(main())


def test_a_call_that_is_cancelled_is_not_answered() -> None:
    async def main() -> None:
        slow = Slow()
        async with slow.opened() as (ask, _):
            call = ask(request(**ASKED), metadata=GOOD)
            waiting = asyncio.ensure_future(call)
            await slow.begun.wait()
            call.cancel()
            await slow.cancelled.wait()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    run(main())


def test_draining_answers_those_who_are_inside() -> None:
    async def main() -> None:
        slow = Slow()
        async with slow.opened() as (ask, port):
            waiting = asyncio.ensure_future(ask(request(**ASKED), metadata=GOOD))
            await slow.begun.wait()
            draining = asyncio.create_task(port.drain())
            await asyncio.sleep(0)
            slow.end.set()
            assert (await waiting).model == "bank-1"
            await draining

    run(main())


@pytest.mark.parametrize(
    ("metadata", "model", "code"),
    [
        ((), "bank-1", "UNAUTHENTICATED"),
        ((("authorization", "Bearer nonsense"),), "bank-1", "UNAUTHENTICATED"),
        ((("authorization", "Bearer read"),), "bank-1", "PERMISSION_DENIED"),
        (GOOD, "other", "PERMISSION_DENIED"),
        ((("authorization", "Bearer limited"),), "bank-1", "RESOURCE_EXHAUSTED"),
    ],
)
def test_who_may_not_is_refused(metadata: tuple[tuple[str, str], ...], model: str, code: str) -> None:
    async def main() -> None:
        slow = Slow()
        async with slow.opened() as (ask, _):
            with pytest.raises(grpc.RpcError) as caught:
                await ask(request(model=model), metadata=metadata)
            assert caught.value.code().name == code and not slow.deadlines

    run(main())
