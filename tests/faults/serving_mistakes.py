"""Mistakes of a server, made on purpose: `served(..., mistake=NAME)` runs one with it, and a harness must find it."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from typing import Any

from luban.bundle.engine import Engine
from luban.cli.main import main as command
from luban.errors import Overloaded, TooLarge, Unavailable
from luban.serve import admit, hosting, keyring, listener, places, process, rest, rpc, schemas, workers
from luban.serve.access import Principal, Scope
from luban.serve.hosting import Answer, Hosting
from luban.serve.protocols.kserve import Kserve
from luban.serve.routing import PUBLIC, Request, Response

_KEPT: list[Any] = []


def _around_predict(before: Any) -> None:
    """Have every request that asks a model go through something first."""
    predict = rest.Rest.predict

    async def wrapped(self: rest.Rest, request: Request) -> Response:
        await before()
        return await predict(self, request)

    rest.Rest.predict = wrapped  # type: ignore[method-assign]


def slow_now_and_then() -> None:
    """One request in thirty waits for something."""
    numbers = itertools.count()

    async def wait() -> None:
        await asyncio.sleep(0.5 if next(numbers) % 30 == 29 else 0)

    _around_predict(wait)


def fails_now_and_then() -> None:
    """One request in fifty meets something that nobody thought of."""
    numbers = itertools.count()

    async def fail() -> None:
        if next(numbers) % 50 == 49:
            raise ZeroDivisionError

    _around_predict(fail)


def no_time_to_come_again() -> None:
    """A refusal does not say when to come again."""
    problem = admit.problem

    def bare(*arguments: Any, **more: Any) -> Response:
        told = problem(*arguments, **more)
        return Response(told.body, told.status, told.kind)

    admit.problem = bare


def fails_when_full() -> None:
    """Where there is no place, something fails."""

    def full(self: places.Places, *arguments: Any) -> Overloaded:
        raise RuntimeError("no place")

    places.Places._full = full  # type: ignore[method-assign]


def version_told_late() -> None:
    """An answer is told to be of the version that is there when it goes out."""
    predict = Hosting.predict

    async def late(self: Hosting, name: str, rows: Any, deadline: float) -> Answer:
        answer = await predict(self, name, rows, deadline)
        served = self.model(name).served
        assert served is not None
        return Answer(served, answer.answered)

    Hosting.predict = late  # type: ignore[method-assign]


def closed_while_opening() -> None:
    """Nobody is answered while a version is opened."""
    opening, predict, opened = [0], Hosting.predict, Hosting._open

    async def alone(self: Hosting, *arguments: Any) -> None:
        opening[0] += 1
        try:
            await opened(self, *arguments)
        finally:
            opening[0] -= 1

    async def refused(self: Hosting, *arguments: Any) -> Answer:
        if opening[0]:
            raise Unavailable("a version is opened")
        return await predict(self, *arguments)

    Hosting._open, Hosting.predict = alone, refused  # type: ignore[method-assign, assignment]


def bad_version_replaces_good() -> None:
    """Where the newest version can't be opened, nothing answers."""
    trouble = Hosting._trouble

    def gone(self: Hosting, model: hosting.Model, *more: Any) -> None:
        trouble(self, model, *more)
        model.served = None

    Hosting._trouble = gone  # type: ignore[method-assign]


def stops_at_once() -> None:
    """A signal closes every connection."""

    async def drain(self: listener.Port) -> None:
        for connection in list(self._state.connections):
            connection.transport.abort()

    listener.Port.drain = drain  # type: ignore[method-assign]


def keeps_memory() -> None:
    """Every request leaves 100 kB behind."""

    async def keep() -> None:
        _KEPT.append(b"x" * 100_000)

    _around_predict(keep)


def keeps_descriptors() -> None:
    """Every tenth request leaves a file open."""
    numbers = itertools.count()

    async def keep() -> None:
        if next(numbers) % 10 == 0:
            _KEPT.append(os.open(os.devnull, os.O_RDONLY))

    _around_predict(keep)


def models_not_asked_about() -> None:
    """A key is good for every model."""
    want = Principal.want

    def less(self: Principal, scope: Scope, model: str | None = None) -> None:
        want(self, scope)

    Principal.want = less  # type: ignore[method-assign]


def scopes_not_asked_about() -> None:
    """A key is good for every route."""

    want = Principal.want

    def either(self: Principal, scope: Scope, model: str | None = None) -> None:
        want(Principal(name=self.name, scopes=frozenset({scope}), models=self.models), scope, model)

    Principal.want = either  # type: ignore[method-assign]


def revoked_keys_count() -> None:
    """A key that was revoked is good."""
    entry = keyring._Entry

    def never(sha256: bytes, expires: float, revoked: bool, *more: Any) -> Any:
        return entry(sha256, expires, False, *more)

    keyring._Entry = never  # type: ignore[misc, assignment]


def expired_keys_count() -> None:
    """A key whose time is over is good."""
    entry = keyring._Entry

    def always(sha256: bytes, expires: float, *more: Any) -> Any:
        return entry(sha256, float("inf"), *more)

    keyring._Entry = always  # type: ignore[misc, assignment]


def a_route_for_everybody() -> None:
    """One route asks for no key."""
    routes = Kserve.routes.fget
    assert routes is not None

    def opened(self: Kserve) -> Any:
        found = routes(self)
        return (*found[:-1], type(found[-1])(**{**_fields(found[-1]), "scope": PUBLIC}))

    Kserve.routes = property(opened)  # type: ignore[assignment, method-assign]


def methods_not_asked_about() -> None:
    """Over gRPC a key is good for every model."""
    rpc.Port._check = lambda *_: None  # type: ignore[method-assign]


def not_started_again() -> None:
    """A process that died stays dead."""
    workers._keep = lambda *_: None


def answers_of_another() -> None:
    """Now and then a request gets the answer that the one before it got."""
    predict, numbers = Hosting.predict, itertools.count()

    async def mixed(self: Hosting, name: str, rows: Any, deadline: float) -> Answer:
        answer = await predict(self, name, rows, deadline)
        before = _KEPT[-1] if _KEPT else answer
        _KEPT[:] = [answer]
        return before if next(numbers) % 5 == 4 else answer

    Hosting.predict = mixed  # type: ignore[method-assign]
    _in_children("answers_of_another")


def outlives_its_parent() -> None:
    """A process does not care whether there is a parent that would stop it."""
    run = process.run
    process.run = lambda settings, bound, parent=None: run(settings, bound)
    _in_children("outlives_its_parent")


def crashes_on_a_text() -> None:
    """A text with a character beyond the first plane meets something that nobody thought of."""
    checked = Engine.checked

    def narrow(self: Engine, rows: Any) -> Any:
        found = checked(self, rows)
        for row in found:
            if isinstance(row, str):
                row.encode("utf-16-le")[1::2].decode("ascii") if max(row, default="") > "\uffff" else None
        return found

    Engine.checked = narrow  # type: ignore[method-assign]


def a_field_of_another_type() -> None:
    """The version is told as a text."""
    predicted = schemas.predicted

    def told(*arguments: Any, **more: Any) -> Any:
        found = predicted(*arguments, **more)
        found.version = str(found.version)
        return found

    schemas.predicted = told


def another_status_than_it_says() -> None:
    """What is wrong with a body is answered with another status than the problem's own."""
    problem = admit.problem

    def other(*arguments: Any, **more: Any) -> Response:
        told = problem(*arguments, **more)
        return Response(told.body, 422 if told.status == 400 else told.status, told.kind, told.headers)

    admit.problem = other


def a_status_that_nobody_was_told_of() -> None:
    """What is too large is answered with a status that the document does not have."""
    problem = admit.problem

    def other(error: Any, status: int | None = None, **more: Any) -> Response:
        return problem(error, 418 if isinstance(error, TooLarge) else status, **more)

    admit.problem = other


def a_refusal_without_its_kind() -> None:
    """Refusals are of the kind of answers."""
    problem = admit.problem

    def plain(*arguments: Any, **more: Any) -> Response:
        told = problem(*arguments, **more)
        return Response(told.body, told.status, headers=told.headers)

    admit.problem = plain


def _in_children(mistake: str) -> None:
    """Have the processes that this one starts make a mistake, too."""
    workers._COMMAND = (
        sys.executable,
        "-c",
        f"import sys; from faults import serving_mistakes as made; made.{mistake}(); "
        "from luban.serve.process import child; sys.exit(child())",
    )


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def main() -> int:
    """Make the mistake that the first argument names, and run the command that the others are."""
    globals()[sys.argv[1]]()
    return command(sys.argv[2:])
