"""Several models in a process: opened when they are needed, swapped while they answer, put away when memory is short.

A request is answered by the version that was there when it came in, to its end, whatever happens meanwhile. A new
version is opened and warmed aside, and takes over when it answers; one that can't be opened leaves the old one where
it is, and health says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.bundle.embedding import Embedder
from luban.bundle.explain import Scorer
from luban.errors import CorruptBundle, DeadlineExceeded, LubanError, NotFound, Overloaded, Unavailable, did_you_mean
from luban.serve import explaining
from luban.serve.batch import Answered, Batcher, Lane
from luban.serve.sources import Found, Source
from luban.serve.telemetry import Telemetry, event

if TYPE_CHECKING:
    from luban.bundle.engine import Engine
    from luban.records import Explanation
    from luban.serve.rollout import Trial

_AGAIN_S = 30.0
"""Seconds after which a version that could not be opened is tried again."""
_WARM_TEXTS = ("a", "where is my card " * 4, "我的卡还没有到 " * 12)


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """One version, opened."""

    name: str
    """The model's name here."""
    found: Found
    engine: Engine
    lane: Lane
    scored: Lane
    """Answers the shortened texts of explanations, when there is nothing else to do."""
    vectors: Lane | None
    """Gives vectors in predictions' place; None where the server was not asked for them, or the bundle has none."""
    size_bytes: int
    """Of its files, which is about what it takes of memory."""

    @property
    def number(self) -> int | None:
        """The version's number; None for a folder."""
        return self.found.number

    @property
    def digest(self) -> str:
        """SHA-256 of the bundle."""
        return self.engine.digest


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions, and which version made them."""

    served: Served
    answered: Answered
    rollout: int = 0
    """The trial in which chance chose this version; 0 where it chose none."""
    unit: bytes = b""
    """8 bytes that stand for the caller, where the trial chooses by callers; empty where each request is by itself."""

    @property
    def predictions(self) -> list[Any]:
        """One a row, in their order: `Prediction`, or a vector where that was asked for."""
        return self.answered.predictions


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation, and the version that it is of."""

    served: Served
    explanation: Explanation


@dataclass(eq=False)
class Model:
    """A name that answers."""

    name: str
    source: Source
    served: Served | None = None
    """None where it is not opened, or was put away."""
    problem: str = ""
    """Why its newest version does not answer; empty where it does."""
    used: float = 0.0
    """When it was last asked, by `time.monotonic`."""
    n_inside: int = 0
    """Requests that it is answering."""
    refused: str = ""
    """Key of the version that could not be opened."""
    again: float = 0.0
    trial: Trial | None = None
    """Another version beside this one, on trial."""
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class Hosting:
    """The models of one process. Everything but opening happens on the event loop."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        batcher: Batcher,
        telemetry: Telemetry,
        *,
        threads: int = 0,
        memory_bytes: int = 0,
        poll_s: float = 1.0,
        vectors: bool = False,
        graphs: Path | None = None,
    ) -> None:
        """Host models.

        Args:
            sources: name -> where its versions come from.
            batcher: runs them.
            telemetry: is told.
            threads: of each model's matrix products; 0 uses every core.
            memory_bytes: of all that is open at once, by the size of the files; 0 is no limit.
            poll_s: seconds between two looks for new versions.
            vectors: open bundles so that they give vectors too, where they can.
            graphs: folder in which graphs are kept ready, see `luban.bundle.prepared`; None keeps none.
        """
        self._models = {name: Model(name, source) for name, source in sources.items()}
        self._batcher = batcher
        self._telemetry = telemetry
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._poll_s = poll_s
        self._vectors = vectors
        self._graphs = graphs
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="luban-open")
        self._room = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self.ready = False

    async def start(self) -> None:
        """Open every model that there is memory for, and begin to look for new versions.

        Raises:
            LubanError: one can't be opened.
        """
        for model in self._models.values():
            found = await self._in_thread(model.source.newest)
            if not self._memory_bytes or self._taken() + await self._in_thread(_size, found) <= self._memory_bytes:
                await self._open(model, found)
        self.ready = True
        self._watching = asyncio.create_task(self._watch())

    async def predict(self, name: str, rows: Sequence[Any], deadline: float) -> Answer:
        """Answer rows by the version that the model has now.

        Raises:
            NotFound: there is no such model.
            Unavailable: it can't be opened now.
            ServeError: see `Lane.predict`.
        """
        async with self._inside(name, deadline) as (model, served):
            if model.trial is not None:
                return await model.trial.predict(served, rows, deadline)
            return Answer(served, await served.lane.predict(rows, deadline))

    async def vectors(self, name: str, rows: Sequence[Any], deadline: float) -> Answer:
        """Answer rows with vectors, (V,) float32 of length 1, in predictions' place.

        Raises:
            NotFound: there is no such model, or it has none.
            LubanError: as `predict`.
        """
        async with self._inside(name, deadline) as (_, served):
            if served.vectors is None:
                hint = "they are of classifying bundles of the runtime onnx whose last layer is in float"
                raise NotFound(
                    f"{name} gives no vectors here", hint=hint if self._vectors else "serve it with --embeddings"
                )
            return Answer(served, await served.vectors.predict(rows, deadline))

    async def explain(self, name: str, text: Any, label: str | None, n_rows: int, deadline: float) -> Explained:
        """Explain the answer of the version that the model has now; one on trial is not asked.

        Raises:
            NotFound: there is no such model.
            Unavailable: it can't be opened now.
            BadRequest: this can't be explained; see `Scorer.steps`.
            ServeError: as `predict`.
        """
        async with self._inside(name, deadline) as (_, served):
            return Explained(
                served,
                await explaining.explain(
                    served.scored, text, label, n_rows, deadline,
                    lambda answered: self._telemetry.explained(Answer(served, answered)),
                ),
            )  # fmt: skip

    @asynccontextmanager
    async def _inside(self, name: str, deadline: float) -> AsyncIterator[tuple[Model, Served]]:
        """Hold a model open while it is asked, and count who is turned away; raise as `served`."""
        model = self.model(name)
        model.n_inside += 1
        try:
            served = model.served or await self._open_in_time(model, deadline)
            model.used = time.monotonic()
            yield model, served
        except Overloaded:
            self._telemetry.shed("pace")
            raise
        except DeadlineExceeded:
            self._telemetry.shed("late")
            raise
        finally:
            model.n_inside -= 1

    async def served(self, name: str, deadline: float) -> Served:
        """Return the version that a model has now, opened.

        Raises:
            NotFound, Unavailable: as `predict`.
        """
        model = self.model(name)
        return model.served or await self._open_in_time(model, deadline)

    async def beside(self, model: Model, found: Found) -> Served:
        """Open another version of a model, warm it, and return it; the model goes on as it was.

        It gives no vectors: those are never on trial.

        Raises:
            LubanError: it can't be opened, or there is no memory for both.
        """
        async with self._room:
            size = await self._in_thread(_size, found)
            if self._memory_bytes:
                self._make_room(model, size)
            engine = await self._in_thread(_opened, found, self._threads, False, self._graphs)
        lane, scored = self._lanes(engine, model.name)
        return Served(
            name=model.name, found=found, engine=engine, lane=lane, scored=scored, vectors=None, size_bytes=size
        )

    def model(self, name: str) -> Model:
        """Return what is known of a model.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._models[name]
        except KeyError:
            raise NotFound(f"no model {name!r} is served here", hint=did_you_mean(name, self._models)) from None

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them, in the order in which they were named."""
        return tuple(self._models.values())

    async def close(self) -> None:
        """Stop looking for new versions, and let go of all."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await asyncio.get_running_loop().run_in_executor(None, self._opener.shutdown)
        for model in self._models.values():
            model.source.close()

    async def refresh(self) -> None:
        """Look for new versions once, and swap to those there are."""
        for model in self._models.values():
            try:
                await self._refresh(model)
            except LubanError as error:
                self._trouble(model, "", error)
            except Exception as error:  # whatever a database driver raises must not end the watch
                self._trouble(model, "", Unavailable(f"{type(error).__name__}: {error}"))

    async def _refresh(self, model: Model) -> None:
        if model.served is None:
            return
        found = await self._in_thread(model.source.newest)
        if found.key == model.served.found.key:
            if model.problem:
                event("model.well", model=model.name)
            model.problem = model.refused = ""
            return
        if found.key == model.refused and time.monotonic() < model.again:
            return
        try:
            await self._open(model, found)
        except LubanError as error:
            self._trouble(model, found.key, error)

    def _trouble(self, model: Model, key: str, error: LubanError) -> None:
        if error.message != model.problem:
            event("model.trouble", logging.ERROR, model=model.name, problem=error.message, hint=error.hint)
            self._telemetry.trouble(model.name)
        model.problem, model.refused, model.again = error.message, key, time.monotonic() + _AGAIN_S

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.refresh()

    async def _open_in_time(self, model: Model, deadline: float) -> Served:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                async with model.opening:
                    if model.served is None:
                        if model.problem and time.monotonic() < model.again:
                            raise Unavailable(f"{model.name}: {model.problem}", retry_after_s=_AGAIN_S)
                        # Opened to its end, though who asked for it may leave: the next one finds it there.
                        await asyncio.shield(asyncio.create_task(self._open_lazily(model)))
                    assert model.served is not None
                    return model.served
        except TimeoutError:
            raise DeadlineExceeded(f"{model.name} was not opened in time", hint="ask again") from None

    async def _open_lazily(self, model: Model) -> None:
        try:
            await self._open(model, await self._in_thread(model.source.newest))
        except Unavailable:
            raise
        except LubanError as error:
            self._trouble(model, "", error)
            raise Unavailable(f"{model.name} can't be opened: {error.message}", retry_after_s=_AGAIN_S) from error

    async def _open(self, model: Model, found: Found) -> None:
        """Open a version, warm it, and let it answer."""
        async with self._room:
            size = await self._in_thread(_size, found)
            if self._memory_bytes and model.served is None:
                self._make_room(model, size)
            begun = time.monotonic()
            engine = await self._in_thread(_opened, found, self._threads, self._vectors, self._graphs)
            lane, scored = self._lanes(engine, model.name)
            before, seconds = model.served, time.monotonic() - begun
            embedder = None if engine.vectors is None else Embedder(engine, engine.vectors)
            of_vectors = None if embedder is None else self._batcher.lane(embedder, model.name)
            model.served = Served(
                name=model.name, found=found, engine=engine, lane=lane, scored=scored, vectors=of_vectors,
                size_bytes=size,
            )  # fmt: skip
            model.problem = model.refused = ""
        self._telemetry.opened(model.served, seconds)
        event(
            "model.swapped" if before else "model.opened", model=model.name, version=found.number,
            digest=engine.digest, seconds=round(seconds, 3), size_bytes=size,
        )  # fmt: skip

    def _lanes(self, engine: Engine, name: str) -> tuple[Lane, Lane]:
        """Return an engine's queue for answers, and that for explanations."""
        return self._batcher.lane(engine, name), self._batcher.lane(Scorer(engine), name, patient=True)

    def _make_room(self, wanted: Model, size: int) -> None:
        """Put away what was asked longest ago, until there is room; never what answers just now.

        Raises:
            Unavailable: all that is open is answering.
        """
        idle = [one for one in self._models.values() if one.served and not one.n_inside and one is not wanted]
        for model in sorted(idle, key=lambda one: one.used):
            if self._taken() + size <= self._memory_bytes:
                return
            assert model.served is not None
            event("model.put_away", model=model.name, version=model.served.number)
            model.served = None
        if self._taken() + size > self._memory_bytes and self._taken():
            raise Unavailable(f"there is no memory for {wanted.name} now", hint="ask again, or raise --memory")

    def _taken(self) -> int:
        there = [
            one for model in self._models.values() for one in (model.served, model.trial and model.trial.challenger)
        ]
        return sum(one.size_bytes for one in there if one)

    async def _in_thread(self, function: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._opener, function, *given)


def _size(found: Found) -> int:
    return sum(path.stat().st_size for path in Path(found.folder()).iterdir() if path.is_file())


def _opened(found: Found, threads: int, vectors: bool, graphs: Path | None) -> Engine:
    """Open a version and let it answer some texts, so that the first request does not wait for what comes up then."""
    from luban.bundle.engine import Engine

    engine = Engine.open(found.folder(), threads=threads, vectors=vectors, graphs=graphs)
    if found.digest and engine.digest != found.digest:
        raise CorruptBundle(f"{found.folder()} is not version {found.number}", hint="register it again")
    for n_rows in (1, 8):
        for text in _WARM_TEXTS:
            engine.predict([text] * n_rows if n_rows == 1 else [f"{text}{number}" for number in range(n_rows)])
    return engine
