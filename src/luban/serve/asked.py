"""What is known of the request that is being answered, for what lies beneath the surfaces.

A surface makes one for each request that asks a model; whoever answers rows writes down what it took. It goes along
with the task that answers, and with those that this one starts.
"""

from __future__ import annotations

import os
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luban.serve.access import Headers, Principal

if TYPE_CHECKING:
    from luban.serve.hosting import Answer

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class Asked:
    """One request."""

    headers: Headers
    begun: float = field(default_factory=time.monotonic)
    """By `time.monotonic`, as the other moments."""
    admitted: float = 0.0
    """When it was let in; 0 where it was not."""
    principal: Principal | None = None
    id: str = ""
    """The caller's own `x-request-id`, or one that was made up."""
    model: str = ""
    version: str = ""
    """Number of the version that answered last, or the beginning of its digest."""
    n_rows: int = 0
    n_tokens: int = 0
    waited_s: float = 0.0
    """Until its batch was taken; of a stream, the longest."""
    ran_s: float = 0.0
    batch_rows: int = 0
    answered: float = 0.0
    """When the answer was there; 0 where none was."""

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value; names are in lower case."""
        return next((value for one, value in self.headers if one == name), None)

    def took(self, answer: Answer, version: str) -> None:
        """Write down what an answer took."""
        found = answer.answered
        self.model, self.version = answer.served.name, version
        self.n_rows += len(found.predictions)
        self.n_tokens += found.n_tokens
        self.waited_s, self.ran_s = max(self.waited_s, found.waited_s), max(self.ran_s, found.ran_s)
        self.batch_rows = found.batch_rows
        self.answered = time.monotonic()


ASKED: ContextVar[Asked | None] = ContextVar("luban_asked", default=None)


def begin(headers: Headers) -> Asked:
    """Return the request that begins now, for everything beneath."""
    asked = Asked(headers)
    ASKED.set(asked)
    return asked


def request_id(asked: Asked) -> str:
    """Return the id of a request: the caller's where it is a good one, else 16 random digits."""
    if not asked.id:
        given = asked.header(b"x-request-id")
        asked.id = given.decode() if given and _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
    return asked.id
