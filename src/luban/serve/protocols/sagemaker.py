"""SageMaker's container contract: `/ping` and `/invocations`, for the model that was named first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from luban.errors import BadRequest, UnsupportedMedia
from luban.serve import schemas
from luban.serve.protocols.asking import Asking
from luban.serve.routing import EXAMPLE, JSON, PUBLIC, Request, Response, Route, decoded
from luban.serve.schemas import One, Predicted, encode

if TYPE_CHECKING:
    from luban.serve.hosting import Answer

_TEXT, _CSV = b"text/plain", b"text/csv"
_LINES = (b"application/jsonlines", b"application/x-jsonlines", b"application/x-ndjson")
_JSONLINES = _LINES[0]
_TAKES = (JSON, _TEXT, _CSV, *_LINES)
_FIELDS = ("text", "inputs", "features")
"""Where the text of an object may stand: Luban's name, and those of clients of other containers."""
_VALUE: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class SageMaker:
    """What the routes do."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def ping(self, request: Request) -> Response:
        """Tell whether the container is healthy."""
        return Response(b"", 200 if self._asking.ready() else 503)

    async def invocations(self, request: Request) -> Response:
        """Answer a body of texts in the form that is asked for."""
        model = self._asking.only(request.principal, "predict")
        kind = _kind(request, b"content-type") or JSON
        gives = _accepted(request, kind)
        rows = _rows(await request.body(), kind, request)
        answer = await self._asking.predict(model.name, rows, request.deadline)
        return _WRITERS[gives](answer, gives)

    @property
    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        return (
            Route(method="GET", path="/ping", scope=PUBLIC, answer=self.ping, tells_unready=True,
                  about="SageMaker: tell whether the container is healthy."),
            Route(method="POST", path="/invocations", scope="predict", answer=self.invocations, asks_model=True,
                  takes=Any, example={"text": EXAMPLE}, gives=Predicted, also_takes=_names(_TAKES),
                  also_gives=_names(_WRITERS), refuses=(UnsupportedMedia,),
                  about="SageMaker: answer JSON, JSON lines, CSV or plain text."),
        )  # fmt: skip


def _names(kinds: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(kind.decode() for kind in kinds if kind != JSON)


def _kind(request: Request, header: bytes) -> bytes:
    """Return a header's first content type, in lower case and without its parameters; empty where there is none."""
    given = next((value for name, value in request.scope["headers"] if name == header), b"")
    return bytes(given.split(b",")[0].split(b";")[0].strip().lower())


def _accepted(request: Request, kind: bytes) -> bytes:
    """Return the content type of the answer: the one asked for, else the same as came in, or JSON.

    Raises:
        UnsupportedMedia: it is one that this server does not write.
    """
    wanted = _kind(request, b"accept")
    if wanted in (b"", b"*/*", b"application/*"):
        return _JSONLINES if kind in _LINES else JSON
    if wanted == b"text/*":
        return _CSV
    if wanted in _LINES:
        return wanted
    if wanted not in _WRITERS:
        known = ", ".join(one.decode() for one in _WRITERS)
        raise UnsupportedMedia(f"accept: got {wanted[:80].decode('latin-1')}", hint=f"this server writes {known}")
    return wanted


def _rows(body: bytes, kind: bytes, request: Request) -> list[Any]:
    """Return the rows of a body.

    Raises:
        UnsupportedMedia: it is of a kind that this server does not read.
        BadRequest: it is not what it says to be.
    """
    if kind not in _TAKES:
        known = ", ".join(one.decode() for one in _TAKES)
        raise UnsupportedMedia(f"content-type: got {kind[:80].decode('latin-1')}", hint=f"this server reads {known}")
    if kind == JSON:
        return _from_json(decoded(body, _VALUE, request.limits))
    if kind in _LINES:
        lines = [line for line in body.split(b"\n") if line.strip()]
        return [_row(decoded(line, _VALUE, request.limits), f"line {n}") for n, line in enumerate(lines, 1)]
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is no UTF-8: {error}") from None
    if kind == _TEXT:
        return [text]
    try:
        return [fields[0] for fields in csv.reader(io.StringIO(text, newline=""), strict=True) if fields]
    except csv.Error as error:
        raise BadRequest(
            f"the body is no CSV: {error}", hint="one text a line, in quotes where it has commas"
        ) from None


def _from_json(given: Any) -> list[Any]:
    """Return the rows of a JSON value: a text, a list of them, or an object that holds either."""
    if isinstance(given, dict):
        for name in ("texts", "instances", "inputs", "text"):
            if name in given:
                given = given[name]
                break
    if isinstance(given, list):
        return [_row(one, f"row {number}") for number, one in enumerate(given)]
    return [_row(given, "the body")]


def _row(given: Any, where: str) -> Any:
    """Return a text, or a list of tokens.

    Raises:
        BadRequest: it is neither.
    """
    if isinstance(given, dict):
        given = next((given[name] for name in _FIELDS if name in given), None)
    if not isinstance(given, str | list):
        raise BadRequest(f"{where}: wanted a text, or an object with `text`", hint='{"texts": ["...", "..."]}')
    return given


def _json(answer: Answer, kind: bytes) -> Response:
    return Response(encode(schemas.predicted(answer, scores=False)))


def _json_lines(answer: Answer, kind: bytes) -> Response:
    lines = [encode(one) for one in schemas.predicted(answer, scores=False).predictions]
    return Response(b"".join(line + b"\n" for line in lines), kind=kind)


def _csv(answer: Answer, kind: bytes) -> Response:
    """Return a line a text: label and score, or what stands for the label in JSON where there may be several."""
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows(
        _fields(one) for one in schemas.predicted(answer, scores=False).predictions
    )
    return Response(written.getvalue().encode(), kind=kind + b"; charset=utf-8")


def _fields(one: One) -> Sequence[Any]:
    if one.spans is not msgspec.UNSET:
        return (encode(one.spans).decode(),)
    label = encode(one.labels).decode() if one.labels is not msgspec.UNSET else one.label
    return label, one.score


_WRITERS = {JSON: _json, _CSV: _csv, **dict.fromkeys(_LINES, _json_lines)}
