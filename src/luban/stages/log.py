"""The run's log, `log.jsonl`: one JSON line for whatever happened that a reader would ask for later.

Lines are added across resumptions. Worth a line are a run and a stage that began, finished, was skipped, failed or was
stopped, each new message, warnings, a count's end, and training steps that were measured or have a note; ticks of a
counter are not, and `metrics.jsonl` has every step.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luban.records import Progress

LOG = "log.jsonl"


class RunLog:
    """Adds lines to a run's log; each is in the file before `write` returns."""

    def __init__(self, folder: Path) -> None:
        """Take a run's folder, and cut what a crash left of a last line."""
        self.path = folder / LOG
        self.stage = "run"
        """What was told of last."""
        self._message = ""
        self._ended = False
        cut_torn_line(self.path)

    def write(self, event: str, stage: str, message: str = "", **amounts: Any) -> None:
        """Add a line.

        Args:
            event: `begun`, `skipped`, `finished`, `failed`, `stopped`, `told` or `warning`.
            stage: the stage's name, or `run` for the whole.
            message: for a person.
            amounts: further values of JSON; what is None is left out.
        """
        self.stage, self._message, self._ended = stage, message, False
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {"time": now, "event": event, "stage": stage, "message": message, **amounts}
        line = json.dumps({key: value for key, value in facts.items() if value is not None}, ensure_ascii=False)
        with self.path.open("ab") as file:
            file.write(line.encode("utf-8", "replace") + b"\n")

    def hear(self, progress: Progress) -> None:
        """Add a line for news of a stage that are worth one."""
        step = progress.step
        if step is not None:
            if step.scores or step.note:
                scores = dict(step.scores) if step.scores else None
                message = step.note or "measured on validation rows"
                amounts = {"done": step.step, "total": step.n_steps, "unit": "steps", "scores": scores}
                self.write("told", progress.stage, message, **amounts, best=step.is_best or None)
            return
        new = (progress.stage, progress.message) != (self.stage, self._message)
        ends = 0 < progress.total <= progress.done
        if new or (ends and not self._ended):
            counted = {"done": progress.done, "total": progress.total, "unit": progress.unit} if progress.total else {}
            self.write("told", progress.stage, progress.message, **counted)
            self._ended = ends

    @contextmanager
    def kept(self, facts: Mapping[str, Any]) -> Iterator[None]:
        """Tell of the run's beginning and end, and of warnings of Luban's loggers, while the block runs."""
        self.write("begun", "run", **facts)
        started = time.monotonic()
        logger = logging.getLogger("luban")
        handler = _Warnings(self, logging.lastResort if not logger.hasHandlers() else None)
        logger.addHandler(handler)
        try:
            yield
        except Exception as error:
            self.write("failed", self.stage, str(error), error=type(error).__name__)
            raise
        except BaseException:
            self.write("stopped", self.stage, "stopped from outside")
            raise
        finally:
            logger.removeHandler(handler)
        self.write("finished", "run", seconds=round(time.monotonic() - started, 3))


class _Warnings(logging.Handler):
    def __init__(self, log: RunLog, also: logging.Handler | None) -> None:
        """Take the log, and what shows warnings where nobody else listens: having a handler would silence it."""
        super().__init__(logging.WARNING)
        self._log, self._also = log, also

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write("warning", self._log.stage, record.getMessage())
        if self._also is not None:
            self._also.handle(record)


def cut_torn_line(path: Path) -> None:
    """Cut what follows the last line end of a file of lines that grows, as a kill in mid-line leaves it."""
    if not path.is_file():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
