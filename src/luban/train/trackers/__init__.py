"""Trackers: where training steps are logged besides the run's own files. One file each: `Options`, `make`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luban.plugins import Catalogue

if TYPE_CHECKING:
    from luban.records import Step

catalogue = Catalogue("luban.train.trackers", "tracker")


class Tracker(Protocol):
    """What `make(options, folder)` of a tracker's module returns."""

    def log(self, step: Step) -> None:
        """Take in one training step."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


def make(kind: str, options: dict[str, Any], folder: Path) -> Tracker:
    """Return a tracker by name that logs a run whose folder is given."""
    module = catalogue.load(kind)
    tracker: Tracker = module.make(module.Options(**options), folder)
    return tracker
