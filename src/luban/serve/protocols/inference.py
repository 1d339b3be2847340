"""The Open Inference Protocol over gRPC: `inference.proto`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from luban.errors import BadRequest
from luban.serve.protocols import tensors
from luban.serve.protocols.asking import Asking, answers, number
from luban.serve.protocols.kserve import PLATFORM
from luban.serve.protocols.messages import INFERENCE, message
from luban.serve.routing import PUBLIC
from luban.serve.rpc import Call, Method


class Inference:
    """What the methods do."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def live(self, call: Call, request: Any) -> Any:
        """Tell that the process lives."""
        return message("inference.ServerLiveResponse")(live=True)

    async def ready(self, call: Call, request: Any) -> Any:
        """Tell whether the server should be sent requests."""
        return message("inference.ServerReadyResponse")(ready=self._asking.ready())

    async def model_ready(self, call: Call, request: Any) -> Any:
        """Tell whether a model answers."""
        model = self._asking.hosting.model(request.name)
        ready = answers(self._asking, model, request.version)
        return message("inference.ModelReadyResponse")(ready=ready)

    async def server(self, call: Call, request: Any) -> Any:
        """Tell of the server."""
        return message("inference.ServerMetadataResponse")(name=PLATFORM, version=version("luban"))

    async def model(self, call: Call, request: Any) -> Any:
        """Tell what a model takes and gives."""
        served = await self._asking.served(request.name, call.deadline, request.version)
        response = message("inference.ModelMetadataResponse")
        found = response(name=served.name, versions=[number(served)], platform=PLATFORM)
        for kinds, target in (
            (tensors.inputs(), found.inputs),
            (tensors.outputs(served.engine.task), found.outputs),
        ):
            for kind in kinds:
                target.add(name=kind.name, datatype=kind.datatype, shape=kind.shape)
        return found

    async def infer(self, call: Call, request: Any) -> Any:
        """Answer a tensor of texts, in the form in which they came: as bytes, or as contents."""
        texts = _texts(request)
        name = request.model_name
        answer = await self._asking.predict(name, texts, call.deadline, request.model_version)
        task = answer.served.engine.task
        found = message("inference.ModelInferResponse")(
            model_name=name, model_version=number(answer.served), id=request.id
        )
        for kind in tensors.chosen(task, [one.name for one in request.outputs]):
            made = tensors.tensor(kind, answer.predictions, task)
            output = found.outputs.add(name=made.name, datatype=made.datatype, shape=made.shape)
            if request.raw_input_contents:
                found.raw_output_contents.append(made.raw())
            elif made.datatype == tensors.FP32:
                output.contents.fp32_contents.extend(made.values)
            else:
                output.contents.bytes_contents.extend(value.encode() for value in made.values)
        return found

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those of the service."""

        def method(name: str, scope: Any, answer: Any, **more: Any) -> Method:
            takes = message(f"inference.{name}Request")
            return Method(service=INFERENCE, name=name, scope=scope, answer=answer, takes=takes, **more)

        return (
            method("ServerLive", PUBLIC, self.live),
            method("ServerReady", PUBLIC, self.ready),
            method("ModelReady", "read", self.model_ready, model=lambda request: request.name),
            method("ServerMetadata", PUBLIC, self.server),
            method("ModelMetadata", "read", self.model, model=lambda request: request.name),
            method("ModelInfer", "predict", self.infer, asks_model=True, model=lambda request: request.model_name),
        )


def _texts(request: Any) -> list[str]:
    """Return the texts of a request.

    Raises:
        BadRequest: its tensors are others.
    """
    first = request.inputs[0] if request.inputs else message("inference.ModelInferRequest.InferInputTensor")()
    n_texts = tensors.check_input(first.name, first.datatype, first.shape, len(request.inputs))
    raw = request.raw_input_contents
    if not raw:
        return tensors.texts_of(list(first.contents.bytes_contents), n_texts)
    if len(raw) != 1 or first.contents.bytes_contents:
        raise BadRequest("inputs: wanted contents, or one of raw_input_contents for the one input")
    return tensors.texts_of(tensors.unpacked(raw[0]), n_texts)
