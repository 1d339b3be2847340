"""The run folder: which stages are done, with what, and why one has to be done again."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from luban.errors import LubanError
from luban.files import MANIFEST, digest_bytes, digest_json, read_json, sweep, verify, write_json
from luban.project import lock
from luban.project.load import Loaded
from luban.records import Bundle, Finding, Listener, Progress, Report, Step, ignore
from luban.stages.log import RunLog, cut_torn_line
from luban.stages.places import RUNS

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage."""

    name: str
    state: str
    """`done` or `skipped`."""
    why: str
    """Why it was done, or why it could be skipped."""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    """The most memory that the process had held by the stage's end."""


@dataclass(frozen=True)
class RunResult:
    """What a run has made."""

    folder: Path
    stages: Sequence[StageResult]
    report: Report | None = None
    bundle: Bundle | None = None
    findings: Sequence[Finding] = ()


@dataclass
class Run:
    """One run folder while its stages go by."""

    loaded: Loaded
    on_progress: Listener = ignore
    force: Collection[str] = ()
    """Stages that are done again whatever stands there."""
    results: list[StageResult] = field(default_factory=list)
    log: RunLog | None = None
    """`log.jsonl`, from when the run has begun."""

    @property
    def folder(self) -> Path:
        """The run's folder, `runs/NAME` beside the project file."""
        return self.loaded.root / RUNS / self.loaded.project.name

    def tell(self, stage: str, message: str, **amounts: Any) -> None:
        """Say how far a stage has come."""
        self.on_progress(Progress(stage, message, **amounts))

    def counter(self, stage: str, message: str, total: int, *, unit: str = "rows") -> Callable[[int], None]:
        """Return a function that is told how many of `total` are done, and passes on rate and time left."""
        started = time.monotonic()

        def count(done: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            left = (total - done) / rate if rate else None
            self.tell(stage, message, done=done, total=total, unit=unit, rate=rate, left_s=left)

        return count

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        work: Callable[[], Mapping[str, Any] | None],
    ) -> Mapping[str, Any]:
        """Do a stage, or skip it where the same inputs gave the outputs that are there.

        Args:
            name: the stage.
            inputs: everything that decides its outputs, as JSON values: digests, settings, code.
            outputs: sealed folders of the run folder that it makes.
            work: does it, and returns facts to remember.

        Returns:
            The facts, from now or from when it was done.
        """
        path = self.folder / "stages" / f"{name}.json"
        before = read_json(path) if path.is_file() else None
        why = self._why(name, before, inputs, outputs)
        if before is not None and not why:
            self.results.append(StageResult(name, "skipped", "done already, nothing changed"))
            told = "skipped: done already, nothing changed"
            self._log("skipped", name, told)
            self.tell(name, told)
            facts: Mapping[str, Any] = before["facts"]
            return facts
        self._log("begun", name, why)
        self.tell(name, why)
        started = time.monotonic()
        found = dict(work() or {})
        seconds = time.monotonic() - started
        self.results.append(StageResult(name, "done", why, seconds, peak_memory_mb()))
        write_json(path, {
            "key": digest_json(inputs),
            "inputs": inputs,
            "outputs": {output: digest_of(self.folder / output) for output in outputs},
            "facts": found,
            "seconds": round(seconds, 3),
            "peak_memory_mb": round(peak_memory_mb(), 1),
        })  # fmt: skip
        self._log("finished", name, seconds=round(seconds, 3), peak_memory_mb=round(peak_memory_mb(), 1))
        return found

    def _why(self, name: str, before: Any, inputs: Mapping[str, Any], outputs: Sequence[str]) -> str:
        """Return why a stage has to be done; empty where it need not."""
        if before is None:
            return "not done before"
        if name in self.force:
            return "asked for"
        if before["key"] != digest_json(inputs):
            changed = lock.changes(before["inputs"], json.loads(json.dumps(inputs)))
            told = [_shown(change) for change in changed[:3]]
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            return f"changed: {'; '.join(told)}{more}"
        for output in outputs:
            try:
                if verify(self.folder / output)["digest"] != before["outputs"][output]:
                    return f"{output}/ is not what this stage made"
            except (LubanError, KeyError) as error:
                return f"{output}/ can't be used: {str(error).splitlines()[0]}"
        return ""

    def remember(self, name: str) -> Mapping[str, Any] | None:
        """Return the facts of a stage that was done, if it was."""
        path = self.folder / "stages" / f"{name}.json"
        facts: Mapping[str, Any] | None = read_json(path)["facts"] if path.is_file() else None
        return facts

    def _log(self, event: str, stage: str, message: str = "", **amounts: Any) -> None:
        if self.log is not None:
            self.log.write(event, stage, message, **amounts)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Make the folder, clear away what killed writers left, write down settings and machine, and keep the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in (self.folder, self.folder / "stages"):
            sweep(place)
        digest = lock.write(self.loaded.project, self.folder)
        machine = environment(self.loaded.project.train.threads)
        write_json(self.folder / "environment.json", machine)
        self.log, told = RunLog(self.folder), self.on_progress
        heard = self.log.hear

        def tell(progress: Progress) -> None:
            heard(progress)
            told(progress)

        self.on_progress = tell
        with self.log.kept({"luban": machine["packages"]["luban"], "project_digest": digest}):
            yield


class StepLog:
    """Appends each training step to `metrics.jsonl`; after a resumption, steps done again are written again."""

    def __init__(self, folder: Path, training: str) -> None:
        """Take a run's folder, and what stands in each line to tell one training from another."""
        self._training = training
        path = folder / "metrics.jsonl"
        cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, step: Step) -> None:
        """Write one step."""
        self._file.write(json.dumps({"training": self._training, **asdict(step)}, allow_nan=True) + "\n")
        if step.scores:
            self._file.flush()

    def close(self) -> None:
        """Write what is still held back."""
        self._file.close()


def digest_of(folder: Path) -> str:
    """Return the digest that a sealed folder's manifest states."""
    digest: str = read_json(folder / MANIFEST)["digest"]
    return digest


@cache
def code_digest(*rooms: str) -> str:
    """Return the SHA-256 over the source of rooms or files of Luban, so that other code does a stage again."""
    files = sorted(
        file
        for room in rooms
        for file in ([_PACKAGE / room] if room.endswith(".py") else (_PACKAGE / room).rglob("*.py"))
    )
    return digest_bytes(b"".join(file.relative_to(_PACKAGE).as_posix().encode() + file.read_bytes() for file in files))


def peak_memory_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent held when it made this process, too
        peak = next((line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM:")), "")
        if peak:
            return int(peak.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def environment(n_threads: int) -> dict[str, Any]:
    """Return what the run ran on: versions of what counts, processor, threads, memory.

    Args:
        n_threads: `train.threads`; where it is 0, the threads are those that torch takes by itself.
    """
    import platform
    from importlib import metadata

    import psutil

    from luban.models.limits import cores, cpu_name, threads

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    told = os.environ.get("OMP_NUM_THREADS", "")
    packages = ("luban", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "accelerate", "numpy", "pyarrow")
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": n_threads or (int(told) if told.isdecimal() and int(told) else threads()),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "packages": {package: version(package) for package in packages},
    }


def _shown(change: lock.Change) -> str:
    if change.path.endswith("digest"):
        return change.path.removesuffix("digest").strip("_. ").replace("_", " ") or "inputs"
    return str(change)
