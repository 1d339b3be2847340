"""One graph in two sessions: a run that is alone takes every core, runs beside each other take one each.

A run alone is sooner with all threads where those do not sleep between two operators: they spin for as long as it
lasts, and two milliseconds longer, so that a server without requests takes nothing of the machine. Runs side by side
would take the cores from each other that way: those have a thread each, and so has the next run after them, since there
may be more. Both give the same bits.

Whether all threads pay for a run alone depends on its size, the graph and who else has work on the machine. It is
measured as it goes: of runs alone, one in `_TRIES` takes what was slower until now.

Legend: B windows in a batch, L tokens in the longest of them, K outputs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban import files
from luban.bundle import pooled
from luban.bundle.graph import INPUTS
from luban.bundle.prepared import Prepared, prepared
from luban.bundle.runtimes import n_callers, n_threads, onnx
from luban.bundle.runtimes.onnx import OUTPUT
from luban.errors import CorruptBundle

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner

_TRIES = 32
_IN_A_ROW = 4
"""Runs that must have been alone before one takes all threads: spinning ones would be in the way of who comes next."""
_FIRST = 4
"""Runs of each width before one is preferred."""
_KEPT = 0.8
"""Share of what was known that a new run leaves."""
_log = logging.getLogger(__name__)


def open(
    folder: Path, facts: Mapping[str, Any], threads: int, place: Path, *, vectors: bool = False
) -> tuple[Runner, Runner | None] | None:
    """Open a sealed folder's graph as it is kept ready, and return what gives its logits, and what gives its vectors.

    Args:
        folder: of the runtime `onnx`, whose manifest can be read.
        facts: the runtime's.
        threads: of a run that is alone; 0 means the facts' own, or every core.
        place: where graphs are kept ready.
        vectors: they are wanted, where the graph has them.

    Returns:
        None where no graph can be kept there.

    Raises:
        CorruptBundle, MissingExtra: as the runtime `onnx`.
    """
    path = folder / onnx.GRAPH
    threads = n_threads(facts, threads)
    with onnx.opening(str(path)):
        digest = str(files.read_json(folder / files.MANIFEST)["files"][onnx.GRAPH]["sha256"])
        name = pooled.pooled(path.read_bytes()) if vectors else None
        added = b"" if name is None else pooled.output(name)
        for _ in range(2):
            if (found := prepared(place, digest, path.read_bytes, added)) is None:
                return None
            try:
                runner = _opened(found, threads)
            except CorruptBundle as error:
                _log.warning("what was kept ready is damaged, and made again: %s", error)
                found.drop()
            else:
                return runner, None if name is None else runner.giving(name)
    return None


def _opened(found: Prepared, threads: int) -> onnx.OnnxRunner | TwoWidths:
    """Open the sessions, while the weights are compared with what was written.

    Raises:
        CorruptBundle: they changed.
    """
    # Where more threads are there than runs side by side, these share them, without spinning.
    beside = 1 if n_callers(threads) == threads else threads
    with ThreadPoolExecutor(3) as aside:
        checking = aside.submit(found.verify)
        try:
            narrow = aside.submit(found.session, beside)
            wide = aside.submit(found.session, threads, spin=True) if threads > 1 else None
            if wide is None:
                return onnx.OnnxRunner(narrow.result(), threads)
            return TwoWidths(narrow.result(), wide.result(), threads)
        finally:
            checking.result()  # a damaged file is the error, whatever it made of the opening


class _Pace:
    """Seconds a run takes, of one size and width."""

    __slots__ = ("n", "seconds")

    def __init__(self) -> None:
        self.n, self.seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        if self.n:
            # One that was disturbed for long says little of the next.
            seconds = _KEPT * self.seconds + (1 - _KEPT) * min(seconds, 2 * self.seconds)
        self.n, self.seconds = self.n + 1, seconds


class Choice:
    """Which width a run takes that is alone: learned from those that were."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[_Pace, _Pace]] = {}
        """Size, to a power of two -> narrow and wide."""
        self._n = 0

    def wide(self, size: int) -> bool:
        """Tell whether a run of so many padded tokens should take all threads."""
        narrow, wide = self._paces(size)
        if min(narrow.n, wide.n) < _FIRST:
            return wide.n <= narrow.n
        self._n += 1
        return (wide.seconds <= narrow.seconds) != (self._n % _TRIES == 0)

    def learn(self, size: int, wide: bool, seconds: float) -> None:
        """Learn from a run that was alone from begin to end."""
        self._paces(size)[wide].add(seconds)

    def _paces(self, size: int) -> tuple[_Pace, _Pace]:
        return self._known.setdefault(size.bit_length(), (_Pace(), _Pace()))


class _Inside:
    """Who runs just now; shared by the runners of one graph."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n = 0
        self.n_begun = 0
        self.n_alone = 0
        """Runs in a row that nobody ran beside."""
        self.choice = Choice()


class TwoWidths:
    """A graph's runner; see `luban.bundle.runtimes.Runner`."""

    def __init__(
        self, narrow: Any, wide: Any, threads: int, output: str = OUTPUT, inside: _Inside | None = None
    ) -> None:
        """Take two ONNX Runtime sessions of one graph: with a thread, and with `threads`."""
        self._narrow, self._wide = narrow, wide
        self.threads = threads
        self._output = output
        self._inside = inside or _Inside()

    def giving(self, output: str) -> TwoWidths:
        """Return a runner of the same graph whose `run` returns another of its outputs."""
        return TwoWidths(self._narrow, self._wide, self.threads, output, self._inside)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return the logits."""
        inside, size = self._inside, input_ids.size
        with inside.lock:
            inside.n += 1
            inside.n_begun += 1
            number, alone = inside.n_begun, inside.n == 1
            if not alone:
                inside.n_alone = 0
            wide = alone and inside.n_alone >= _IN_A_ROW and inside.choice.wide(size)
        begun = time.perf_counter()
        try:
            session = self._wide if wide else self._narrow
            found: np.ndarray = session.run((self._output,), {INPUTS[0]: input_ids, INPUTS[1]: attention_mask})[0]
            seconds = time.perf_counter() - begun
            with inside.lock:
                if alone and number == inside.n_begun:
                    inside.n_alone += 1
                    inside.choice.learn(size, wide, seconds)
        finally:
            with inside.lock:
                inside.n -= 1
        return found
