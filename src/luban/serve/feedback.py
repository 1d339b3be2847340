"""Feedback of callers on answers: taken on every surface, and on the disk before it is acknowledged.

Many posts share one transaction: while the disk flushes one, those that come meanwhile wait together for the next. What
was not kept is told as such; whoever does not know whether it was, because the connection was lost or the time was
over, sends it again under the same key of its own, and it is kept once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from luban.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    LubanError,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from luban.registry.version import parse
from luban.serve.access import Principal
from luban.serve.answer_ids import AnswerIds
from luban.serve.remarks import ONCE_CHARACTERS, About, Reader, Remark, Remarks, Taken
from luban.serve.routing import EXAMPLE, Request, Response, Route, decoded
from luban.serve.schemas import encode
from luban.serve.sources import FromRegistry
from luban.serve.telemetry import Telemetry, event

if TYPE_CHECKING:  # the database's library takes a quarter of a second that a server without feedback has no use for
    from luban.registry import feedback as kept
    from luban.serve.hosting import Answer, Hosting, Model
    from luban.serve.limits import Limits
    from luban.store.database import Database

KEEP_DAYS = 365.0
"""For how long feedback is kept where nothing else is said, in days."""
_WAITING = 512
"""Posts that wait for the disk; one more is told to come later."""
_TOGETHER = 256
"""Posts of one transaction."""
_AGAIN_S = 2.0
_EXPIRE_S = 3600.0
REMARKS: msgspec.json.Decoder[Remarks] = msgspec.json.Decoder(Remarks)
_MEND = "send it again with the same `once`: what was kept is not kept twice"


class Feedback:
    """Takes feedback in one process, and makes the ids by which answers are named. For the event loop alone."""

    def __init__(
        self, hosting: Hosting, limits: Limits, telemetry: Telemetry, *, place: str, raw: bool = False,
        keep_days: float = KEEP_DAYS, names_by: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Prepare it; the registry is opened when it is first needed.

        Args:
            hosting: has the models.
            limits: of items.
            telemetry: is told.
            place: the registry; empty where there is none.
            raw: keep texts with the personal data that is in them.
            keep_days: for how long it is kept; 0 for as long as it is not deleted.
            names_by: folders of bundles that tag names, which are masked beside what rules find.
        """
        self._hosting = hosting
        self._limits = limits
        self._telemetry = telemetry
        self._place = place
        self._raw = raw
        self._keep_days = keep_days
        self._names_by = names_by
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="luban-feedback")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="luban-remarks")
        self._opening = asyncio.Lock()
        self._database: Database | None = None
        self._ids: AnswerIds | None = None
        self._reader: Reader | None = None
        self._waiting: list[tuple[kept.Post, asyncio.Future[tuple[str, ...]]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None

    async def ids(self, principal: Principal, answer: Answer, rows: Sequence[Any]) -> list[str]:
        """Return the ids of answers, by which feedback names them.

        Raises:
            NotFound: there is no registry that would keep it.
            Unavailable: the registry can't be opened now.
        """
        return (await self.giver(principal))(answer, rows)

    async def giver(self, principal: Principal) -> Callable[[Answer, Sequence[Any]], list[str]]:
        """Return what gives a caller's answers their ids; raise as `ids`."""
        ids = self._ids or (await self._opened())[0]

        def given(answer: Answer, rows: Sequence[Any]) -> list[str]:
            model = kept_name(self._hosting.model(answer.served.name))
            return ids.made(answer, rows, model=model, tenant=principal.tenant)

        return given

    async def take(
        self, principal: Principal, name: str, remarks: Sequence[Remark], once: str, deadline: float
    ) -> Taken:
        """Keep what a caller says, and return when it is on the disk.

        Args:
            principal: the caller, who may do this.
            name: the model's.
            remarks: what it says; all of it is kept, or none.
            once: its own key, under which it is kept once; empty for none.
            deadline: by `time.monotonic`.

        Raises:
            BadRequest, TooLarge: an item can't be what is wanted; the message has its index.
            Conflict: something else was sent under this key.
            NotFound: there is no such model, or no registry.
            Overloaded, Unavailable: it was not kept, or that is not known; it may be sent again.
        """
        from luban.registry import feedback as kept

        if not remarks:
            raise BadRequest("items: got none, wanted one at least")
        if len(remarks) > self._limits.items:
            raise TooLarge(f"items: got {len(remarks)}, wanted {self._limits.items} at most", hint="send more requests")
        if len(once) > ONCE_CHARACTERS:
            raise TooLarge(f"once: got {len(once)} characters, wanted {ONCE_CHARACTERS} at most")
        served = await self._hosting.served(name, deadline)
        model = self._hosting.model(name)
        _, reader = await self._opened()
        engines = [served.engine, *([model.trial.challenger.engine] if model.trial else [])]
        about = About(
            model=kept_name(model), version=served.number, task=served.engine.task, tenant=principal.tenant,
            labels=frozenset(label for engine in engines for label in engine.labels),
        )  # fmt: skip
        post = await asyncio.get_running_loop().run_in_executor(
            self._reading, self._post, reader, principal, remarks, about, once
        )
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                ids = await self._keep(post)
        except TimeoutError:
            raise DeadlineExceeded("it took too long to keep it; whether it was is not known", hint=_MEND) from None
        self._telemetry.feedback(name, [row.wrong for row in post.rows])
        return Taken(ids=list(ids), state=kept.FIRST)

    async def close(self) -> None:
        """Keep what waits, and let go of the registry."""
        if self._expiring is not None:
            self._expiring.cancel()
            with suppress(asyncio.CancelledError):
                await self._expiring
        if self._writing is not None:
            await self._writing
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._thread.shutdown)
        await loop.run_in_executor(None, self._reading.shutdown)
        if self._database is not None:
            self._database.close()

    def _post(
        self, reader: Reader, principal: Principal, remarks: Sequence[Remark], about: About, once: str
    ) -> kept.Post:
        from luban.registry import audit
        from luban.registry import feedback as kept

        assert self._ids is not None
        until = kept.later(audit.now(), self._keep_days) if self._keep_days else None
        rows = reader.rows(remarks, about, until=until)
        return kept.Post(
            caller=principal.name, tenant=principal.tenant, rows=rows,
            once=self._ids.digest(once.encode("utf-8", "surrogatepass")) if once else "",
            digest=self._ids.digest(about.model.encode() + b"\0" + encode(remarks)),
        )  # fmt: skip

    async def _opened(self) -> tuple[AnswerIds, Reader]:
        """Return what needs the registry's secret."""
        async with self._opening:
            if self._ids is None or self._reader is None:
                try:
                    database, ids, reader = await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
                except NotFound:
                    raise _no_registry() from None
                except LubanError as error:
                    raise self._unavailable(error) from error
                self._database, self._ids, self._reader = database, ids, reader
                self._expiring = asyncio.create_task(self._expire())
            return self._ids, self._reader

    def _open(self) -> tuple[Database, AnswerIds, Reader]:
        if not self._place:
            raise NotFound("no registry")
        from luban.registry import feedback as kept
        from luban.store.database import open_database

        database = open_database(self._place)
        try:
            secret = kept.secret(database)
            ids = AnswerIds(secret)
            return database, ids, Reader(ids, secret, None if self._raw else _masker(self._names_by))
        except BaseException:
            database.close()
            raise

    async def _keep(self, post: kept.Post) -> tuple[str, ...]:
        if len(self._waiting) >= _WAITING:
            raise Overloaded("more feedback comes than the disk takes", hint=_MEND, retry_after_s=_AGAIN_S)
        future: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append((post, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        """Keep what waits, one transaction after the other, until nothing does."""
        from luban.registry import feedback as kept

        while self._waiting:
            taken, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            posts = [post for post, _ in taken]
            assert self._database is not None
            results: list[tuple[str, ...] | LubanError]
            try:
                results = [*await asyncio.get_running_loop().run_in_executor(
                    self._thread, kept.add, self._database, posts
                )]  # fmt: skip
            except LubanError as error:
                results = [self._unavailable(error) for _ in taken]
            except Exception as error:  # who waits must hear of it, whatever a driver raises
                logging.getLogger("luban.serve").error("feedback.crashed", exc_info=error)
                results = [Unavailable("it could not be kept", hint=_MEND) for _ in taken]
            for (_, future), result in zip(taken, results, strict=True):
                if future.done():  # who sent it left
                    continue
                if isinstance(result, LubanError):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    async def _expire(self) -> None:
        from luban.registry import feedback as kept

        while True:
            assert self._database is not None
            try:
                n_rows = await asyncio.get_running_loop().run_in_executor(self._thread, kept.expire, self._database)
                if n_rows:
                    event("feedback.expired", rows=n_rows)
            except LubanError as error:
                event("feedback.trouble", logging.ERROR, problem=error.message, hint=error.hint)
            await asyncio.sleep(_EXPIRE_S)

    def _unavailable(self, error: LubanError) -> Unavailable:
        """Tell the log what is wrong, and callers that it is: where the registry is, is none of their business."""
        event("feedback.trouble", logging.ERROR, problem=error.message, hint=error.hint)
        return Unavailable(
            "feedback can't be kept now, and whether this was is not known", hint=_MEND, retry_after_s=_AGAIN_S
        )


class FeedbackRoutes:
    """Feedback over HTTP."""

    def __init__(self, feedback: Feedback | None, limits: Limits) -> None:
        self._feedback = feedback
        self._limits = limits

    async def feedback(self, request: Request) -> Response:
        """Take feedback on a few answers."""
        found = decoded(await request.body(), REMARKS, self._limits)
        once = "" if found.once is msgspec.UNSET else found.once
        header = next((value for name, value in request.scope["headers"] if name == b"idempotency-key"), b"")
        if once and header and header.decode("latin-1") != once:
            raise BadRequest("`once` and the header Idempotency-Key differ", hint="send one of them")
        taken = await wanted(self._feedback).take(
            request.principal, request.params["name"], found.items, once or header.decode("latin-1"), request.deadline
        )
        return Response(encode(taken))

    @property
    def routes(self) -> tuple[Route, ...]:
        """The one there is."""
        return (
            Route(method="POST", path="/v1/models/{name}/feedback", scope="feedback", answer=self.feedback,
                  about="Say which answers were right or wrong, and what would have been right.",
                  takes=Remarks, gives=Taken, refuses=(Conflict,),
                  example={"items": [{"text": EXAMPLE, "label": "LABEL"}]}),
        )  # fmt: skip


def wanted(feedback: Feedback | None) -> Feedback:
    """Return it.

    Raises:
        NotFound: there is none here.
    """
    if feedback is None:
        raise _no_registry()
    return feedback


def kept_name(model: Model) -> str:
    """Return a model's name in the registry; of a folder, its name here."""
    return parse(model.source.reference).name if isinstance(model.source, FromRegistry) else model.name


def _no_registry() -> NotFound:
    return NotFound(
        "no feedback is kept here: this server has no registry", hint="register the bundle, and serve it from there"
    )


def _masker(names_by: Sequence[str]) -> Any:
    from luban.bundle.names import NameFinder
    from luban.data.mask import Masker

    return Masker(finders=[NameFinder.open(folder, threads=1) for folder in names_by])
