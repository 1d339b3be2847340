"""Faults from outside: strace makes one call of a running operation fail, or kills the process before it.

The operation runs in a child that is forked when everything is imported, and that strace attaches to: so the first call
that counts is the operation's own. The same trace tells what was on the disk when success was acknowledged, were the
power cut at that moment.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from luban.errors import LubanError

CALLS = (
    "write", "pwrite64", "writev", "sendfile", "copy_file_range", "fsync", "fdatasync", "rename", "renameat",
    "renameat2", "ftruncate", "fallocate", "mkdir", "unlink", "unlinkat", "rmdir",
)  # fmt: skip
ERRORS = ("EIO", "ENOSPC", "KILL")
_TRACED = ",".join(f"?{call}" for call in (*CALLS, "openat", "sendto"))
_HUNG_S = 100
_ANYONE = ctypes.c_ulong(-1)
_PR_SET_PTRACER = 0x59616D61
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_HANDLE = re.compile(r"^\d+<(.*?)>")
_QUOTED = re.compile(r'"([^"]*)"')
_WRITES = ("write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate", "fallocate")
_NEEDS_NO_FLUSH = ("-shm", "-turn")
"""An index that is made anew from the log, and a lock."""
_ASIDE = "/.aside-"
"""What stands in such a folder is not read before the folder itself is renamed."""
Say = Callable[[], None]
Act = Callable[[Path, Say], None]


@dataclass(frozen=True)
class Fault:
    """The n-th call of a kind fails with an error, or its process is killed before it."""

    call: str
    n: int
    error: str

    def __str__(self) -> str:
        return f"{self.error} at {self.call} {self.n}"


@dataclass(frozen=True)
class Outcome:
    """What an operation said, and what it asked of the system."""

    acknowledged: bool
    error: str
    """What was raised: `Kind: message`; empty where nothing was."""
    is_told: bool
    """Whether it was an error of Luban's."""
    status: int
    """Exit code; the signal, negative, where one ended it."""
    trace: tuple[str, ...]

    @property
    def is_touched(self) -> bool:
        """Whether the fault was met."""
        return self.status == -signal.SIGKILL or any("(INJECTED)" in line for line in self.trace)


def want_strace() -> None:
    """Skip where faults can't be injected."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")


def run(act: Act, folder: Path, *, fault: Fault | None = None, log: Path | None = None) -> Outcome:
    """Run an operation in a process of its own, under strace where there is a log for it."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            here.close()
            _act(act, folder, there)
        finally:
            os._exit(3)
    there.close()
    with here:
        tracer = None if log is None else _attached(child, here, fault, log)
        here.sendall(b"go\n")
        with here.makefile(encoding="utf-8") as heard:
            told = [line.rstrip("\n").split(" ", 1) for line in heard]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if tracer is not None:
        tracer.communicate()
    said = dict((*one, "")[:2] for one in told)
    return Outcome(
        acknowledged="done" in said, error=said.get("refused", said.get("failed", "")), is_told="refused" in said,
        status=status, trace=tuple(log.read_text("utf-8").splitlines()) if log is not None else (),
    )  # fmt: skip


def _act(act: Act, folder: Path, there: socket.socket) -> None:
    """Be the child: wait for strace, act, and tell."""
    gc.disable()  # it would touch, and so copy, all of what was forked
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYONE)
    signal.alarm(_HUNG_S)
    there.recv(8)

    def tell(text: str) -> None:
        # Not `write`, which is one of the calls that fail.
        there.sendall(" ".join(text.split()).encode() + b"\n")

    try:
        act(folder, lambda: tell("done"))
        os._exit(0)
    except LubanError as error:
        tell(f"refused {type(error).__name__}: {error}")
    except BaseException as error:
        tell(f"failed {type(error).__name__}: {error}")
    os._exit(1)


def _attached(child: int, here: socket.socket, fault: Fault | None, log: Path) -> subprocess.Popen[str]:
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-p", str(child), "-e", f"trace={_TRACED}"]
    if fault is not None:
        what = "signal=KILL" if fault.error == "KILL" else f"error={fault.error}"
        command += ["-e", f"inject=?{fault.call}:{what}:when={fault.n}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tracer.communicate()
        pytest.skip(f"strace may not trace here: {said.strip()}")
    return tracer


def faults(trace: tuple[str, ...]) -> Iterator[Fault]:
    """Yield every fault that an operation can meet, by the trace of a run that met none."""
    calls = Counter(match[1] for line in trace if (match := _LINE.match(line)))
    for call in CALLS:
        for n in range(1, calls[call] + 1):
            yield from (Fault(call, n, error) for error in ERRORS)


def at_risk(trace: tuple[str, ...], root: Path, there_before: set[str]) -> list[str]:
    """Return what a power cut could have undone of what was acknowledged, by the order of writes, flushes and renames.

    A file must be flushed after its last write, and the folder after a name in it was made, before success is
    acknowledged; and before a rename all of that for what is renamed.

    Args:
        trace: of the run.
        root: what is looked at.
        there_before: every path below `root` before the run.
    """
    found: list[str] = []
    unflushed: set[str] = set()
    unnamed: set[str] = set()
    known = set(there_before)

    def below(path: str) -> list[str]:
        return sorted(one for one in unflushed | unnamed if one == path or one.startswith(f"{path}/"))

    def made(path: str) -> None:
        known.add(path)
        unnamed.add(path)

    def gone(path: str) -> None:
        known.discard(path)
        unflushed.discard(path)
        unnamed.discard(path)

    for line in trace:
        match = _LINE.match(line)
        if match is None or match[3].startswith("-"):
            continue
        call, given = match[1], match[2]
        handle, names = _HANDLE.match(given), [name for name in _QUOTED.findall(given) if name.startswith(str(root))]
        if call == "sendto":
            # What goes into a database out of a log that is whole on the disk goes there again.
            logged = {one.removesuffix("-wal") for one in known - unflushed - unnamed if one.endswith("-wal")}
            lost = [one for one in sorted((unflushed | unnamed) - logged) if not one.endswith(_NEEDS_NO_FLUSH)]
            found += [f"acknowledged before {Path(one).name} was on the disk" for one in lost]
            break
        if call in _WRITES and handle is not None and handle[1].startswith(str(root)):
            unflushed.add(handle[1])
        elif call in ("fsync", "fdatasync") and handle is not None:
            unflushed.discard(handle[1])
            unnamed -= {one for one in unnamed if os.path.dirname(one) == handle[1]}
        elif call == "openat" and names and "O_CREAT" in given:
            if names[0] not in known:
                made(names[0])
            elif "O_TRUNC" in given:
                unflushed.add(names[0])
        elif call == "mkdir" and names:
            made(names[0])
        elif call.startswith("rename") and len(names) == 2:
            old, new = names
            early = [one for one in below(old) if one != old or one in unflushed]
            if early and _ASIDE not in os.path.dirname(new):
                found.append(f"renamed before {Path(early[0]).name} was on the disk")
            unflushed |= {new + one[len(old) :] for one in early if one in unflushed}
            for one in below(old):
                gone(one)
            known |= {new + one[len(old) :] for one in known if one.startswith(f"{old}/")}
            made(new)
            if "RENAME_EXCHANGE" in given:
                made(old)
            else:
                gone(old)
        elif call in ("unlink", "rmdir") and names:
            gone(names[0])
        elif call == "unlinkat" and (inside := re.match(r'(?:AT_FDCWD|\d+)<(.*?)>, "([^"]*)"', given)):
            gone(os.path.join(inside[1], inside[2]))
    return found
