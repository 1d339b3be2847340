"""Both clients: the same methods, results and errors, against a server that runs, and one that misbehaves."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from serving import Server, served
from unit.bundle.made import Made, made

import luban
from luban.bundle.engine import Engine
from luban.client import calls
from luban.client.asynchronous import AsyncClient
from luban.client.synchronous import Client
from luban.errors import BadRequest, DeadlineExceeded, NotFound, Overloaded, ServeError, TooLarge, Unavailable

TEXTS = ["ab cd", "我的卡还没到", "a b c d e f"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "classify", "onnx")


@pytest.fixture(scope="module")
def server(bundle: Made) -> Iterator[Server]:
    with served(f"bank={bundle.folder}", "--request-s", "30") as found:
        yield found


class Both:
    """A client of either form, called as if it were the synchronous one."""

    def __init__(self, kind: type[Any], url: str, **given: Any) -> None:
        self._kind, self._url, self._given = kind, url, given

    def __call__(self, method: str, *arguments: Any, **more: Any) -> Any:
        if self._kind is Client:
            with Client(self._url, **self._given) as client:
                found = getattr(client, method)(*arguments, **more)
                return list(found) if method == "predict_many" else found

        async def main() -> Any:
            async with AsyncClient(self._url, **self._given) as client:
                found = getattr(client, method)(*arguments, **more)
                return [one async for one in found] if method == "predict_many" else await found

        return asyncio.run(main())


@pytest.fixture(params=[Client, AsyncClient])
def make(request: pytest.FixtureRequest) -> Callable[..., Both]:
    return lambda url, **given: Both(request.param, url, **given)


def test_both_have_the_same_methods() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            other = inspect.signature(getattr(AsyncClient, name))
            assert list(other.parameters.values()) == list(inspect.signature(method).parameters.values()), name
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    assert (luban.Client, luban.AsyncClient) == (Client, AsyncClient)


def test_they_answer_as_the_engine_does(make: Callable[..., Both], server: Server, bundle: Made) -> None:
    engine = Engine.open(bundle.folder, threads=1)
    found = make(server.url)("predict", "bank", TEXTS, scores=True)
    assert (found.model, found.version, found.digest) == ("bank", None, engine.digest)
    for got, wanted in zip(found, engine.predict(TEXTS), strict=True):
        assert got.labels == wanted.labels
        assert got.scores == pytest.approx(dict(wanted.scores), abs=1e-5)
    (short,) = make(server.url)("predict", "bank", TEXTS[:1])
    assert (short.label, short.score) == (found[0].label, found[0].score)


def test_many_rows_come_back_in_their_order(make: Callable[..., Both], server: Server, bundle: Made) -> None:
    rows = [f"a {number}" for number in range(150)]
    found = make(server.url)("predict_many", "bank", iter(rows))
    assert [one.labels for one in found] == [one.labels for one in Engine.open(bundle.folder).predict(rows)]


def test_models_and_readiness(make: Callable[..., Both], server: Server, bundle: Made) -> None:
    client = make(server.url)
    (model,) = client("models")
    assert (model.name, model.open, model.digest) == ("bank", True, bundle.bundle.digest)
    assert client("model", "bank").labels == bundle.task.labels
    assert client("ready") is True


@pytest.mark.parametrize(
    ("model", "rows", "kind", "told"),
    [
        ("bnak", ["a"], NotFound, "no model 'bnak'"),
        ("bank", ["a"] * 33, TooLarge, "got 33, wanted 32"),
        ("bank", "a", BadRequest, "got one text"),
        ("bank", [["a"]], BadRequest, "row 0: got a list of tokens"),
        ("bank/../x", ["a"], NotFound, "no such path"),
    ],
)
def test_errors_are_the_librarys(
    make: Callable[..., Both], server: Server, model: str, rows: Any, kind: Any, told: str
) -> None:
    with pytest.raises(kind, match=told) as caught:
        make(server.url)("predict", model, rows)
    assert caught.value.hint


GOOD = {"model": "m", "version": 3, "digest": "d", "predictions": [{"label": "x", "score": 0.5}]}


class Moody(ThreadingHTTPServer):
    """Answers what a test told it to, in turn, and writes down what came."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, dict[str, str], Any]) -> None:
        self.answers = list(answers)
        self.came: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Moody)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Moody:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Moody(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Moody

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append(dict(self.headers))
        status, headers, body = self.server.answers.pop(0)
        if status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return None


def problem(kind: str, status: int) -> dict[str, Any]:
    return {"type": "about:blank", "title": kind, "status": status, "detail": "so it is", "hint": "do this"}


FULL = (429, {"retry-after": "0"}, problem("Overloaded", 429))
AWAY = (503, {}, problem("Unavailable", 503))


def test_what_is_turned_away_or_lost_is_sent_again(make: Callable[..., Both]) -> None:
    with Moody(FULL, AWAY, (0, {}, b""), (200, {}, GOOD)) as server:
        found = make(server.url, key="secret")("predict", "m", ["a"])
        assert found.version == 3 and found[0].label == "x"
        assert [one["authorization"] for one in server.came] == ["Bearer secret"] * 4


def test_the_time_that_the_server_asks_for_is_kept(make: Callable[..., Both]) -> None:
    with Moody((429, {"retry-after": "60"}, problem("Overloaded", 429))) as server:
        with pytest.raises(Overloaded, match="so it is") as caught:
            make(server.url, timeout_s=5)("predict", "m", ["a"])
        assert caught.value.retry_after_s == 60 and caught.value.hint == "do this"


def test_no_more_often_than_it_may(make: Callable[..., Both]) -> None:
    with Moody(FULL, FULL, FULL) as server:
        with pytest.raises(Overloaded):
            make(server.url, retries=1)("predict", "m", ["a"])
        assert len(server.came) == 2


def test_other_errors_are_not_sent_again(make: Callable[..., Both]) -> None:
    with Moody((500, {}, b"<html>"), (200, {}, GOOD)) as server, pytest.raises(ServeError, match="answers 500"):
        make(server.url)("predict", "m", ["a"])


def test_an_answer_that_is_no_json_is_an_error(make: Callable[..., Both]) -> None:
    with Moody((200, {}, b"<html>")) as server, pytest.raises(ServeError, match="wanted JSON"):
        make(server.url)("predict", "m", ["a"])


def test_a_server_that_is_not_there(make: Callable[..., Both]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match="can't be reached"):
            make(url, retries=1)("predict", "m", ["a"])
        assert make(url)("ready") is False


def test_a_server_that_does_not_answer(make: Callable[..., Both]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            make(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)("predict", "m", ["a"])


@pytest.mark.parametrize("waits", [[0.0] * 5, [0.3] * 5])
def test_pauses_grow_and_never_fall_short_of_what_was_asked(waits: list[float]) -> None:
    call = calls.predict(calls.Terms(url="http://x", timeout_s=100), "m", ["a"], scores=False)
    pauses: list[float] = []
    todo = call.send(None)
    for wait in waits:
        assert isinstance(todo, calls.Send)
        todo = call.send(calls.Reply(503, {"retry-after": str(wait)}, json.dumps(problem("Unavailable", 503)).encode()))
        assert isinstance(todo, calls.Wait) and todo.seconds >= wait
        pauses.append(todo.seconds)
        todo = call.send(None)
    assert sum(pauses[3:]) > 2 * sum(pauses[:2]) or waits[0]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(calls.KEY, "mine")
    assert calls.Terms(url="http://x").headers["authorization"] == "Bearer mine"
    assert "authorization" not in calls.Terms(url="http://x", key="").headers


def test_what_is_no_address_or_row_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(luban.BadRequest, match="url: got 'localhost:8080'") as refused:
        luban.Client("localhost:8080")
    assert refused.value.hint == "write http://localhost:8080"
    with luban.Client("http://127.0.0.1:9") as client:
        for row in (1, None, {"text": "a"}):
            with pytest.raises(luban.BadRequest, match="row 1: got a value of the type"):
                client.predict("bank", ["a", row])  # type: ignore[list-item]
