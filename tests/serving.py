"""A server for tests: `luban serve` in a process of its own, and clients that count what they get."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from luban import files

TESTS = Path(__file__).resolve().parent


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    admin: str
    grpc: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What it has logged."""
    ended: bool = False
    """It logs no more."""
    heard: threading.Condition = field(default_factory=threading.Condition)

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    def wait_for(self, event: str, n: int = 1, timeout: float = 30.0) -> dict[str, Any]:
        """Return the n-th event of a name, when it comes."""

        def there() -> list[dict[str, Any]]:
            return [one for one in self.events if one["event"] == event]

        with self.heard:
            self.heard.wait_for(lambda: len(there()) >= n or self.ended, timeout)
            assert len(there()) >= n, f"no {event} in {self.events}"
            return there()[n - 1]


@contextmanager
def served(*arguments: str, cwd: Path | None = None, mistake: str = "", **environment: str) -> Iterator[Server]:
    """Run `luban serve` until the block ends, on free ports where none is named; with a mistake of
    `faults/serving_mistakes.py`, where one is named.
    """
    program = ["-m", "luban.cli.main"]
    if mistake:
        program = ["-c", "import sys; from faults import serving_mistakes; sys.exit(serving_mistakes.main())", mistake]
        environment = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])} | environment
    ports = ["--admin-port", "0"] if "--port" in arguments else ["--port", "0", "--admin-port", "0"]
    command = [sys.executable, *program, "serve", *arguments, *ports]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )
    server = Server(process, "", "")

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                told = json.loads(line)
            except ValueError:
                told = {"event": "text", "line": line}
            with server.heard:
                server.events.append(told)
                server.heard.notify_all()
        with server.heard:
            server.ended = True
            server.heard.notify_all()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        n_workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
        ready = server.wait_for("ready", n_workers, 60)
        server.url, server.admin, server.grpc = ready["url"], ready["admin"], ready.get("grpc", "")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait()
            listener.join()
            assert process.stderr is not None
            process.stderr.close()


def another(bundle: Path, folder: Path, temperature: float) -> Path:
    """Return a copy of a bundle that is another version: its probabilities are others."""
    shutil.copytree(bundle, folder)
    files.write_json(folder / "calibration.json", {"temperature": temperature, "thresholds": [], "abstain_below": 0.0})
    (folder / files.MANIFEST).unlink()
    files.seal(folder, {"kind": "bundle"})
    return folder


@dataclass
class Got:
    """What clients got."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Requests that were sent and got no answer."""
    times: list[float] = field(default_factory=list)
    """Seconds of each answer with status 200."""
    heads: list[bytes] = field(default_factory=list)
    """Heads of the answers with other ones."""
    bodies: list[Any] = field(default_factory=list)


class _Client(asyncio.Protocol):
    """Asks one thing after the other on one connection, and connects again where it was told to."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.buffer = b""
        self.begun = self.due = 0.0
        self.waiting = False
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        loop = asyncio.get_running_loop()
        wait = self.due - loop.time()
        self.due = max(self.due, loop.time()) + self.crowd.every_s
        if wait > 0:
            loop.call_later(wait, self.send)
        else:
            self.send()

    def send(self) -> None:
        body = None if self.transport.is_closing() else self.crowd.next()
        if body is None:
            self.transport.close()
            return
        self.waiting, self.begun = True, asyncio.get_running_loop().time()
        head = f"POST {self.crowd.path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if not end or len(body) < length:
            return
        self.buffer, self.waiting = b"", False
        got, status = self.crowd.got, int(head[9:12])
        got.statuses[status] += 1
        if status == 200:
            got.times.append(asyncio.get_running_loop().time() - self.begun)
            if self.crowd.keep:
                got.bodies.append(json.loads(body))
        else:
            got.heads.append(head)
        if b"connection: close" in head.lower():
            self.closing = status == 200
            self.transport.close()
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting:
            self.crowd.got.lost.append(repr(error))
        self.crowd.left(again=self.closing)


class Crowd:
    """So many clients that ask at once."""

    def __init__(
        self, port: int, bodies: Iterator[bytes], *, path: str, keep: bool = False, every_s: float = 0.0
    ) -> None:
        self.port, self.bodies, self.path, self.keep = port, bodies, path, keep
        self.every_s = every_s
        """Seconds from one request of a client to its next, at least."""
        self.got = Got()
        self.stopped = False
        self._n = 0
        self._done = asyncio.Event()
        self._again: set[asyncio.Task[None]] = set()

    def next(self) -> bytes | None:
        return None if self.stopped else next(self.bodies, None)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Client(self), "127.0.0.1", self.port)
        except ConnectionError:  # the server has stopped: it was never asked
            self.left(again=False)

    def left(self, *, again: bool) -> None:
        if again and not self.stopped:
            task = asyncio.create_task(self.connect())
            self._again.add(task)
            task.add_done_callback(self._again.discard)
            return
        self._n -= 1
        if self._n == 0:
            self._done.set()

    async def run(self, n_clients: int) -> Got:
        """Ask until there is nothing left to ask."""
        self._n = n_clients
        await asyncio.gather(*(self.connect() for _ in range(n_clients)))
        await self._done.wait()
        return self.got


def asking(texts: Sequence[str], n: int) -> Iterator[bytes]:
    """Yield n bodies that ask for one text each."""
    for number in range(n):
        yield json.dumps({"text": texts[number % len(texts)]}).encode()


def flood(
    port: int, bodies: Iterator[bytes], n_clients: int, *, model: str = "bank", keep: bool = False,
    meanwhile: Callable[[Crowd], Any] | None = None, every_s: float = 0.0, most_s: float = 120.0,
) -> Got:  # fmt: skip
    """Ask from so many clients, and return what they got; `meanwhile` is called in a thread of its own.

    Args:
        port: the server's.
        bodies: what is asked; its end is the end.
        n_clients: each on a connection of its own.
        model: its name.
        keep: keep the answers.
        meanwhile: is given the crowd, and may stop it.
        every_s: seconds from one request of a client to its next, at least.
        most_s: seconds after which it has failed.
    """

    async def run() -> Got:
        crowd = Crowd(port, bodies, path=f"/v1/models/{model}/predict", keep=keep, every_s=every_s)
        beside = asyncio.create_task(asyncio.to_thread(meanwhile, crowd)) if meanwhile else None
        got = await asyncio.wait_for(crowd.run(n_clients), most_s)
        if beside is not None:
            await beside
        return got

    return asyncio.run(run())
