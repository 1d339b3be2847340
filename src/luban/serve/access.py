"""Who may do what: a small protocol between what knows the keys and the surfaces that ask.

A surface asks twice. Before a request's body is read, `Access.principal` says from its headers who it is; then
`Principal.want` says whether that one may do what the route is for, with the model that the route names. Every route
declares its scope, and none can be made without one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol

from luban.errors import Forbidden

Scope = Literal["predict", "feedback", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("predict", "feedback", "read", "admin")
_log = logging.getLogger(__name__)
Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case and values, as ASGI has them; gRPC's metadata in the same form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks, and what that one may do."""

    name: str
    """For logs and metrics: a key's name, never its secret."""
    tenant: str = ""
    scopes: frozenset[str] = frozenset()
    models: tuple[str, ...] = ("*",)
    """Names of models, or patterns of them, such as `bank-*`."""

    def want(self, scope: Scope, model: str | None = None) -> None:
        """Let it pass, or refuse it.

        Args:
            scope: what the route is for.
            model: the model that it is about; None where it is about none, or about all that this one may use.

        Raises:
            Forbidden: it may not.
        """
        if scope not in self.scopes:
            _log.info("key %s was refused: it may not %s", self.name, scope)
            raise Forbidden(f"{self.name} may not {scope}", hint=f"use a key with the scope {scope}")
        if model is not None and not self.may_use(model):
            _log.info("key %s was refused: it may not use the model %.80r", self.name, model)
            raise Forbidden(f"{self.name} may not use the model {model!r}", hint="use a key that is for this model")

    def may_use(self, model: str) -> bool:
        """Tell whether a model is among its own."""
        return any(pattern in ("*", model) or fnmatchcase(model, pattern) for pattern in self.models)


class Access(Protocol):
    """Knows the keys. One object a process; the event loop calls it once for each request."""

    async def principal(self, headers: Headers) -> Principal:
        """Return who sends a request with these headers. What is known already must take microseconds.

        Raises:
            Unauthenticated: no key, or none that is good; the message is the same for all reasons.
            Overloaded: this key has used up its rate; `retry_after_s` says for how long.
            Unavailable: it can't be known now.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


ANYONE = Principal(name="anyone", scopes=frozenset(SCOPES))


class Open:
    """Lets everybody do everything: for a loopback address without keys."""

    async def principal(self, headers: Headers) -> Principal:
        """Return the same for all."""
        return ANYONE

    def close(self) -> None:
        """Do nothing."""
