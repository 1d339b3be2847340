"""KServe's protocol, version 2 (Open Inference Protocol), over HTTP, with its extension for tensors as bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from luban.errors import BadRequest, LubanError
from luban.serve.protocols import tensors
from luban.serve.protocols.asking import Asking, answers, number
from luban.serve.routing import EXAMPLE, PUBLIC, Request, Response, Route, decoded
from luban.serve.schemas import encode

PLATFORM = "luban"
EXTENSIONS = ("binary_tensor_data",)
_HEADER = b"inference-header-content-length"
_OCTETS = b"application/octet-stream"
_BINARY = (_OCTETS.decode(),)


class InferInput(Struct, kw_only=True):
    """A tensor that goes in."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | UnsetType = UNSET


class InferOutput(Struct, kw_only=True):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(Struct, kw_only=True):
    """What `infer` takes: one tensor `text` of BYTES."""

    id: str | UnsetType = UNSET
    """Comes back with the answer."""
    parameters: dict[str, Any] = {}
    inputs: list[InferInput]
    outputs: list[InferOutput] = []
    """Those that are wanted; without any, all but `scores`."""


class TensorFacts(Struct, kw_only=True):
    """A tensor that a model takes or gives."""

    name: str
    datatype: str
    shape: list[int]


class ModelFacts(Struct, kw_only=True):
    """What is told of a model."""

    name: str
    versions: list[str]
    """Number of the version that answers; 1 for a folder."""
    platform: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    labels: list[str]
    """In the order of `scores`."""


class InferredTensor(Struct, kw_only=True):
    """A tensor that comes out."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class Inferred(Struct, kw_only=True):
    """What `infer` gives."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    outputs: list[InferredTensor]


_REQUEST: msgspec.json.Decoder[InferRequest] = msgspec.json.Decoder(InferRequest)


class Kserve:
    """What the routes do."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def server(self, request: Request) -> Response:
        """Tell of the server."""
        return Response(encode({"name": PLATFORM, "version": version("luban"), "extensions": EXTENSIONS}))

    async def live(self, request: Request) -> Response:
        """Tell that the process lives."""
        return Response(encode({"live": True}))

    async def ready(self, request: Request) -> Response:
        """Tell whether the server should be sent requests."""
        ready = self._asking.ready()
        return Response(encode({"ready": ready}), 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model answers; one that was put away does, when it is asked."""
        model = self._asking.hosting.model(request.params["name"])
        ready = answers(self._asking, model, request.params.get("version", ""))
        return Response(encode({"name": model.name, "ready": ready}), 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        """Tell what a model takes and gives."""
        deadline = time.monotonic() + self._asking.limits.request_s
        served = await self._asking.served(request.params["name"], deadline, request.params.get("version", ""))
        task = served.engine.task
        return Response(encode(ModelFacts(
            name=served.name, versions=[number(served)], platform=PLATFORM,
            inputs=[_facts(kind) for kind in tensors.inputs()],
            outputs=[_facts(kind) for kind in tensors.outputs(task)], labels=list(task.labels),
        )))  # fmt: skip

    async def infer(self, request: Request) -> Response:
        """Answer a tensor of texts."""
        body = await request.body()
        asked, raw = _parts(body, request)
        texts = _texts(asked.inputs, raw)
        name, wanted = request.params["name"], request.params.get("version", "")
        answer = await self._asking.predict(name, texts, request.deadline, wanted)
        task = answer.served.engine.task
        by_name = {one.name: one for one in asked.outputs}
        everything = bool(asked.parameters.get("binary_data_output"))
        told, packed = [], []
        for kind in tensors.chosen(task, list(by_name)):
            made = tensors.tensor(kind, answer.predictions, task)
            one = InferredTensor(name=made.name, datatype=made.datatype, shape=list(made.shape))
            given = by_name[kind.name].parameters if kind.name in by_name else {}
            if given.get("binary_data", everything):
                packed.append(made.raw())
                one.parameters = {"binary_data_size": len(packed[-1])}
            else:
                one.data = made.values
            told.append(one)
        head = encode(
            Inferred(model_name=name, model_version=number(answer.served), id=asked.id, outputs=told)
        )  # fmt: skip
        if not packed:
            return Response(head)
        return Response(b"".join((head, *packed)), kind=_OCTETS, headers=((_HEADER, b"%d" % len(head)),))

    @property
    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        versions = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        return (
            Route(method="GET", path="/v2", scope=PUBLIC, answer=self.server, about="KServe v2: tell of the server."),
            Route(method="GET", path="/v2/health/live", scope=PUBLIC, answer=self.live,
                  about="KServe v2: tell that the process lives."),
            Route(method="GET", path="/v2/health/ready", scope=PUBLIC, answer=self.ready, tells_unready=True,
                  about="KServe v2: tell whether the server should be sent requests."),
            *(Route(method="GET", path=path, scope="read", answer=self.model, gives=ModelFacts, told=told,
                    about="KServe v2: tell what a model takes and gives.") for path in versions),
            *(Route(method="GET", path=f"{path}/ready", scope="read", answer=self.model_ready, told=told,
                    tells_unready=True, about="KServe v2: tell whether a model answers.") for path in versions),
            *(Route(method="POST", path=f"{path}/infer", scope="predict", answer=self.infer, asks_model=True,
                    takes=InferRequest, gives=Inferred, also_takes=_BINARY, also_gives=_BINARY, told=told,
                    example={"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1],
                                         "data": [EXAMPLE]}]},
                    about="KServe v2: answer a tensor of texts.")
              for path in versions),
        )  # fmt: skip


def told(error: LubanError) -> Mapping[str, Any]:
    """Return what the protocol's clients read of an error."""
    return {"error": str(error)}


def _facts(kind: tensors.Kind) -> TensorFacts:
    return TensorFacts(name=kind.name, datatype=kind.datatype, shape=list(kind.shape))


def _parts(body: bytes, request: Request) -> tuple[InferRequest, memoryview]:
    """Return the JSON of a body, and the bytes behind it.

    Raises:
        BadRequest: it is no JSON, or the header says a length that it has not.
    """
    length = next((value for name, value in request.scope["headers"] if name == _HEADER), None)
    if length is None:
        return decoded(body, _REQUEST, request.limits), memoryview(b"")
    if not length.isdigit() or int(length) > len(body):
        raise BadRequest(f"{_HEADER.decode()}: got {length[:20].decode('latin-1')}, and a body of {len(body)} bytes")
    return decoded(body[: int(length)], _REQUEST, request.limits), memoryview(body)[int(length) :]


def _texts(inputs: Sequence[InferInput], raw: memoryview) -> list[str]:
    """Return the texts of a request.

    Raises:
        BadRequest: its tensors are others.
    """
    first = inputs[0] if inputs else InferInput(name="", datatype="", shape=[])
    n_texts = tensors.check_input(first.name, first.datatype, first.shape, len(inputs))
    if (size := first.parameters.get("binary_data_size")) is not None:
        if size != len(raw):
            raise BadRequest(f"inputs: binary_data_size is {size}, and there are {len(raw)} bytes behind the JSON")
        return tensors.texts_of(tensors.unpacked(raw), n_texts)
    given = [] if isinstance(first.data, UnsetType) else first.data
    flat = [value for row in given for value in (row if isinstance(row, list) else [row])]
    if not all(isinstance(value, str) for value in flat):
        raise BadRequest("inputs: got data that are no texts, wanted texts", hint='"data": ["...", "..."]')
    return tensors.texts_of(flat, n_texts)
