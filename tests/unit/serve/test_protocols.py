"""What clients of other servers get: the same answers in their own form, asked by the real clients if there are any."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from serving import Server, served
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException
from unit.bundle.made import Made, made

from luban.bundle import pooled
from luban.bundle.engine import Engine
from luban.errors import CorruptBundle
from luban.serve.protocols.messages import INFERENCE, pool

TEXTS = ["ab cd", "我的卡还没到", 'a b, "c" d e f']


@pytest.fixture(scope="module")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "tag", "onnx")


@pytest.fixture(scope="module")
def server(classify: Made, tag: Made) -> Iterator[Server]:
    with served(
        f"bank={classify.folder}", f"news={tag.folder}", "--grpc-port", "0", "--embeddings", "--request-s", "30"
    ) as found:
        yield found


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as found:
        yield found


def labels(engine: Engine) -> list[str]:
    return [one.label or "" for one in engine.predict(TEXTS)]


def scores(engine: Engine) -> list[float]:
    return [one.score for one in engine.predict(TEXTS)]


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    if request.param == "http":
        found = triton_http.InferenceServerClient(server.url.removeprefix("http://"))
    else:
        found = triton_grpc.InferenceServerClient(server.grpc)
    yield found
    found.close()


class TestKserve:
    """The Open Inference Protocol, by Triton's clients."""

    def test_state(self, client: Any) -> None:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("bank") and client.is_model_ready("bank", "1")
        with pytest.raises(InferenceServerException, match="version '9'"):
            client.get_model_metadata("bank", "9")
        told = client.get_server_metadata()
        assert (told["name"] if isinstance(told, dict) else told.name) == "luban"

    def test_metadata(self, client: Any, engine: Engine) -> None:
        more = {"as_json": True} if isinstance(client, triton_grpc.InferenceServerClient) else {}
        told = client.get_model_metadata("bank", **more)
        assert told["name"] == "bank" and told["versions"] == ["1"]
        assert [(one["name"], one["datatype"]) for one in told["inputs"]] == [("text", "BYTES")]
        assert [one["name"] for one in told["outputs"]] == ["label", "score", "scores"]
        assert [int(size) for size in told["outputs"][2]["shape"]] == [-1, len(engine.labels)]

    @pytest.mark.parametrize("shape", [[3], [3, 1]])
    def test_infer(self, client: Any, engine: Engine, shape: list[int]) -> None:
        kinds = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
        given = kinds.InferInput("text", shape, "BYTES")
        given.set_data_from_numpy(np.array([text.encode() for text in TEXTS], np.object_).reshape(shape))
        wanted = [kinds.InferRequestedOutput(name) for name in ("scores", "label")]
        found = client.infer("bank", [given], outputs=wanted, request_id="mine")
        assert [label.decode() for label in found.as_numpy("label")] == labels(engine)
        each = [[one.scores[label] for label in engine.labels] for one in engine.predict(TEXTS)]
        np.testing.assert_allclose(found.as_numpy("scores"), each, atol=1e-5)
        plain = client.infer("bank", [given])
        np.testing.assert_allclose(plain.as_numpy("score"), scores(engine), atol=1e-5)
        assert plain.as_numpy("scores") is None

    def test_entities(self, client: Any, tag: Made) -> None:
        kinds = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
        given = kinds.InferInput("text", [3], "BYTES")
        given.set_data_from_numpy(np.array([text.encode() for text in TEXTS], np.object_))
        found = [json.loads(one) for one in client.infer("news", [given]).as_numpy("spans")]
        wanted = [one.spans for one in Engine.open(tag.folder, threads=1).predict(TEXTS)]
        assert [[one["text"] for one in spans] for spans in found] == [[one.text for one in spans] for spans in wanted]

    @pytest.mark.parametrize(
        ("model", "name", "datatype", "told"),
        [
            ("bnak", "text", "BYTES", "did you mean 'bank'"),
            ("bank", "txt", "BYTES", "wanted 'text' of BYTES"),
            ("bank", "text", "INT32", "wanted 'text' of BYTES"),
        ],
    )
    def test_errors(self, client: Any, model: str, name: str, datatype: str, told: str) -> None:
        kinds = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
        given = kinds.InferInput(name, [1], datatype)
        given.set_data_from_numpy(np.array([b"a"], np.object_) if datatype == "BYTES" else np.ones(1, np.int32))
        with pytest.raises(InferenceServerException, match=told):
            client.infer(model, [given])

    def test_plain_json(self, http: httpx.Client, engine: Engine) -> None:
        body = {
            "id": "7",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [3, 1], "data": [[t] for t in TEXTS]}],
        }
        for path in ("/v2/models/bank/infer", "/v2/models/bank/versions/1/infer"):
            found = http.post(path, json=body).json()
            assert (found["id"], found["model_name"]) == ("7", "bank")
            assert found["outputs"][0] == {"name": "label", "datatype": "BYTES", "shape": [3], "data": labels(engine)}
        assert http.post("/v2/models/bank/versions/4/infer", json=body).status_code == 404
        assert http.get("/v2/models/bank/versions/4/ready").status_code == 404

    @pytest.mark.parametrize(
        ("length", "behind"), [("999999", b""), ("x", b""), (None, b"\x09\0\0\0a"), (None, b"\x01\0\0\0a\x02")]
    )
    def test_damaged_bytes_are_refused(self, http: httpx.Client, length: str | None, behind: bytes) -> None:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(behind)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": length or str(len(head))}
        found = http.post("/v2/models/bank/infer", content=head + behind, headers=headers)
        assert found.status_code == 400 and found.json()["error"].startswith(("inputs", "inference-header"))

    def test_the_messages_are_the_protocols(self) -> None:
        """Every field has the name, number and type that Triton's client has."""
        theirs = service_pb2.DESCRIPTOR
        for method in pool().FindServiceByName(INFERENCE).methods:
            for ours in (method.input_type, method.output_type):
                wanted = theirs.message_types_by_name[ours.name]
                assert {(f.name, f.number, f.type) for f in ours.fields} == {
                    (f.name, f.number, f.type) for f in wanted.fields
                }


class TestTensorFlow:
    """TensorFlow Serving's REST."""

    @pytest.mark.parametrize("path", ["/v1/models/bank", "/v1/models/bank/versions/1"])
    def test_rows_and_columns(self, http: httpx.Client, engine: Engine, path: str) -> None:
        rows = http.post(f"{path}:predict", json={"instances": [TEXTS[0], {"text": TEXTS[1]}, {"text": [TEXTS[2]]}]})
        found = rows.json()["predictions"]
        assert [one["label"] for one in found] == labels(engine)
        assert [one["score"] for one in found] == pytest.approx(scores(engine), abs=1e-5)
        for given in (TEXTS, {"text": TEXTS}):
            columns = http.post(f"{path}:predict", json={"inputs": given}).json()["outputs"]
            assert columns["label"] == labels(engine)
            assert np.shape(columns["scores"]) == (3, len(engine.labels))

    def test_state_and_metadata(self, http: httpx.Client) -> None:
        for path in ("/v1/models/bank", "/v1/models/bank/versions/1"):
            (state,) = http.get(path).json()["model_version_status"]
            assert state == {
                "version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""},
            }  # fmt: skip
        told = http.get("/v1/models/bank/metadata").json()["metadata"]["signature_def"]["signature_def"]
        assert told["serving_default"]["inputs"]["text"]["dtype"] == "DT_STRING"
        assert set(told["serving_default"]["outputs"]) == {"label", "score", "scores"}

    @pytest.mark.parametrize(
        ("path", "body", "status", "told"),
        [
            ("/v1/models/bnak:predict", {"instances": ["a"]}, 404, "did you mean 'bank'"),
            ("/v1/models/bank/versions/9:predict", {"instances": ["a"]}, 404, "version '9'"),
            ("/v1/models/bank/labels/champion:predict", {"instances": ["a"]}, 404, "label 'champion'"),
            ("/v1/models/bank:predict", {"instances": ["a"], "inputs": ["a"]}, 400, "one of `instances`"),
            ("/v1/models/bank:predict", {"instances": [1.5]}, 400, "instances[0]: wanted a text"),
            ("/v1/models/bank:predict", {"inputs": 3}, 400, "inputs: wanted texts"),
            ("/v1/models/bank:predict", {"instances": ["a"], "signature_name": "x"}, 404, "signature_name"),
        ],
    )
    def test_errors(self, http: httpx.Client, path: str, body: Any, status: int, told: str) -> None:
        found = http.post(path, json=body)
        assert found.status_code == status and told in found.json()["error"]


class TestSageMaker:
    """The container's contract: what its endpoints and batch jobs send."""

    def test_ping(self, http: httpx.Client) -> None:
        assert http.get("/ping").status_code == 200

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("application/json", json.dumps({"texts": TEXTS})),
            ("application/json; charset=utf-8", json.dumps({"instances": [{"features": text} for text in TEXTS]})),
            ("application/json", json.dumps(TEXTS)),
            ("application/jsonlines", "".join(json.dumps({"inputs": text}) + "\n" for text in TEXTS)),
            ("text/csv", 'ab cd,1\n我的卡还没到,2\n"a b, ""c"" d e f"\n'),
        ],
    )
    @pytest.mark.parametrize("accept", ["application/json", "application/jsonlines", "text/csv", "*/*"])
    def test_every_form_gives_the_same(
        self, http: httpx.Client, engine: Engine, kind: str, body: str, accept: str
    ) -> None:
        found = http.post("/invocations", content=body.encode(), headers={"content-type": kind, "accept": accept})
        assert found.status_code == 200, found.text
        if found.headers["content-type"].startswith("text/csv"):
            got = [row[0] for row in csv.reader(found.text.splitlines())]
        elif found.headers["content-type"] == "application/jsonlines":
            got = [json.loads(line)["label"] for line in found.text.splitlines()]
        else:
            got = [one["label"] for one in found.json()["predictions"]]
        assert got == labels(engine)

    def test_a_plain_text_is_one_row(self, http: httpx.Client, engine: Engine) -> None:
        found = http.post("/invocations", content=TEXTS[1].encode(), headers={"content-type": "text/plain"}).json()
        assert [one["label"] for one in found["predictions"]] == labels(engine)[1:2]

    @pytest.mark.parametrize(
        ("headers", "body", "status"),
        [
            ({"content-type": "application/x-npy"}, b"a", 415),
            ({"content-type": "text/plain", "accept": "image/png"}, b"a", 415),
            ({"content-type": "application/json"}, b"{", 400),
            ({"content-type": "application/json"}, b'{"other": 1}', 400),
            ({"content-type": "application/jsonlines"}, b'"a"\n7\n', 400),
            ({"content-type": "text/csv"}, b'"a', 400),
            ({"content-type": "text/csv"}, b"\xff", 400),
            ({"content-type": "text/csv"}, b"a\n" * 33, 413),
        ],
    )
    def test_errors(self, http: httpx.Client, headers: dict[str, str], body: bytes, status: int) -> None:
        assert http.post("/invocations", content=body, headers=headers).status_code == status


class TestOpenAi:
    """Vectors, by OpenAI's client."""

    @pytest.fixture
    def client(self, server: Server) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
            yield found

    @pytest.mark.parametrize("form", ["float", "base64"])
    def test_vectors(self, client: openai.OpenAI, classify: Made, form: Any) -> None:
        found = client.embeddings.create(model="bank", input=TEXTS, encoding_format=form)
        given = [one.embedding for one in found.data]
        vectors = np.array(
            [np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one for one in given]
        )
        np.testing.assert_allclose(vectors, wanted(classify, TEXTS), atol=1e-5)
        assert [one.index for one in found.data] == [0, 1, 2] and found.model == "bank"
        n_tokens = len(Engine.open(classify.folder).encode(TEXTS).ids)
        assert (found.usage.prompt_tokens, found.usage.total_tokens) == (n_tokens, n_tokens)

    def test_one_text_and_its_width(self, client: openai.OpenAI, classify: Made) -> None:
        width = wanted(classify, TEXTS[:1]).shape[1]
        (one,) = client.embeddings.create(model="bank", input=TEXTS[0], dimensions=width).data
        assert len(one.embedding) == width

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"dimensions": 3}, "dimensions: got 3"),
            ({"input": [[1, 2]]}, "got tokens, wanted texts"),
            ({"input": []}, "got none"),
            ({"model": "news"}, "gives no vectors"),
            ({"model": "bnak"}, "did you mean 'bank'"),
        ],
    )
    def test_errors(self, client: openai.OpenAI, given: dict[str, Any], told: str) -> None:
        with pytest.raises(openai.APIStatusError, match=told) as caught:
            client.embeddings.create(**{"model": "bank", "input": ["a"], **given})
        assert caught.value.body["type"] == "invalid_request_error"  # type: ignore[index]


def wanted(made: Made, texts: list[str]) -> np.ndarray:
    """Return vectors as torch computes them: the pooled states of each window, a mean over windows, of length 1."""
    import torch

    from luban.models.heads import pool
    from luban.models.windows import pad

    encoded = made.task.encode(texts, made.processor)
    batch = pad(encoded, np.arange(len(encoded)), made.processor.pad_id)
    ids, mask = (torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask"))
    with torch.no_grad():
        hidden = made.model.body(input_ids=ids, attention_mask=mask).last_hidden_state
        windows = pool(hidden, mask, made.model.head.pooling).numpy()
    found = np.zeros((len(texts), windows.shape[1]), np.float32)
    np.add.at(found, encoded.rows, windows * encoded.lengths[:, None])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_without_being_asked_for_there_are_no_vectors(classify: Made) -> None:
    assert Engine.open(classify.folder).vectors is None
    with_both = Engine.open(classify.folder, vectors=True)
    assert [one.scores for one in with_both.predict(TEXTS)] == [
        one.scores for one in Engine.open(classify.folder).predict(TEXTS)
    ]


@pytest.mark.parametrize("damage", [b"\x3a\xff", b"\x3b", b"\xff" * 12])
def test_a_damaged_graph_is_told_of_as_any_other(classify: Made, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(damage)
    with pytest.raises(CorruptBundle, match=r"model\.onnx can't be loaded"):
        pooled.open(tmp_path, {"kind": "onnx"}, 1)
