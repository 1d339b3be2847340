"""Explanations by REST, gRPC and the clients: what the engine itself says, and no place of those who are in a hurry."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from serving import Server, served
from unit.bundle.made import Made, made, texts

from luban.bundle.engine import Engine
from luban.bundle.explain import Scorer
from luban.client.asynchronous import AsyncClient
from luban.client.synchronous import Client
from luban.errors import BadRequest, DeadlineExceeded, LubanError, NotFound, Overloaded
from luban.records import Explanation
from luban.serve import explaining
from luban.serve.batch import Answered, Batcher
from luban.serve.limits import Limits
from luban.serve.places import Places
from luban.serve.protocols.messages import PREDICTOR, message
from luban.serve.telemetry import Telemetry

TEXT = "where is my new card? 我的卡丢了"


@pytest.fixture(scope="module")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "tag", "onnx")


@pytest.fixture(scope="module")
def server(classify: Made, tag: Made) -> Iterator[Server]:
    models = (f"bank={classify.folder}", f"names={tag.folder}")
    with served(*models, "--grpc-port", "0", "--request-s", "30") as found:
        yield found


def post(server: Server, body: dict[str, Any], model: str = "bank") -> tuple[int, Any]:
    request = urllib.request.Request(f"{server.url}/v1/models/{model}/explain", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def near(found: Explanation, wanted: Explanation) -> None:
    """Compare explanations but for the last bits, which the company in a batch changes."""
    assert (found.text, found.method, found.n_rows) == (wanted.text, wanted.method, wanted.n_rows)
    for one, other in zip(found.reasons, wanted.reasons, strict=True):
        assert (one.label, one.score) == (other.label, pytest.approx(other.score, abs=1e-4))
        assert [(part.start, part.end, part.text) for part in one.parts] == [
            (part.start, part.end, part.text) for part in other.parts
        ]
        weights = [part.weight for part in other.parts]
        assert [part.weight for part in one.parts] == pytest.approx(weights, abs=1e-2)
        assert (one.rest is None) == (other.rest is None) and (one.span is None) == (other.span is None)


def test_rest_explains_as_the_engine_does(server: Server, classify: Made, engine: Engine) -> None:
    status, found = post(server, {"text": TEXT, "rows": 40})
    wanted = engine.explain(TEXT, rows=40)
    assert status == 200 and found["digest"] == classify.bundle.digest and found["version"] is None
    assert (found["model"], found["method"], found["rows"]) == ("bank", "shapley", wanted.n_rows)
    (reason,) = found["reasons"]
    total = reason["rest"] + sum(part["weight"] for part in reason["parts"])
    assert total == pytest.approx(reason["log_odds"], abs=1e-3) and "span" not in reason


@pytest.mark.parametrize(
    ("body", "model", "status", "told"),
    [
        ({"text": TEXT, "label": "card lots"}, "bank", 400, "card lost"),
        ({"text": TEXT, "rows": 1}, "bank", 400, "from 16"),
        ({"text": [TEXT]}, "bank", 400, "text: got a list, wanted a text"),
        ({"texts": [TEXT]}, "bank", 400, "texts"),
        ({"text": TEXT}, "bonk", 404, "bank"),
    ],
)
def test_what_can_t_be_explained_is_refused(server: Server, body: Any, model: str, status: int, told: str) -> None:
    found, problem = post(server, body, model)
    assert found == status and told in problem["detail"] + problem.get("hint", "")


def test_both_clients_give_what_the_engine_gives(server: Server, engine: Engine, tag: Made) -> None:
    async def ask(model: str, text: str) -> Any:
        async with AsyncClient(server.url) as client:
            return await client.explain(model, text, rows=40)

    names = Engine.open(tag.folder, threads=1)
    sentence = next(text for text in texts(60, seed=4, longest=12) if names.predict([text])[0].spans)
    with Client(server.url) as client:
        for model, opened, text in (("bank", engine, TEXT), ("names", names, sentence)):
            wanted = opened.explain(text, rows=40)
            near(client.explain(model, text, rows=40).explanation, wanted)
            near(asyncio.run(ask(model, text)).explanation, wanted)
        assert client.explain("bank", TEXT, engine.labels[2]).explanation.reasons[0].label == engine.labels[2]
        with pytest.raises(BadRequest, match="label"):
            client.explain("bank", TEXT, "nonsense")


def test_grpc_explains_as_the_engine_does(server: Server, engine: Engine) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        explain = channel.unary_unary(
            f"/{PREDICTOR}/Explain",
            request_serializer=lambda one: one.SerializeToString(),
            response_deserializer=message("luban.v1.ExplainResponse").FromString,
        )
        ask = message("luban.v1.ExplainRequest")
        found = explain(ask(model="bank", text=TEXT, rows=40, label=engine.labels[0]))
        (reason,) = engine.explain(TEXT, engine.labels[0], rows=40).reasons
        assert [part.text for part in found.reasons[0].parts] == [part.text for part in reason.parts]
        weights = [part.weight for part in reason.parts]
        assert [part.weight for part in found.reasons[0].parts] == pytest.approx(weights, abs=1e-2)
        assert found.reasons[0].rest == pytest.approx(reason.rest, abs=1e-2) and not found.HasField("version")
        with pytest.raises(grpc.RpcError) as caught:
            explain(ask(model="bank", text=TEXT, rows=3))
        assert caught.value.code().name == "INVALID_ARGUMENT"


def test_explanations_take_no_place_of_those_in_a_hurry() -> None:
    places = Places(Limits(queue=1, explanations=1), Telemetry())
    with places.explanation(), places.one():
        with pytest.raises(Overloaded, match="1 explanations"), places.explanation():
            raise AssertionError
        with pytest.raises(Overloaded, match="1 requests"), places.one():
            raise AssertionError
    with places.explanation():
        assert places.n_explained == 1


def explained(engine: Engine, text: Any, seconds: float, told: list[Answered]) -> Explanation:
    async def main() -> Explanation:
        lane = batcher.lane(Scorer(engine), "bank", patient=True)
        return await explaining.explain(lane, text, None, 40, time.monotonic() + seconds, told.append)

    batcher = Batcher()
    try:
        return asyncio.run(main())
    finally:
        batcher.close()


@pytest.mark.parametrize(("text", "seconds", "kind"), [(TEXT, -1.0, DeadlineExceeded), (7, 30.0, BadRequest)])
def test_what_fails_on_the_way_fails_with_its_own_error(
    engine: Engine, text: Any, seconds: float, kind: type[LubanError]
) -> None:
    with pytest.raises(kind):
        explained(engine, text, seconds, [])


def test_a_long_text_goes_in_several_steps_and_every_answer_is_told(engine: Engine) -> None:
    told: list[Answered] = []
    text = " ".join(texts(8, seed=1))
    near(explained(engine, text, 60.0, told), engine.explain(text, rows=40))
    assert sum(len(one.predictions) for one in told) == engine.explain(text, rows=40).n_rows


def test_a_model_that_is_not_there_is_told_by_the_client(server: Server) -> None:
    with Client(server.url) as client, pytest.raises(NotFound, match="bonk"):
        client.explain("bonk", TEXT)
