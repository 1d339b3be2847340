"""Which HTTP server: rate, tail, what slow clients hold, and what a SIGTERM loses, for one raw ASGI application.

    python bench/http_server.py [--smoke] [--servers uvicorn,granian,hypercorn] [--seconds 5]

The servers are those that are installed here; the application reads a body of JSON and answers one. On a busy machine
look at the server's own time on the processor rather than at the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

BODY = json.dumps({"texts": ["I still have not received my new card, where is it?"]}).encode()
REQUEST = (
    b"POST /v1/models/bank/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
REQUEST = REQUEST % len(BODY) + BODY
SLOW = {"half a header": b"POST / HTTP/1.1\r\nhost: a\r\n", "half a body": REQUEST[:-10], "nothing": b""}


async def application(scope, receive, send):
    """Answer as a served model does, but for the model."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await asyncio.sleep(0.002)
    answer = json.dumps({"n": len(json.loads(body)["texts"]), "label": "card_arrival", "score": 0.98}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})


def serve(name: str, port: int) -> None:
    """Run one of the servers in this process."""
    if name == "uvicorn":
        import uvicorn

        uvicorn.run(application, port=port, http="httptools", loop="uvloop", log_level="error", access_log=False)
    elif name == "hypercorn":
        import uvloop
        from hypercorn.asyncio import serve as run
        from hypercorn.config import Config

        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        stop = asyncio.Event()

        async def until_told() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            await run(application, config, shutdown_trigger=stop.wait)

        uvloop.run(until_told())
    else:
        from granian import Granian
        from granian.http import HTTP1Settings

        settings = HTTP1Settings(header_read_timeout=5000)
        Granian(
            f"{Path(__file__).stem}:application", port=port, interface="asgi", loop="uvloop", log_enabled=False,
            http1_settings=settings,
        ).serve()  # fmt: skip


class Client(asyncio.Protocol):
    """Sends one request after the other on one connection."""

    def __init__(self, times: list[float], lost: list[str], stop: asyncio.Event) -> None:
        self.times, self.lost, self.stop, self.begun = times, lost, stop, 0.0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport, self.waiting = transport, False
        self.ask()

    def ask(self):
        if self.stop.is_set():
            return self.transport.close()
        self.begun, self.waiting = time.perf_counter(), True
        self.transport.write(REQUEST)

    def data_received(self, data):
        if not data.rstrip().endswith(b"}"):
            return None
        self.times.append(time.perf_counter() - self.begun)
        self.waiting = False
        if b"connection: close" in data.lower():
            return self.transport.close()
        self.ask()

    def connection_lost(self, error):
        if self.waiting:
            self.lost.append(repr(error))
        if not self.ended.done():
            self.ended.set_result(None)


async def load(port: int, n_clients: int, seconds: float, stop_server=None) -> tuple[list[float], list[str]]:
    """Ask with so many clients for so long, and return the times of the answers and who got none."""
    loop, times, lost, stop = asyncio.get_running_loop(), [], [], asyncio.Event()
    clients = [
        (await loop.create_connection(lambda: Client(times, lost, stop), "127.0.0.1", port))[1]
        for _ in range(n_clients)
    ]
    await asyncio.sleep(seconds)
    if stop_server:
        stop_server()
        await asyncio.wait([one.ended for one in clients], timeout=5)
    stop.set()
    await asyncio.wait([one.ended for one in clients], timeout=5)
    return times, lost


async def held_s(port: int, first: bytes, most_s: float) -> float:
    """Return how long a connection is held that sends so much and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    begun = time.perf_counter()
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(), most_s)
    writer.close()
    return time.perf_counter() - begun


def start(name: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on a free port, and return when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name, "--port", str(port)], cwd=Path(__file__).parent
    )
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process, port
        time.sleep(0.1)
    raise SystemExit(f"{name} did not start")


def spent_s(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time of a server and its children."""
    all_of_it = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in all_of_it)


def measure(name: str, seconds: float, slow_s: float) -> dict:
    """Print one server's lines, and return what they say."""
    found = {"loads": {}, "held_s": {}}
    process, port = start(name)
    try:
        for n_clients in (1, 16, 64):
            asyncio.run(load(port, n_clients, seconds / 4))
            before = spent_s(process)
            times, lost = asyncio.run(load(port, n_clients, seconds))
            cost = (spent_s(process) - before) / max(1, len(times)) * 1e6
            times.sort()
            p50, p99 = (times[int(len(times) * share)] * 1e3 for share in (0.5, 0.99))
            rate = len(times) / seconds
            found["loads"][n_clients] = {
                "rate": rate,
                "p50_ms": p50,
                "p99_ms": p99,
                "processor_us": cost,
                "lost": len(lost),
            }
            print(f"{name:10} {n_clients:3} clients {rate:8.0f}/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  "
                  f"{cost:5.0f} us of the processor each, lost {len(lost)}")  # fmt: skip
        for what, first in SLOW.items():
            held = found["held_s"][what] = asyncio.run(held_s(port, first, slow_s))
            print(f"{name:10} holds a client that sends {what}: {held:.1f} s{' and more' if held > slow_s else ''}")
        _, lost = asyncio.run(load(port, 160, seconds / 2, lambda: process.send_signal(signal.SIGTERM)))
        found["lost_by_sigterm"] = len(lost)
        print(f"{name:10} SIGTERM with 160 clients: {len(lost)} lost {sorted(set(lost))}")
    finally:
        process.terminate()
        process.wait(30)
    return found


def main() -> None:
    """Measure every server that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--servers", default="uvicorn,granian,hypercorn")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results/http_server.json"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, given.port)
    seconds, slow_s = (0.5, 1) if given.smoke else (given.seconds, 20)
    here = [name for name in given.servers.split(",") if importlib.util.find_spec(name)]
    found = {name: measure(name, seconds, slow_s) for name in here}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
