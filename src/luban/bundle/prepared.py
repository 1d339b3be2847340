"""Graphs made ready for this machine and kept: held once by all processes that run them.

ONNX Runtime rewrites a graph when it opens it, and packs the weights of its products in the order in which the kernels
of this CPU read them. That is most of the time of opening, and memory of each session's own. What comes of it is kept
here in a folder: the graph that was rewritten, and all weights in one file, which sessions map into their memory. Its
pages are shared by all of them, in every process, and the system can drop them and read them again.

Answers are the same to the bit: the runtime would make the same of the graph once more, and a folder is kept only after
it has answered examples as the graph itself does. Another graph, runtime or CPU has a folder of its own. One is used
only where nobody but this user can have written it, and its SHA-256 digests match; one that is damaged is made again.

Legend: B windows in a batch, L tokens in the longest.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luban import files
from luban.bundle.graph import INPUTS, KEPT_APART
from luban.bundle.runtimes import onnx
from luban.errors import CorruptBundle, LubanError
from luban.models.limits import read_text

GRAPH, WEIGHTS, _LOCK = "graph.onnx", "weights.bin", "lock"
_FORM = 1
_LEAST_BYTES = 1024
"""Of a weight that stands in the file of weights: smaller ones stay in the graph."""
_UNUSED_S = 30 * 86400.0
_MOST_BYTES = 8 << 30
"""Of all that is kept: what was used longest ago goes first."""
_WAIT_S, _LOOK_S = 60.0, 0.02
"""How long another process that makes one is waited for."""
_SHAPES = ((1, 1), (1, 16), (3, 7), (2, 64))
"""(B, L) of the examples."""
_CPU_FACTS = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU implementer", "CPU architecture",
    "CPU variant", "CPU part", "CPU revision", "Features",
)  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A graph that was made ready, found whole but for the contents of its weights."""

    folder: Path
    manifest: Mapping[str, Any]

    def session(self, threads: int, *, spin: bool = False) -> Any:
        """Return an ONNX Runtime session with so many threads; see `luban.bundle.runtimes.onnx.session`."""
        return onnx.session(str(self.folder / GRAPH), threads, spin=spin, ready=True)

    def verify(self) -> None:
        """Compare the weights with what was written; hashing lets other threads run.

        Raises:
            CorruptBundle: they changed.
        """
        files.verify_contents(self.folder, self.manifest)

    def drop(self) -> None:
        """Remove it; what maps it keeps it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def place(given: str | None) -> Path | None:
    """Return the folder in which graphs are kept: as given, None for `none`, without either Luban's own.

    That is `$LUBAN_HOME/graphs`, otherwise `~/.cache/luban/graphs`.
    """
    if given == "none":
        return None
    if given:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("LUBAN_HOME") or "~/.cache/luban").expanduser().absolute() / "graphs"


def prepared(place: Path, digest: str, graph: Callable[[], bytes], added: bytes = b"") -> Prepared | None:
    """Return a graph made ready, and make it so first where it isn't yet; None where that can't be had.

    Args:
        place: the folder in which they are kept.
        digest: SHA-256 of the graph's file.
        graph: reads the file; asked only where the graph has to be made ready.
        added: bytes that are appended to it.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """
    with onnx.opening("the graph"):
        facts = _facts(digest, added)
    folder = place / files.digest_json(facts)
    try:
        return _found(place, folder, facts) or _made(place, folder, facts, graph, added)
    except (OSError, LubanError) as error:  # a disk that is full or read-only: the graph is opened as it is
        _log.info("the graph is not kept ready: %s", error)
        return None


def _facts(digest: str, added: bytes) -> dict[str, Any]:
    """Return all that decides what the runtime makes of a graph."""
    import onnxruntime

    return {
        "form": _FORM, "graph": digest, "added": files.digest_bytes(added), "onnxruntime": onnxruntime.__version__,
        "build": onnxruntime.get_build_info(), "apart": list(KEPT_APART), "cpu": _cpu(),
    }  # fmt: skip


def _cpu(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what tells one kind of CPU from another, of the first one."""
    found = {"machine": os.uname().machine}
    for line in read_text(path).split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        if name.strip() in _CPU_FACTS:
            found[name.strip()] = value.strip()
    return found


def _found(place: Path, folder: Path, facts: Mapping[str, Any]) -> Prepared | None:
    """Return what is kept there, None where there is nothing, or nothing that can be trusted."""
    if not folder.is_dir() or not all(map(_own, (place, folder, *folder.iterdir()))):
        return None
    try:
        manifest = files.survey(folder)
        if manifest.get("of") != facts:
            raise CorruptBundle(f"{folder} is of another graph")
        noted = manifest["files"]
        # The graph before it is parsed, the weights while it is: they are only numbers.
        files.verify_contents(folder, {"files": {GRAPH: noted[GRAPH]}})
        weights = {name: noted[name] for name in noted if name != GRAPH}
    except (LubanError, KeyError) as error:
        _log.warning("what was kept ready is damaged, and made again: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with suppress(OSError):
        os.utime(folder)
    return Prepared(folder, {"files": weights})


def _own(path: Path) -> bool:
    """Tell whether nobody but this user can have written a file or folder."""
    found = path.lstat()
    plain = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    return plain and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _made(
    place: Path, folder: Path, facts: Mapping[str, Any], graph: Callable[[], bytes], added: bytes
) -> Prepared | None:
    """Make a graph ready, or wait for who does; None where somebody else could write there.

    Raises:
        OSError, LubanError: it can't be made.
    """
    if not place.is_dir():
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.chmod(0o700)  # whatever the mask of new files
    if not _own(place):
        _log.warning("%s can be written by others: no graph is kept ready there", place)
        return None
    with _one_at_a_time(place / _LOCK):
        if found := _found(place, folder, facts):
            return found  # another process was quicker
        data = graph()
        if files.digest_bytes(data) != facts["graph"]:
            return None  # a damaged bundle, which its own check will name
        _tidy(place, facts)
        with files.new_folder(folder, replace=True) as aside:
            aside.chmod(0o700)
            written = onnx.session(data + added, 1, keep=(aside / GRAPH, WEIGHTS, _LEAST_BYTES))
            del data
            for path in aside.iterdir():
                path.chmod(0o600)
            _check_same(written, onnx.session(str(aside / GRAPH), 1, ready=True))
            del written
            files.seal(aside, {"of": facts})
            (aside / files.MANIFEST).chmod(0o600)
        _give_back()
        return _found(place, folder, facts)


def _give_back() -> None:
    """Give memory that was freed back to the system: what was taken to make a graph ready is not needed again."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _check_same(wanted: Any, got: Any) -> None:
    """Compare two sessions' answers to examples.

    Raises:
        CorruptBundle: they differ by a bit.
    """
    chance = np.random.default_rng(0)
    for shape in _SHAPES:
        mask = np.ones(shape, np.int64)
        mask[1:, shape[1] // 2 + 1 :] = 0
        # Every vocabulary has the first of these tokens: the special ones, and a character or two.
        given = dict(zip(INPUTS, (chance.integers(0, 6, shape), mask), strict=True))
        for one, other in zip(wanted.run(None, given), got.run(None, given), strict=True):
            if one.shape != other.shape or one.tobytes() != other.tobytes():
                raise CorruptBundle("the graph answers otherwise once it was kept")


def _tidy(place: Path, facts: Mapping[str, Any]) -> None:
    """Remove what killed writers left, what another runtime or form made, and what was not used for long."""
    files.sweep(place)
    kept: list[tuple[float, int, Path]] = []
    for folder in (path for path in place.iterdir() if path.is_dir()):
        try:
            of = files.read_json(folder / files.MANIFEST)["of"]
            stale = any(of[name] != facts[name] for name in ("form", "onnxruntime", "build", "apart", "cpu"))
            used = folder.stat().st_mtime
            size = sum(path.stat().st_size for path in folder.iterdir())
        except (OSError, LubanError, KeyError, TypeError):
            stale, used, size = True, 0.0, 0
        if stale or used < time.time() - _UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            kept.append((used, size, folder))
    total = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept):
        if total <= _MOST_BYTES:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that only one process has; the kernel lets go of it when the process dies.

    Raises:
        OSError: another one has held it for too long.
    """
    end = time.monotonic() + _WAIT_S
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(_LOOK_S)
        yield
