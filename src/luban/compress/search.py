"""From a budget to the best plan: plans are built from cheap to dear, measured on this machine, and the best kept.

Every plan is measured beside the uncompressed model, in turn, so that a busy machine slows both alike. What is not
better here is dropped, however fast it was in a paper.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luban.bundle.engine import Engine
from luban.bundle.runtimes import onnx as onnx_runtime
from luban.compress import as_json, told
from luban.compress.build import Built, Refused, Workshop
from luban.errors import BelowGate
from luban.evaluate.compare import compare
from luban.evaluate.measure import Measure
from luban.metrics.interval import Difference
from luban.project.schema import Plugin
from luban.records import Listener, Progress, Score, ignore

ROUNDS = 5
"""How often a plan and the uncompressed model are timed in turn."""
SINGLE_ROWS = 60
"""Rows answered one by one in each round."""
WHOLE_ROWS = 512
"""Rows answered in one call in each round."""
_HOPELESS = 6.0
"""A cut that loses this many times what may be lost is not cut deeper."""


@dataclass(frozen=True)
class Point:
    """What a plan costs and what it loses."""

    plan: tuple[Plugin, ...]
    size_mb: float
    """All files of the bundle that depend on the plan, in millions of bytes."""
    latency_ms: float
    """Median time of one answer to one row, tokenising and decoding included."""
    p99_ms: float
    rows_per_s: float
    """In calls with many rows."""
    score: Score
    """The task's main score on validation rows."""
    lost: Difference
    """What is lost of it against the uncompressed model: positive is worse."""
    smaller: float = 1.0
    """How many times smaller than uncompressed."""
    faster: float = 1.0
    """How many times sooner one answer comes, measured in turn with the uncompressed model."""
    throughput: float = 1.0
    """How many times as many rows a second, measured in turn with the uncompressed model."""
    seconds: float = 0.0
    """What building it took."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The plan in one line."""
        return told(self.plan) or "uncompressed"

    def to_json(self) -> dict[str, Any]:
        """Return the form in which it stands in compress.json."""
        return {
            "plan": as_json(self.plan),
            "size_mb": round(self.size_mb, 3), "latency_ms": round(self.latency_ms, 4),
            "p99_ms": round(self.p99_ms, 4), "rows_per_s": round(self.rows_per_s, 1),
            "score": self.score.to_json(), "lost": self.lost.to_json(),
            "smaller": round(self.smaller, 3), "faster": round(self.faster, 3),
            "throughput": round(self.throughput, 3), "seconds": round(self.seconds, 1), "facts": dict(self.facts),
        }  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What the model may cost and lose."""

    size_mb: float = math.inf
    latency_ms: float = math.inf
    lose: float = 0.005

    def excess(self, point: Point) -> float:
        """Return by what factor a point is over the budget, at most 1 where it keeps all of it.

        A loss counts as twice too large where twice of what may be lost is lost.
        """
        lost = max(point.lost.value, 0.0)
        over = lost / self.lose if self.lose else (math.inf if lost else 0.0)
        return max(point.size_mb / self.size_mb, point.latency_ms / self.latency_ms, over)

    def broken(self, point: Point) -> dict[str, tuple[str, float]]:
        """Return setting -> what a point has against it in words, and the amount that would allow the point."""
        found = {}
        if point.lost.value > self.lose:
            lost = f"loses {_points(point.lost.value)} points on validation rows, allowed is {_points(self.lose)}"
            found["compress.lose_at_most"] = (lost, _just_above(point.lost.value))
        for name, unit, got, allowed in (
            ("size_mb", "MB", point.size_mb, self.size_mb), ("latency_ms", "ms", point.latency_ms, self.latency_ms),
        ):  # fmt: skip
            if got > allowed:
                found[f"compress.at_most.{name}"] = (
                    f"takes {got:.4g} {unit}, allowed is {allowed:g}",
                    _just_above(got),
                )
        return found


class Scales:
    """Measures what plans have made, always beside the uncompressed model."""

    def __init__(self, reference: Built, measure: Measure, engine: Engine, rows: Sequence[Any], gold: Any) -> None:
        """Store what everything is compared with.

        Args:
            reference: the uncompressed model, built by the empty plan.
            measure: how the task is scored.
            engine: has the task and its facts; its runner and processor are replaced by each plan's.
            rows: validation rows as the engine takes them.
            gold: what is right for each.
        """
        self._measure, self._engine, self._rows, self._gold = measure, engine, rows, gold
        self._reference = reference
        self._of_reference = self.engine(reference)
        self._answers = self._of_reference.predict(rows)

    def engine(self, built: Built) -> Engine:
        """Return an engine over a plan's files, calibrated as the uncompressed one is."""
        runner = onnx_runtime.open(built.folder, built.runtime, 0)
        return Engine(
            name=self._engine.name, task=self._engine.task, processor=built.processor, runner=runner,
            calibration=self._engine.calibration, facts=self._engine.facts,
        )  # fmt: skip

    def weigh(self, built: Built, seconds: float) -> Point:
        """Measure one plan: quality on all validation rows, costs in turn with the uncompressed model."""
        engine = self.engine(built) if built.plan else self._of_reference
        answers = engine.predict(self._rows) if built.plan else self._answers
        main = self._measure.main
        lost = compare(self._measure, self._gold, self._answers, answers).differences[main]
        mine, theirs = self._time(engine)
        if not built.plan:
            mine = theirs  # one engine, timed twice
        return Point(
            built.plan, built.size_mb, mine.latency_ms, mine.p99_ms, mine.rows_per_s,
            self._measure.scores(self._gold, answers)[main], lost,
            smaller=self._reference.size_mb / built.size_mb, faster=theirs.latency_ms / mine.latency_ms,
            throughput=mine.rows_per_s / theirs.rows_per_s, seconds=seconds, facts=built.facts,
        )  # fmt: skip

    def _time(self, engine: Engine) -> tuple[Cost, Cost]:
        """Time an engine and the uncompressed one in turn."""
        step = max(1, len(self._rows) // SINGLE_ROWS)
        single = [*self._rows[::step]][:SINGLE_ROWS]
        whole = [*self._rows[:WHOLE_ROWS]]
        engines = (engine, self._of_reference)
        for one in engines:
            one.predict(single)  # the first runs make threads and buffers
        times: list[list[list[float]]] = [[[], []] for _ in engines]
        for _ in range(ROUNDS):
            for one, (alone, together) in zip(engines, times, strict=True):
                alone += [_took(one, [row]) for row in single]
                together.append(_took(one, whole) / len(whole))
        mine, theirs = (Cost.of(alone, together) for alone, together in times)
        return mine, theirs


@dataclass(frozen=True, slots=True)
class Cost:
    """Times of one engine."""

    latency_ms: float
    p99_ms: float
    rows_per_s: float

    @classmethod
    def of(cls, alone: Sequence[float], together: Sequence[float]) -> Cost:
        """Return the medians of times in seconds: of single answers, and a row in calls with many."""
        cuts = statistics.quantiles(alone, n=100)
        return cls(statistics.median(alone) * 1e3, cuts[-1] * 1e3, 1 / statistics.median(together))


def search(
    workshop: Workshop,
    scales: Scales,
    plans: Sequence[Sequence[Plugin]],
    *,
    lose: float,
    minutes: float,
    on_progress: Listener = ignore,
) -> Iterator[Point]:
    """Build and measure plans in their order, and yield each point; the uncompressed model's is the first.

    Args:
        workshop: builds them; what was built before costs nothing again.
        scales: measures them.
        plans: from cheap to dear.
        lose: what may be lost. A deeper cut of what has lost far too much already is passed over.
        minutes: after so many nothing more is built; what was built before is still measured.
        on_progress: told what is tried and found.
    """
    started = time.monotonic()
    yield scales.weigh(workshop.build(()), 0.0)
    hopeless: list[tuple[Plugin, ...]] = []
    refused: list[Plugin] = []
    tried: list[tuple[Plugin, ...]] = []
    for number, planned in enumerate(plans, start=1):
        plan = tuple(step for step in planned if step not in refused)
        if not plan or plan in tried:
            continue
        tried.append(plan)
        name = told(plan)
        if time.monotonic() - started > minutes * 60 and not workshop.has(plan):
            on_progress(Progress("compress", f"{name}: not tried, {minutes:g} minutes are over"))
            continue
        if any(deeper(plan, than) for than in hopeless):
            on_progress(Progress("compress", f"{name}: passed over, a shallower cut lost too much already"))
            continue
        on_progress(Progress("compress", name, done=number, total=len(plans), unit="plans"))
        begun = time.monotonic()
        try:
            point = scales.weigh(workshop.build(plan), time.monotonic() - begun)
        except Refused as error:
            if len(plans) == 1:
                raise error.error from error
            # Plans that have more than this step are tried without it.
            refused.append(error.step)
            on_progress(Progress("compress", f"{name}: can't be done on this model: {error.error.message}"))
            continue
        if point.lost.low > _HOPELESS * lose:
            hopeless.append(plan)
        on_progress(Progress("compress", f"{name}: {shown(point)}"))
        yield point


def deeper(plan: Sequence[Plugin], than: Sequence[Plugin]) -> bool:
    """Tell whether a plan has all cuts of another, each at least as deep, and one deeper or one more."""
    cuts = {step.kind: dict(step.options) for step in plan}
    if not all(step.kind in cuts for step in than):
        return False
    deep = False
    for step in than:
        for name, value in step.options.items():
            mine = cuts[step.kind].get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(mine, int | float):
                if mine != value:
                    return False
            elif mine > value:
                return False
            else:
                deep = deep or mine < value
    return deep or len(plan) > len(than)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in size, in latency and in quality at once, smallest first."""

    def costs(point: Point) -> tuple[float, float, float]:
        return point.size_mb, point.latency_ms, -point.score.value

    kept = [
        one for one in points
        if not any(
            all(a <= b for a, b in zip(costs(other), costs(one), strict=True)) and costs(other) != costs(one)
            for other in points
        )
    ]  # fmt: skip
    return sorted(kept, key=lambda point: point.size_mb)


def choose(points: Sequence[Point], budget: Budget, *, own: bool = False) -> Point:
    """Return the point that keeps the budget at the least product of size and latency.

    Args:
        points: measured plans; the uncompressed model among them is no choice.
        budget: what it may cost and lose.
        own: the one plan is the project's own, and nothing was searched.

    Raises:
        BelowGate: none keeps it; the message has the nearest.
    """
    points = [point for point in points if point.plan]
    if not points:
        raise BelowGate(
            "no plan was measured", measured=math.inf, allowed=1.0,
            hint="give more minutes; what was told above says why plans could not be tried",
        )  # fmt: skip
    good = [point for point in points if budget.excess(point) <= 1.0]
    if good:
        return min(good, key=lambda point: point.size_mb * point.latency_ms)
    nearest = min(points, key=budget.excess)
    broken = budget.broken(nearest)
    told = ", ".join(f"{said} (`{setting}`)" for setting, (said, _) in broken.items())
    mend = " ".join(f"{setting}={amount:g}" for setting, (_, amount) in broken.items())
    if own:
        raise BelowGate(
            f"the plan {nearest.name} {told}", measured=budget.excess(nearest), allowed=1.0,
            hint=f"to accept it: `{mend}`; or write a gentler plan, or none, and one is searched for",
        )  # fmt: skip
    raise BelowGate(
        f"no plan keeps the budget; the nearest, {nearest.name}, {told}: {shown(nearest)}",
        measured=budget.excess(nearest), allowed=1.0,
        hint=f"to accept it: `{mend}`; or give more minutes, or begin with a smaller base",
    )  # fmt: skip


def _points(share: float) -> str:
    return f"{share * 100:.3g}"


def _just_above(amount: float) -> float:
    """Return an amount rounded up to two digits, as one would set it."""
    unit = 10.0 ** (math.floor(math.log10(amount)) - 1)
    return float(f"{math.ceil(amount / unit) * unit:.3g}")


def shown(point: Point) -> str:
    """Return a point in one line."""
    lost = f"{point.lost.value * 100:+.2f} points lost [{point.lost.low * 100:+.2f}, {point.lost.high * 100:+.2f}]"
    return (
        f"{point.size_mb:.1f} MB ({point.smaller:.1f}x smaller), {point.latency_ms:.2f} ms "
        f"({point.faster:.1f}x faster), {lost}"
    )


def _took(engine: Engine, rows: Sequence[Any]) -> float:
    started = time.perf_counter()
    engine.predict(rows)
    return time.perf_counter() - started
