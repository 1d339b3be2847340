"""All routes and all methods of a server, in one place each: who walks them has seen every door."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from luban.serve import schemas
from luban.serve.feedback import FeedbackRoutes
from luban.serve.limits import Limits
from luban.serve.openapi import document, page
from luban.serve.protocols.asking import Asking
from luban.serve.protocols.kserve import Kserve
from luban.serve.protocols.openai import OpenAi
from luban.serve.protocols.sagemaker import SageMaker
from luban.serve.protocols.tensorflow import TensorFlow
from luban.serve.rest import Rest
from luban.serve.routing import PUBLIC, Request, Response, Route
from luban.serve.schemas import encode

if TYPE_CHECKING:
    from luban.serve.rpc import Method

_HTML = b"text/html; charset=utf-8"


def routes(rest: Rest, asking: Asking) -> tuple[Route, ...]:
    """Return every route of the port that callers use."""
    return (
        *rest.routes,
        *FeedbackRoutes(asking.feedback, asking.limits).routes,
        *Kserve(asking).routes,
        *TensorFlow(asking).routes,
        *SageMaker(asking).routes,
        *OpenAi(asking).routes,
        Route(method="GET", path="/", scope=PUBLIC, answer=_index, gives=schemas.Index, about="Where everything is."),
        Route(method="GET", path="/openapi.json", scope=PUBLIC, answer=_openapi, about="This document."),
        Route(method="GET", path="/docs", scope=PUBLIC, answer=_docs, about="This document, for reading."),
    )


def methods(asking: Asking) -> tuple[Method, ...]:
    """Return every method of gRPC.

    Raises:
        MissingExtra: a package of the extra `grpc` is not installed.
    """
    from luban.serve.protocols.inference import Inference
    from luban.serve.protocols.messages import INFERENCE, PREDICTOR
    from luban.serve.protocols.predictor import Predictor
    from luban.serve.protocols.probes import Probes

    own = (*Predictor(asking).methods, *Inference(asking).methods)
    return (*own, *Probes(asking, (PREDICTOR, INFERENCE)).methods)


async def _index(request: Request) -> Response:
    """Tell where to go from here."""
    return Response(encode(schemas.Index(version=version("luban"))))


async def _openapi(request: Request) -> Response:
    """Describe the routes."""
    return Response(_document())


async def _docs(request: Request) -> Response:
    """Describe the routes for a person."""
    return Response(_page(), kind=_HTML)


@cache
def _document() -> bytes:
    return encode(document(_described(), version("luban")))


@cache
def _page() -> bytes:
    return page(document(_described(), version("luban")))


def _described() -> tuple[Route, ...]:
    """Return the routes as they are on every server; nothing of them is called."""
    nothing: Any = None
    asking = Asking(nothing, Limits(), nothing, lambda: False)
    return routes(Rest(nothing, asking.limits, nothing, asking.ready), asking)
