"""What is turned away before it costs anything, and that no route is without a decision."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from luban.errors import Forbidden, Overloaded, Unauthenticated, Unavailable
from luban.serve.access import SCOPES, Headers, Open, Principal
from luban.serve.admit import Application
from luban.serve.limits import Limits
from luban.serve.openapi import document
from luban.serve.rest import Rest
from luban.serve.routing import PUBLIC, Request, Response, Route, Router, too_deep
from luban.serve.telemetry import Telemetry

LIMITS = Limits(body_bytes=1000, queue=2, streams=1, body_s=0.2, depth=5)
NOTHING: Any = None


class Keys:
    """Knows a key for each scope, and one that does not come in now."""

    async def principal(self, headers: Headers) -> Principal:
        key = dict(headers).get(b"authorization", b"").removeprefix(b"Bearer ").decode()
        if key == "limited":
            raise Overloaded("this key's rate is used up", retry_after_s=2.2)
        if key not in SCOPES:
            raise Unauthenticated("no good key")
        return Principal(name=key, scopes=frozenset({key}), models=("bank-*",))

    def close(self) -> None:
        return None


async def ask(
    application: Application, method: str, path: str, body: bytes = b"", key: str = "", *, pieces: int = 1,
    length: int | None = -1, end: bool = True, query: str = "",
) -> tuple[int, dict[bytes, bytes], bytes]:  # fmt: skip
    """Send one request by hand; `length` None leaves it out, and without `end` the body never ends."""
    step = max(1, -(-len(body) // pieces))
    parts = [body[place : place + step] for place in range(0, len(body), step)] or [b""]
    read: list[bytes] = []
    sent: list[Mapping[str, Any]] = []
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    headers += [(b"content-length", str(len(body) if length == -1 else length).encode())] if length is not None else []
    headers += [(b"transfer-encoding", b"chunked")] if length is None else []

    async def receive() -> Any:
        if parts:
            read.append(parts.pop(0))
            return {"type": "http.request", "body": read[-1], "more_body": bool(parts) or not end}
        return await asyncio.get_running_loop().create_future()

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "headers": headers, "query_string": query.encode(),
    }  # fmt: skip
    await application(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def run(main: Awaitable[Any]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(main, 30)

    return asyncio.run(within())


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def stream(request: Request) -> Response:
    async def parts() -> Any:
        async for part in request.chunks():
            yield part

    return Response(parts())


def application(access: Any = None, answer: Callable[[Request], Awaitable[Response]] = echo) -> Application:
    routes = [
        Route(method="POST", path="/ask/{name}", scope="predict", answer=answer, about="", asks_model=True),
        Route(method="POST", path="/stream/{name}", scope="predict", answer=stream, about="", streams=True),
        Route(method="GET", path="/open", scope=PUBLIC, answer=echo, about=""),
    ]
    return Application(routes, access or Open(), LIMITS, Telemetry())


REST = Rest(NOTHING, LIMITS, NOTHING, lambda: True)
ROUTES = [*REST.routes, *REST.admin_routes]
MEANT_FOR_ALL = {"/healthz", "/readyz", "/openapi.json", "/docs"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize("key", ["", "wrong", *SCOPES])
def test_every_route_decides_who_may(route: Route, key: str) -> None:
    reached = []

    async def answer(request: Request) -> Response:
        reached.append(request.principal.name)
        return Response(b"{}")

    path = route.path.replace("{name}", "bank-1")
    spied = Route(method=route.method, path=route.path, scope=route.scope, answer=answer, about="")
    status, _, _ = run(ask(Application([spied], Keys(), LIMITS, Telemetry()), route.method, path, key=key))
    public = route.path in MEANT_FOR_ALL
    assert public == (route.scope == PUBLIC), "a new route for everybody must be meant to be one"
    wanted = 200 if public or key == route.scope else 403 if key in SCOPES else 401
    assert status == wanted
    assert bool(reached) == (wanted == 200)


def test_a_route_can_t_be_made_without_a_decision() -> None:
    with pytest.raises(TypeError, match="scope"):
        Route(method="GET", path="/", answer=echo, about="")  # type: ignore[call-arg]


def test_a_key_is_for_its_models() -> None:
    app = application(Keys())
    assert run(ask(app, "POST", "/ask/bank-1", b"x", "predict"))[0] == 200
    status, _, body = run(ask(app, "POST", "/ask/other", b"x", "predict"))
    assert status == 403 and b"other" in body
    with pytest.raises(Forbidden):
        Principal(name="a", scopes=frozenset({"read"})).want("predict")


def test_a_refusal_says_when_to_come_again() -> None:
    status, headers, body = run(ask(application(Keys()), "POST", "/ask/bank-1", b"x", "limited"))
    assert (status, headers[b"retry-after"]) == (429, b"3")
    assert json.loads(body)["title"] == "Overloaded" and headers[b"content-type"] == b"application/problem+json"
    assert run(ask(application(Keys()), "POST", "/ask/bank-1"))[1][b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize("length", [-1, None])
def test_a_body_that_is_too_large_is_not_read_to_its_end(length: int | None) -> None:
    status, headers, _ = run(ask(application(), "POST", "/ask/a", b"x" * 5000, pieces=50, length=length))
    assert (status, headers[b"connection"]) == (413, b"close")
    assert run(ask(application(), "POST", "/ask/a", b"x" * 1000, pieces=50, length=length))[2] == b"x" * 1000


@pytest.mark.parametrize("given", [b"1e3", b"-1", b"+1", b"a"])
def test_a_length_that_is_no_number_is_refused(given: bytes) -> None:
    async def main() -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/ask/a", "headers": [(b"content-length", given)]}
        await application()(scope, NOTHING, send)
        return int(sent[0]["status"])

    assert run(main()) == 400


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    status, headers, _ = run(ask(application(), "POST", "/ask/a", b"x", length=10, end=False))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert run(ask(application(), "POST", "/ask/a", b"x", length=None, end=False))[1][b"connection"] == b"close"


def test_one_more_than_the_queue_is_told_to_come_later() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def wait(request: Request) -> Response:
            await go.wait()
            return Response(b"done")

        app = application(answer=wait)
        inside = [asyncio.create_task(ask(app, "POST", "/ask/a")) for _ in range(2)]
        while app.n_inside < 2:
            await asyncio.sleep(0)
        status, headers, _ = await ask(app, "POST", "/ask/a", b"never read", end=False)
        assert (status, headers[b"retry-after"]) == (429, b"2")
        assert (await ask(app, "GET", "/open"))[0] == 200, "probes are answered however full it is"
        go.set()
        assert [one[0] for one in await asyncio.gather(*inside)] == [200, 200]
        assert app.n_inside == 0
        assert (await ask(app, "POST", "/ask/a"))[0] == 200

    run(main())


def test_streams_have_places_of_their_own() -> None:
    async def main() -> None:
        app = application()
        first = asyncio.create_task(ask(app, "POST", "/stream/a", b"x", length=None, end=False))
        while app.n_open < 1:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (await ask(app, "POST", "/stream/a", b"x"))[0] == 429
        assert (await ask(app, "POST", "/ask/a", b"x"))[0] == 200
        first.cancel()
        await asyncio.wait([first])
        assert (await ask(app, "POST", "/stream/a", b"x" * 5000, pieces=7))[2] == b"x" * 5000

    run(main())


def test_who_leaves_takes_no_place() -> None:
    async def main() -> None:
        begun = asyncio.Event()
        ended: list[str] = []

        async def wait(request: Request) -> Response:
            await request.body()
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            raise AssertionError

        app = application(answer=wait)
        messages = [{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "POST", "path": "/ask/a", "headers": [(b"content-length", b"1")]}
        await app(scope, receive, send)
        assert begun.is_set() and ended == ["cancelled"] and app.n_inside == app.n_open == 0

    run(main())


def test_a_server_that_stops_says_so_on_every_answer() -> None:
    app = application()
    app.draining = True
    status, headers, _ = run(ask(app, "POST", "/ask/a", b"x"))
    assert (status, headers[b"connection"]) == (200, b"close")
    app.closed = True
    status, headers, _ = run(ask(app, "POST", "/ask/a", b"x"))
    assert (status, headers[b"connection"]) == (503, b"close") and b"retry-after" in headers
    assert run(ask(app, "GET", "/open"))[0] == 200
    assert issubclass(Unavailable, Exception)


def test_paths_and_methods_that_are_not_there() -> None:
    app = application()
    assert run(ask(app, "GET", "/nowhere"))[0] == 404
    assert run(ask(app, "POST", "/ask/"))[0] == 404
    status, headers, body = run(ask(app, "PUT", "/ask/a"))
    assert (status, headers[b"allow"]) == (405, b"POST")
    assert json.loads(body)["title"] == "MethodNotAllowed"
    status, headers, body = run(ask(app, "HEAD", "/open"))
    assert (status, body) == (200, b"")


def test_a_fault_is_a_500_that_tells_nothing_of_the_inside() -> None:
    async def fail(request: Request) -> Response:
        raise KeyError("a secret")

    status, _, body = run(ask(application(answer=fail), "POST", "/ask/a"))
    assert status == 500 and b"secret" not in body


def test_a_name_in_a_path_is_no_path() -> None:
    router = Router(
        [
            Route(method="GET", path="/a/{name}", scope="read", answer=echo, about=""),
            Route(method="GET", path="/a/{name}/b", scope="read", answer=echo, about=""),
            Route(method="POST", path="/a/b", scope="read", answer=echo, about=""),
        ]
    )
    assert router.find("/a/x")[1] == {"name": "x"}
    assert set(router.find("/a/b")[0]) == {"POST"}, "what is named exactly goes first"
    assert router.find("/a/x/b")[1] == {"name": "x"}
    assert router.find("/a/x/b/c") == ({}, {}) == router.find("/a//b")


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 51 + b"]" * 51, True),
        (b"[" * 50 + b"]" * 50, False),
        (b'["' + b"[" * 80 + b'"]', False),
        (b'["\\"' + b"[" * 80 + b'"]', False),
        (b"[" + b",".join([b"{}"] * 100) + b"]", False),
        (b'{"a":' * 60 + b"1" + b"}" * 60, True),
        (b"[" * 1_000_000, True),
    ],
)
def test_depth_is_counted_outside_strings(body: bytes, deep: bool) -> None:
    assert too_deep(body, 50) is deep


def test_the_document_has_every_route_and_every_reference() -> None:
    found = document(REST.routes, "1")
    told = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in REST.routes}
    text = json.dumps(found)
    names = set(found["components"]["schemas"])
    assert {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]} <= names
    for name, field in itertools.chain.from_iterable(
        ((name, field) for field in schema["properties"].items())
        for name, schema in found["components"]["schemas"].items()
    ):
        assert field[1], name
    predict = found["paths"]["/v1/models/{name}/predict"]["post"]
    assert predict["security"] and predict["x-scope"] == "predict"
    assert "security" not in found["paths"]["/healthz"]["get"]


def test_who_was_refused_and_why_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "luban")
    one = Principal(name="shop", scopes=frozenset({"predict"}), models=("bank-*",))
    one.want("predict", "bank-1")
    assert not caplog.messages
    with pytest.raises(Forbidden):
        one.want("admin")
    with pytest.raises(Forbidden):
        one.want("predict", "other\n" * 100)
    assert caplog.messages[0] == "key shop was refused: it may not admin"
    assert caplog.messages[1].startswith("key shop was refused: it may not use the model 'other\\nother")
    assert len(caplog.messages[1]) < 200 and "\n" not in caplog.messages[1]
