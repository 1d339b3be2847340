"""A package that is a server: started here as its container would start it, asked, and told to stop.

No image is built for that. The process has the Luban of the package's own wheel, the arguments of the package's own
start, and a port of the loopback.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from luban.errors import LubanError

HOST = "127.0.0.1"
ASKED_AT_ONCE = 32
"""Rows of a request: what a server takes."""
_START_S = 120.0
_ANSWER_S = 60.0
_STOP_S = 60.0
_BEGIN = "import sys; from luban.cli.main import main; sys.exit(main())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a server did."""

    answers: list[Mapping[str, Any]]
    """One a row, in JSON's form."""
    memory_bytes: int
    """What its processes had of memory when it had answered."""
    ready_s: float
    """From its start until it was ready."""


def ask(wheel: Path, arguments: Sequence[str], route: str, ready: str, rows: Sequence[Any]) -> Asked:
    """Start a server, ask it, and let it stop by itself on SIGTERM.

    Args:
        wheel: Luban, as the package holds it.
        arguments: of the command `luban`, addresses left out.
        route: path that takes {"texts": [...]} and gives {"predictions": [...]}.
        ready: path that answers when it is ready.
        rows: what is asked.

    Raises:
        LubanError: it does not start, does not answer, or does not stop; the message has its last lines.
    """
    with TemporaryDirectory() as place:
        folder = Path(place)
        _install(wheel, folder / "site")
        port = _free_port()
        address = f"http://{HOST}:{port}"
        with _running([*arguments, "--host", HOST, "--port", str(port), "--admin-port", "0"], folder) as process:
            begun = time.monotonic()
            _until(process, folder, f"{address}{ready}")
            ready_s = time.monotonic() - begun
            answers: list[Mapping[str, Any]] = []
            for first in range(0, len(rows), ASKED_AT_ONCE):
                answers += _post(f"{address}{route}", list(rows[first : first + ASKED_AT_ONCE]), folder)
            memory = _memory(process.pid)
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                raise _broken(folder, f"did not stop within {_STOP_S:.0f} s of SIGTERM") from None
            if code:
                raise _broken(folder, f"ended with {code} on SIGTERM, wanted 0")
    return Asked(answers=answers, memory_bytes=memory, ready_s=ready_s)


def _install(wheel: Path, site: Path) -> None:
    """Install a wheel into a folder, as the image does, and none of what it needs: that is here already.

    Raises:
        LubanError: pip does not take it, or is not here.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    done = subprocess.run([*command, str(site), str(wheel)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = lines[-1][:300] if lines else "nothing"
        raise LubanError(f"pip does not install {wheel.name}: {last}", hint="install pip here: python -m ensurepip")


@contextmanager
def _running(arguments: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `luban` out of a folder until the block ends."""
    site = folder / "site"
    check = f"import luban; assert luban.__file__.startswith({str(site)!r}), luban.__file__; "
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", check + _BEGIN, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until(process: subprocess.Popen[bytes], folder: Path, address: str) -> None:
    """Wait until an address answers with status 200."""
    until = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            pass
        if process.poll() is not None:
            raise _broken(folder, f"ended with {process.returncode} before it was ready")
        if time.monotonic() > until:
            raise _broken(folder, f"was not ready within {_START_S:.0f} s")
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def _post(address: str, rows: list[Any], folder: Path) -> list[Mapping[str, Any]]:
    body = json.dumps({"texts": rows}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as response:
            found: list[Mapping[str, Any]] = json.load(response)["predictions"]
            return found
    except (OSError, ValueError, KeyError) as error:
        raise _broken(folder, f"did not answer {address}: {error}") from error


def _memory(pid: int) -> int:
    """Return the resident bytes of a process and those that it started."""
    import psutil

    first = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (first, *first.children(recursive=True)))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _broken(folder: Path, what: str) -> LubanError:
    said = (folder / "log").read_text("utf-8", "replace").strip().splitlines()
    last = " ".join(line.strip() for line in said[-2:])[-400:] or "nothing"
    return LubanError(f"the package's server {what}; its last lines: {last}", hint="please report this, with the lines")
