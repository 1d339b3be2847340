"""Warnings that the library logs, shown between the lines of progress; all other packages are kept from chattering."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luban.cli.show.progress import Display


class _Handler(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.note(record.getMessage())


@contextmanager
def heard(display: Display) -> Iterator[None]:
    """Show warnings of Luban's loggers on a display while the block runs."""
    logger = logging.getLogger("luban")
    handler = _Handler(display)
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
