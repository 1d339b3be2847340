"""httpx, as both clients use it."""

from __future__ import annotations

from typing import Any

from luban.client.calls import Lost
from luban.errors import MissingExtra, install


def library() -> Any:
    """Return httpx.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra(f"a client needs the package httpx: {error}", hint=install("client")) from error
    return httpx


def lost(error: Exception) -> Lost:
    """Return what came of a request whose connection failed."""
    return Lost(f"{type(error).__name__}: {error}", timed_out=isinstance(error, library().TimeoutException))
