"""The tools that packages are for, in an environment of their own: they need other versions of packages than Luban."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

START_S = 120.0
"""Until a server must answer; the machine may be busy."""


def program(name: str, needed: str) -> str:
    """Return a program of the environment, or skip the test.

    Args:
        name: of the program.
        needed: a module that the environment must have.
    """
    folder = Path(os.environ.get("LUBAN_PACKAGE_TOOLS") or Path(sys.prefix) / "package-tools")
    found = folder / "bin" / name
    if not found.is_file() or not has(str(folder / "bin" / "python"), needed):
        pytest.skip(f"no {needed}: `make package-tools` installs it, or LUBAN_PACKAGE_TOOLS names its environment")
    return str(found)


def has(python: str, module: str) -> bool:
    """Return whether an interpreter finds a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-I", "-c", code], check=False).returncode == 0


def environment(**more: str) -> dict[str, str]:
    """Return the variables for a program of the environment: with nothing of the one that the tests run in."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    folder = os.environ.get("LUBAN_PACKAGE_TOOLS") or f"{sys.prefix}/package-tools"
    # MLflow starts its server by the name of a program.
    return {**kept, "PATH": f"{folder}/bin:{kept.get('PATH', '')}", "PYTHONDONTWRITEBYTECODE": "1", **more}


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(
    command: list[str], ready: str, folder: Path, env: Mapping[str, str] | None = None, start_s: float = START_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it has a process group of its own.

    Args:
        command: the server.
        ready: address that answers when it is ready.
        folder: where it runs, and where `server.log` will be.
        env: its variables.
        start_s: seconds until it must be ready.
    """
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env or environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + start_s
        while not _answers(ready):
            told = (folder / "server.log").read_text("utf-8", "replace")[-2000:]
            assert process.poll() is None and time.monotonic() < until, told
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def post(address: str, body: Any) -> tuple[int, Any]:
    """Post JSON, and return the status and the answer."""
    asked = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True
