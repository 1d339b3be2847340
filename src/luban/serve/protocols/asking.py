"""What every surface asks of the models: one way to them all, with the same limits and the same refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luban.errors import BadRequest, NotFound, TooLarge
from luban.serve.access import Principal, Scope
from luban.serve.sources import FromRegistry

if TYPE_CHECKING:
    from luban.serve.feedback import Feedback
    from luban.serve.hosting import Answer, Explained, Hosting, Model, Served
    from luban.serve.limits import Limits
    from luban.serve.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Asking:
    """The models of a process, as surfaces see them."""

    hosting: Hosting
    limits: Limits
    telemetry: Telemetry
    ready: Callable[[], bool]
    """Tells whether the process should be sent requests."""
    feedback: Feedback | None = None
    """Keeps what callers say of answers; None where nothing does."""

    def model(self, principal: Principal, name: str, scope: Scope) -> Model:
        """Return a model that was named elsewhere than in a path, if the caller may use it.

        Raises:
            Forbidden: it may not.
            NotFound: there is none.
        """
        principal.want(scope, name)
        return self.hosting.model(name)

    def only(self, principal: Principal, scope: Scope) -> Model:
        """Return the model that answers where a surface names none: the first that was named to the server.

        Raises:
            Forbidden: the caller may not use it.
        """
        return self.model(principal, self.hosting.models[0].name, scope)

    async def served(self, name: str, deadline: float, version: str = "") -> Served:
        """Return the version that a model has now, opened.

        Raises:
            NotFound: there is no such model, or another version was asked for.
            Unavailable: it can't be opened now.
        """
        served = await self.hosting.served(name, deadline)
        _check_version(served, version)
        return served

    async def predict(self, name: str, rows: Sequence[Any], deadline: float, version: str = "") -> Answer:
        """Answer rows.

        Args:
            name: the model's.
            rows: texts, or lists of tokens where the task takes them.
            deadline: by `time.monotonic`.
            version: its number, where the caller wants that one and no other.

        Raises:
            BadRequest: there are no rows.
            TooLarge: there are more than a request may have.
            NotFound: there is no such model, or it has another version now.
            ServeError: see `Hosting.predict`.
        """
        self._check_rows(rows)
        if version:
            await self.served(name, deadline, version)
        answer = await self.hosting.predict(name, rows, deadline)
        _check_version(answer.served, version)  # it may have been swapped meanwhile
        self.telemetry.answered(answer)
        return answer

    async def vectors(self, name: str, rows: Sequence[Any], deadline: float) -> Answer:
        """Answer rows with vectors; see `Hosting.vectors`.

        Raises:
            BadRequest, TooLarge, ServeError: as `predict`.
            NotFound: there is no such model, or it has none.
        """
        self._check_rows(rows)
        answer = await self.hosting.vectors(name, rows, deadline)
        self.telemetry.embedded(answer)
        return answer

    async def explain(self, name: str, text: Any, label: str | None, n_rows: int, deadline: float) -> Explained:
        """Explain an answer; see `Hosting.explain`."""
        return await self.hosting.explain(name, text, label, n_rows, deadline)

    def _check_rows(self, rows: Sequence[Any]) -> None:
        if not rows:
            raise BadRequest("rows: got none, wanted one at least")
        if len(rows) > self.limits.items:
            raise TooLarge(f"rows: got {len(rows)}, wanted {self.limits.items} at most", hint="send more requests")


def number(served: Served) -> str:
    """Return a version's number as text. A folder has none, and is 1: these protocols want one."""
    return str(served.number or 1)


def alias(model: Model) -> str:
    """Return the alias that a model follows; empty where it is a folder or one number."""
    reference = model.source.reference if isinstance(model.source, FromRegistry) else ""
    name = reference.rpartition("@")[2]
    return "" if name.isdigit() else name


def answers(asking: Asking, model: Model, version: str = "") -> bool:
    """Tell whether a model answers; one that was put away does, when it is asked.

    Raises:
        NotFound: another version was asked for than the one that is open.
    """
    if model.served is not None:
        _check_version(model.served, version)
    return asking.ready() and not (model.served is None and model.problem)


def _check_version(served: Served, version: str) -> None:
    if version and version != number(served):
        raise NotFound(
            f"{served.name}: got version {version!r}, and what answers is {number(served)}", hint="leave it out"
        )
