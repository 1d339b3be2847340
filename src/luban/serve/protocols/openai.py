"""OpenAI's `/v1/embeddings`: vectors of texts, out of the models that label them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from luban.errors import BadRequest, LubanError, codes
from luban.serve.protocols.asking import Asking
from luban.serve.routing import EXAMPLE, Request, Response, Route, decoded
from luban.serve.schemas import encode


class EmbeddingRequest(Struct, kw_only=True):
    """Texts that are to become vectors."""

    model: str
    input: str | list[str | int | list[int]]
    """One text, or several. Tokens are refused: they are another model's."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64` gives little-endian float32."""
    dimensions: int | UnsetType | None = UNSET
    """The model's own width, or left out."""
    user: str | UnsetType = UNSET
    """Not used."""


class Embedding(Struct, kw_only=True):
    """The vector of a text."""

    object: str = "embedding"
    index: int
    """Which text, counted from 0."""
    embedding: list[float] | str
    """Of length 1."""


class Usage(Struct, kw_only=True):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, kw_only=True):
    """The vectors of a request's texts, in their order."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: Usage


_REQUEST: msgspec.json.Decoder[EmbeddingRequest] = msgspec.json.Decoder(EmbeddingRequest)


class OpenAi:
    """What the routes do."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def embeddings(self, request: Request) -> Response:
        """Answer texts with vectors."""
        asked = decoded(await request.body(), _REQUEST, self._asking.limits)
        model = self._asking.model(request.principal, asked.model, "predict")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not all(isinstance(text, str) for text in texts):
            raise BadRequest("input: got tokens, wanted texts", hint="turn off what tokenises on your side")
        answer = await self._asking.vectors(model.name, texts, request.deadline)
        vectors: list[Any] = answer.predictions
        width = len(vectors[0])
        if asked.dimensions not in (UNSET, None, width):
            raise BadRequest(f"dimensions: got {asked.dimensions}, wanted {width}", hint="leave it out")
        packed = asked.encoding_format == "base64"
        data = [Embedding(index=n, embedding=_packed(one) if packed else one.tolist()) for n, one in enumerate(vectors)]
        n_tokens = answer.answered.n_tokens
        usage = Usage(prompt_tokens=n_tokens, total_tokens=n_tokens)
        return Response(encode(Embeddings(data=data, model=model.name, usage=usage)))

    @property
    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        return (
            Route(method="POST", path="/v1/embeddings", scope="predict", answer=self.embeddings, asks_model=True,
                  takes=EmbeddingRequest, gives=Embeddings, told=told,
                  example={"model": "NAME", "input": [EXAMPLE]},
                  about="OpenAI: answer texts with vectors, where the server was started with --embeddings."),
        )  # fmt: skip


def told(error: LubanError) -> Mapping[str, Any]:
    """Return what the protocol's clients read of an error."""
    kind = "invalid_request_error" if codes(error).http < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": type(error).__name__}}


def _packed(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
