"""TensorFlow Serving's REST surface: predict by rows and by columns, a model's state, and what it takes and gives."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from luban.errors import BadRequest, LubanError, NotFound
from luban.serve.protocols import tensors
from luban.serve.protocols.asking import Asking, alias, number
from luban.serve.routing import EXAMPLE, Request, Response, Route, decoded
from luban.serve.schemas import encode, version_status

if TYPE_CHECKING:
    from luban.records import Prediction
    from luban.tasks import Task

_TYPES = {tensors.BYTES: "DT_STRING", tensors.FP32: "DT_FLOAT"}
_SIGNATURE = "serving_default"
_SHOWN = '{"instances": ["...", "..."]}, or {"inputs": ["...", "..."]}'


class TfRequest(Struct, kw_only=True):
    """What `:predict` takes: one of `instances` and `inputs`."""

    signature_name: str = _SIGNATURE
    instances: list[Any] | UnsetType = UNSET
    """Texts, or objects with `text`: the answer has `predictions`, an object a text."""
    inputs: Any = UNSET
    """Texts, or an object with `text`: the answer has `outputs`, a list of values a name."""


_REQUEST: msgspec.json.Decoder[TfRequest] = msgspec.json.Decoder(TfRequest)


class TensorFlow:
    """What the routes do."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def predict(self, request: Request) -> Response:
        """Answer rows, or columns."""
        asked = decoded(await request.body(), _REQUEST, self._asking.limits)
        if asked.signature_name != _SIGNATURE:
            raise NotFound(f"signature_name: got {asked.signature_name!r}", hint=f"there is {_SIGNATURE!r} alone")
        if (asked.instances is UNSET) == (asked.inputs is UNSET):
            raise BadRequest("the body: wanted one of `instances` and `inputs`", hint=_SHOWN)
        by_row = not isinstance(asked.instances, UnsetType)
        texts = _by_row(asked.instances) if by_row else _by_column(asked.inputs)
        name = request.params["name"]
        self._check_label(name, request.params.get("label", ""))
        answer = await self._asking.predict(name, texts, request.deadline, request.params.get("version", ""))
        columns = _columns(answer.predictions, answer.served.engine.task)
        if by_row:
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            return Response(encode({"predictions": rows}))
        return Response(encode({"outputs": columns}))

    async def status(self, request: Request) -> Response:
        """Tell how a version is."""
        name = request.params["name"]
        self._check_label(name, request.params.get("label", ""))
        await self._asking.served(name, self._deadline(), request.params.get("version", ""))
        return Response(encode({"model_version_status": version_status(self._asking.hosting.model(name))}))

    async def metadata(self, request: Request) -> Response:
        """Tell what a model takes and gives."""
        name, wanted = request.params["name"], request.params.get("version", "")
        served = await self._asking.served(name, self._deadline(), wanted)
        signature = {
            "inputs": {kind.name: _facts(kind) for kind in tensors.inputs()},
            "outputs": {kind.name: _facts(kind) for kind in tensors.outputs(served.engine.task)},
            "method_name": "tensorflow/serving/predict",
        }
        return Response(encode({
            "model_spec": {"name": name, "signature_name": "", "version": number(served)},
            "metadata": {"signature_def": {"signature_def": {_SIGNATURE: signature}}},
        }))  # fmt: skip

    def _deadline(self) -> float:
        return time.monotonic() + self._asking.limits.request_s

    def _check_label(self, name: str, label: str) -> None:
        """Refuse an alias that the model does not follow here.

        Raises:
            NotFound: there is no such model, or it follows another.
        """
        follows = alias(self._asking.hosting.model(name))
        if label and label != follows:
            known = f"it is served as {follows!r}" if follows else "it is not served by an alias"
            raise NotFound(f"{name}: got the label {label!r}", hint=known)

    @property
    def routes(self) -> tuple[Route, ...]:
        """All of them but `/v1/models/{name}`: the native route's answer has what these clients look for."""
        model = "/v1/models/{name}"
        versions = (f"{model}/versions/{{version}}", f"{model}/labels/{{label}}")
        return (
            *(Route(method="POST", path=f"{path}:predict", scope="predict", answer=self.predict, asks_model=True,
                    takes=TfRequest, example={"instances": [EXAMPLE]}, told=told,
                    about="TensorFlow Serving: answer by rows, or by columns.")
              for path in (model, *versions)),
            *(Route(method="GET", path=path, scope="read", answer=self.status, told=told,
                    about="TensorFlow Serving: tell how a version is.") for path in versions),
            *(Route(method="GET", path=f"{path}/metadata", scope="read", answer=self.metadata, told=told,
                    about="TensorFlow Serving: tell what a model takes and gives.") for path in (model, versions[0])),
        )  # fmt: skip


def told(error: LubanError) -> Mapping[str, Any]:
    """Return what the protocol's clients read of an error."""
    return {"error": str(error)}


def _by_row(instances: Sequence[Any]) -> list[str]:
    return [_text(one, f"instances[{row}]") for row, one in enumerate(instances)]


def _by_column(inputs: Any) -> list[str]:
    given = inputs.get(tensors.INPUT) if isinstance(inputs, dict) else inputs
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list):
        raise BadRequest("inputs: wanted texts, or an object with `text`", hint=_SHOWN)
    return [_text(one, f"inputs[{row}]") for row, one in enumerate(given)]


def _text(given: Any, where: str) -> str:
    """Return the text of one row.

    Raises:
        BadRequest: it is none.
    """
    found = given.get(tensors.INPUT) if isinstance(given, dict) else given
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, str):
        raise BadRequest(f"{where}: wanted a text, or an object with `text`", hint=_SHOWN)
    return found


def _columns(predictions: Sequence[Prediction], task: Task) -> dict[str, list[Any]]:
    """Return every output, a value a text."""
    found: dict[str, list[Any]] = {}
    for kind in tensors.outputs(task):
        made = tensors.tensor(kind, predictions, task)
        width = made.shape[1] if len(made.shape) == 2 else 0
        rows = range(len(predictions))
        found[kind.name] = [made.values[row * width : (row + 1) * width] for row in rows] if width else made.values
    return found


def _facts(kind: tensors.Kind) -> dict[str, Any]:
    dim = [{"size": str(size), "name": ""} for size in kind.shape]
    return {"dtype": _TYPES[kind.datatype], "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": kind.name}
