"""Several serving processes on one socket: started, watched, started again where one dies, and stopped together."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from luban.errors import ServeError
from luban.serve.access import Open
from luban.serve.process import Settings, access, told
from luban.serve.telemetry import MULTIPROCESS, event
from luban.serve.unlocked import Unlocked

_COMMAND = (sys.executable, "-c", "import sys; from luban.serve.process import child; sys.exit(child())")
_LOOK_S = 0.1
_YOUNG_S = 5.0
"""A process that dies sooner than this is started again only after a wait, the longer the oftener it happens."""
_MOST_WAIT_S = 30.0
CONFIGURATION = 78


class _Worker:
    """One process, and its successors."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.begun = 0.0
        self.n_young = 0
        """How often it died young, one time after the other."""
        self.not_before = 0.0

    def start(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        """Start a process that shares the sockets."""
        numbers = [one.fileno() for one in sockets]
        self.begun = time.monotonic()
        self.process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, pass_fds=numbers)
        assert self.process.stdin is not None
        given = {"settings": msgspec.to_builtins(settings), "sockets": numbers}
        # Not closed: its end tells the process that there is nobody any more who would start it again or stop it.
        with suppress(BrokenPipeError):  # it is dead already, and will be found so
            self.process.stdin.write(json.dumps(given).encode() + b"\n")
            self.process.stdin.flush()
        event("worker.started", worker=self.number, pid=self.process.pid)

    def look(self) -> int | None:
        """Return the exit code of a process that has ended, once."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        _let_go(self.process)
        self.process = None
        now = time.monotonic()
        self.n_young = self.n_young + 1 if now - self.begun < _YOUNG_S else 0
        self.not_before = now + (min(_MOST_WAIT_S, 0.5 * 2**self.n_young) if self.n_young else 0.0)
        return code


def run(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Serve with several processes until told to stop, and return the exit code.

    Raises:
        ServeError: the settings can't be kept, or no process could be started with them.
    """
    doorkeeper = access(settings)
    keyed = not isinstance(doorkeeper, Open | Unlocked)
    doorkeeper.close()
    stopping: list[int] = []
    before = {
        one: signal.signal(one, lambda number, _: stopping.append(number)) for one in (signal.SIGTERM, signal.SIGINT)
    }
    with tempfile.TemporaryDirectory(prefix="luban-metrics-") as folder:
        os.environ[MULTIPROCESS] = folder
        workers = [_Worker(number) for number in range(1, settings.workers + 1)]
        try:
            for worker in workers:
                worker.start(settings, sockets)
            event("serving", workers=settings.workers, **told(settings, *sockets), keys=keyed)
            while not stopping:
                _keep(workers, settings, sockets)
                time.sleep(_LOOK_S)
        finally:
            _stop(workers, settings, stopping)
            del os.environ[MULTIPROCESS]
            for number, handler in before.items():
                signal.signal(number, handler)
    return 0


def _keep(workers: Sequence[_Worker], settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Start again what has died.

    Raises:
        ServeError: it can't be started with these settings, and never could.
    """
    from prometheus_client import multiprocess

    for worker in workers:
        pid = worker.process.pid if worker.process else 0
        if (code := worker.look()) is not None:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
            event("worker.died", logging.ERROR, worker=worker.number, pid=pid, code=code)
            if code == CONFIGURATION and worker.n_young == 1 and not any(one.process for one in workers):
                raise ServeError("no process could be started", hint="the log's last lines say why")
        if worker.process is None and time.monotonic() >= worker.not_before:
            worker.start(settings, sockets)


def _stop(workers: Sequence[_Worker], settings: Settings, stopping: list[int]) -> None:
    """Tell all to stop, and kill those who do not."""
    running = [worker.process for worker in workers if worker.process is not None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + settings.limits.drain_s + 5.0
    for process in running:
        while process.poll() is None and time.monotonic() < end and len(stopping) < 2:
            time.sleep(_LOOK_S / 2)
        if process.poll() is None:
            process.kill()
            process.wait()
        _let_go(process)


def _let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
