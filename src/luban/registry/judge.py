"""Whether a version may become champion: its project's gates, its card, and a paired test on the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luban.errors import BelowGate, CorruptBundle, GateError, RegistryError
from luban.evaluate import answers
from luban.metrics.interval import Difference
from luban.project.across import LOWER_IS_BETTER
from luban.registry.card import STATED, Card
from luban.registry.version import Version


@dataclass(frozen=True, kw_only=True)
class Missed:
    """A gate that is not reached."""

    score: str
    measured: float
    gate: float

    def __str__(self) -> str:
        by, side = abs(self.measured - self.gate), "below"
        if self.score in LOWER_IS_BETTER:
            side = "above"
        return f"{self.score} {self.measured:.4f} is {side} the gate {self.gate:g}, by {by:.4f}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What speaks for and against a version."""

    version: Version
    champion: Version | None
    gates: Mapping[str, float] = field(default_factory=dict)
    missed: tuple[Missed, ...] = ()
    missing: tuple[str, ...] = ()
    """What its card does not state."""
    score: str = ""
    """The score that was compared."""
    difference: Difference | None = None
    """The version's minus the champion's, on the same test rows."""
    allowed: float = 0.0
    """How much of the score may be lost."""
    not_compared: str = ""
    """Why there is no difference."""

    @property
    def is_worse(self) -> bool:
        """Surely worse than may be: the whole interval is below what is allowed."""
        return self.difference is not None and self.difference.high < -self.allowed

    def reasons(self) -> list[str]:
        """Return every reason to refuse it."""
        found = [str(missed) for missed in self.missed]
        if self.is_worse and self.difference is not None:
            lost, champion = self.difference, self.champion
            more = f", more than the {self.allowed:g} that may be lost" if self.allowed else ""
            found.append(
                f"{self.score} is {-lost.value:.4f} worse than that of {champion} on the same {lost.n:,} test rows"
                f" [{-lost.high:.4f}, {-lost.low:.4f}]{more}"
            )
        if self.missing:
            found.append(f"its card does not state: {', '.join(self.missing)}")
        return found

    def refuse(self, alias: str) -> None:
        """Raise the error that tells every reason, if there is one.

        Raises:
            BelowGate: a gate is missed.
            GateError: it is worse than the champion.
            RegistryError: its card is not complete.
        """
        reasons = self.reasons()
        if not reasons:
            return
        version = self.version
        said = f"{version} can't become {version.name}@{alias}: {'; '.join(reasons)}"
        hints = []
        if stated := [what for what in self.missing if what in STATED]:
            options = " ".join(f'--{what} "..."' for what in stated)
            hints.append(f"state it: luban register {version} --name {version.name} {options}")
        if self.missed or self.is_worse:
            hints.append('promote a better version, or overrule: --force --why "..."')
        hint = "; ".join(hints) or "make the bundle again with `luban run`"
        if self.missed:
            worst = max(self.missed, key=lambda one: abs(one.measured - one.gate))
            raise BelowGate(said, measured=worst.measured, allowed=worst.gate, hint=hint)
        if self.is_worse and self.difference is not None:
            raise GateError(said, measured=self.difference.value, allowed=-self.allowed, hint=hint)
        raise RegistryError(said, hint=hint)

    def evidence(self) -> dict[str, Any]:
        """Return it as JSON values, for the record."""
        return {
            "gates": dict(self.gates),
            "missed": [str(missed) for missed in self.missed],
            "missing": list(self.missing),
            "champion": None if self.champion is None else str(self.champion),
            "score": self.score,
            "difference": None if self.difference is None else self.difference.to_json(),
            "allowed": self.allowed,
            "not_compared": self.not_compared,
        }


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The small files of a version that it is judged by."""

    version: Version
    card: Card
    project: Mapping[str, Any]
    answers: answers.Answers | None
    """None where an older Luban has made the bundle."""


def verdict(candidate: Evidence, champion: Evidence | None, lose_at_most: float | None = None) -> Verdict:
    """Judge a version against its gates and the champion.

    Args:
        candidate: the version.
        champion: what it would replace, if anything.
        lose_at_most: how much of the main score may be lost; without it, what the project allows compression to lose
            if the bundle was compressed, and else nothing.
    """
    version = candidate.version
    gates = {str(name): float(gate) for name, gate in (candidate.project.get("gates") or {}).items()}
    missed = []
    for name, gate in gates.items():
        if name not in version.scores:
            raise RegistryError(
                f"{version} has a gate for {name}, which was not measured",
                hint="make the bundle again with `luban run`",
            )
        value = version.scores[name].value
        if (value > gate) if name in LOWER_IS_BETTER else (value < gate):
            missed.append(Missed(score=name, measured=value, gate=gate))
    allowed = _allowed(candidate.project) if lose_at_most is None else lose_at_most
    score, difference, why = "", None, "there is no champion yet"
    if champion is not None:
        score, difference, why = _compared(candidate, champion)
    return Verdict(
        version=version, champion=None if champion is None else champion.version, gates=gates, missed=tuple(missed),
        missing=tuple(candidate.card.missing()), score=score, difference=difference, allowed=allowed, not_compared=why,
    )  # fmt: skip


def _compared(candidate: Evidence, champion: Evidence) -> tuple[str, Difference | None, str]:
    if lacking := [one.version for one in (candidate, champion) if one.answers is None]:
        return "", None, f"{lacking[0]} has no answers to its test rows: an older Luban made it"
    assert candidate.answers is not None and champion.answers is not None
    found = answers.compared(candidate.answers, champion.answers)
    if found is None:
        return "", None, "the two were judged on different test rows"
    score = candidate.answers.measure.main
    return score, found.differences[score], ""


def _allowed(project: Mapping[str, Any]) -> float:
    """Return what a compressed bundle may lose: so much was agreed on when it was made."""
    return float(project["compress"]["lose_at_most"]) if project.get("plan") and project.get("compress") else 0.0


def open_answers(raw: bytes, where: str) -> answers.Answers:
    """Return the answers that a bundle carries.

    Raises:
        CorruptBundle: they can't be read.
    """
    try:
        return answers.unpack(json.loads(raw))
    except ValueError as error:
        raise CorruptBundle(f"{where}: {error}", hint="make the bundle again with `luban run`") from error
