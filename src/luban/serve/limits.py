"""What one request, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a server; every surface holds the same."""

    body_bytes: int = 1 << 20
    """Bytes of a request's body, and of a line of a stream."""
    header_bytes: int = 1 << 16
    """Bytes of a request's line and headers."""
    items: int = 32
    """Texts of a request."""
    tokens: int = 512
    """Tokens of a text that a model reads; what it cuts off does not count."""
    depth: int = 50
    """Brackets within brackets in JSON."""
    queue: int = 64
    """Requests inside at once that ask a model; one more is told to come later."""
    explanations: int = 4
    """Explanations at once; each asks for many texts."""
    streams: int = 4
    """Streams of rows at once."""
    connections: int = 512
    """Connections at once, of one process."""
    header_s: float = 5.0
    """Seconds within which a connection sends its request's headers."""
    body_s: float = 10.0
    """Seconds within which a body arrives, and a stream sends more."""
    request_s: float = 5.0
    """Seconds within which a request is answered, from its body on."""
    keep_alive_s: float = 75.0
    """Seconds that a connection may wait for its next request."""
    drain_s: float = 20.0
    """Seconds that a server which was told to stop gives those who are inside."""
