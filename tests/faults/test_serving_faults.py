"""What production does to a server beside load: slow clients, ones that leave, signals, and hostile bodies."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import serving
from serving import served
from unit.bundle.made import Made

TEXTS = ["where is my card", "我的卡还没到", "refund", "late again " * 8]
MALFORMED = [
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST /v1/models/bank/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    b"POST /v1/models/bank/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0",
    b"POST /v1/models/bank/predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(9000)) + b"\r\n",
]


@pytest.fixture(scope="module")
def server(classify: Made) -> Iterator[serving.Server]:
    with served(f"bank={classify.folder}") as server:
        yield server


@contextlib.contextmanager
def connected(server: serving.Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        yield connection


def closed_after_s(connection: socket.socket, most_s: float = 20.0) -> float:
    """Return after how many seconds the server closes a connection."""
    begun = time.monotonic()
    connection.settimeout(most_s)
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - begun


def answers(server: serving.Server) -> bool:
    found = httpx.post(f"{server.url}/v1/models/bank/predict", json={"text": "a"}, timeout=20)
    return found.status_code == 200


def test_a_signal_loses_no_client_that_keeps_its_connection(classify: Made) -> None:
    with served(f"bank={classify.folder}", "--drain-s", "4", "--queue", "400") as server:
        timer = threading.Timer(1.0, server.process.send_signal, [signal.SIGTERM])
        timer.start()
        got = serving.flood(server.port, serving.asking(TEXTS, 10**9), 160)
        timer.join()
        assert server.process.wait(30) == 0
    assert not got.lost
    assert set(got.statuses) <= {200, 503} and got.statuses[200] >= 160


def test_a_second_signal_is_obeyed_at_once(classify: Made) -> None:
    with served(f"bank={classify.folder}", "--drain-s", "60") as server, connected(server) as slow:
        slow.sendall(b"POST /v1/models/bank/batch HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


PREDICT = b"POST /v1/models/bank/predict HTTP/1.1\r\nhost: a\r\n"
SLOW = {
    "nothing": b"",
    "half a head": PREDICT,
    "half a body": PREDICT + b"content-length: 50\r\n\r\n{",
    "no chunk": PREDICT + b"transfer-encoding: chunked\r\n\r\n",
    "a body that nobody reads": b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{",
}


def test_clients_that_send_no_more_are_not_held(server: serving.Server) -> None:
    with contextlib.ExitStack() as held, ThreadPoolExecutor(len(SLOW)) as waiting:
        connections = [held.enter_context(connected(server)) for _ in SLOW]
        for connection, sent in zip(connections, SLOW.values(), strict=True):
            connection.sendall(sent)
        seconds = dict(zip(SLOW, waiting.map(closed_after_s, connections), strict=True))
        assert all(2 < found < 14 for found in seconds.values()), seconds
    assert answers(server)


def test_a_client_that_drips_is_not_held(server: serving.Server) -> None:
    with connected(server) as connection:
        begun = time.monotonic()
        connection.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            for byte in itertools.cycle(b"x-a: b\r\n"):
                connection.sendall(b"GET / HTTP/1.1\r\n" if time.monotonic() - begun < 0.2 else bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1000):
                        break
                assert time.monotonic() - begun < 15
        assert 3 < time.monotonic() - begun < 9


def test_clients_that_leave_are_not_answered_and_hold_nothing(server: serving.Server) -> None:
    body = json.dumps({"texts": ["where is my card " * 10] * 32}).encode()
    head = b"POST /v1/models/bank/predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(100):
        with connected(server) as connection:
            connection.sendall(head + body)
    begun = time.monotonic()
    while not answers(server):  # 64 of them may be inside just now: whoever comes is told to come again in a second
        assert time.monotonic() - begun < 1
    inside = [
        line
        for line in httpx.get(f"{server.admin}/metrics").text.splitlines()
        if line.startswith("luban_requests_inside")
    ]
    assert float(inside[0].split()[1]) <= 64


@pytest.mark.parametrize("sent", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_http_is_refused_and_the_connection_closed(server: serving.Server, sent: bytes) -> None:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        connection.settimeout(10)
        got = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                got += part
        assert got[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431"), got[:200]
    assert answers(server)


def test_a_forged_host_or_path_reaches_nothing_else(server: serving.Server) -> None:
    for target in (b"http://127.0.0.1/metrics", b"/v1/models/bank/../../metrics", b"//metrics", b"/%6detrics"):
        with connected(server) as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: evil\r\nx-forwarded-for: 127.0.0.1\r\n\r\n")
            assert connection.recv(1000)[:12] == b"HTTP/1.1 404"


def test_one_connection_too_many_is_told_so(server: serving.Server) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(512):
            held.enter_context(connected(server))
        with connected(server) as one_more:
            assert one_more.recv(1000)[:12] == b"HTTP/1.1 503"
    assert answers(server)


def test_who_asks_again_at_once_is_read_a_little_later(classify: Made) -> None:
    """A server without a place says so at once, and reads what comes next on that connection after a breath."""
    path = "/v1/models/bank/predict"
    with served(f"bank={classify.folder}", "--queue", "1") as server, connected(server) as inside:
        inside.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n".encode())
        with httpx.Client(base_url=server.url, timeout=20) as client:
            assert client.get("/healthz").status_code == 200, "the one who sent its head is inside"
            times = []
            for _ in range(4):
                begun = time.monotonic()
                assert client.post(path, json={"text": "a"}).status_code == 429
                times.append(time.monotonic() - begun)
            assert times[0] < 0.08 < min(times[1:]), times
            begun = time.monotonic()
            assert httpx.post(server.url + path, json={"text": "a"}, timeout=20).status_code == 429
            assert time.monotonic() - begun < 0.08, "another connection is read at once"


def test_no_text_is_logged(server: serving.Server) -> None:
    secret = "4111 1111 1111 1111"
    url = f"{server.url}/v1/models/bank"
    with httpx.Client() as client:
        client.post(f"{url}/predict", json={"text": secret})
        client.post(f"{url}/predict", json={"texts": [secret, 3]})
        client.post(f"{url}/batch", content=json.dumps({"txet": secret}).encode())
        client.post(f"{server.url}/{secret}", json={"text": secret})
        numbers = client.get(f"{server.admin}/metrics").text
    assert secret not in json.dumps(server.events) and secret not in numbers
