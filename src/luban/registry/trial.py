"""A version on trial beside the champion, what was counted, and how that is judged.

Two kinds. As a canary the challenger answers a share of the requests; as a shadow it answers copies of them, and nobody
gets its answers. What speaks against a challenger: it fails more often than the champion, it is slower, it gives other
answers than the test rows led to expect, or callers say more often that its answers are wrong. Each is tested
sequentially (`luban.metrics.sequential`) at a quarter of `ALPHA`, so that a good challenger is taken back with
probability `ALPHA` at most, however long the trial goes on and however often it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from luban.metrics.sequential import evidence, evidence_of_more, evidence_of_worse
from luban.records import Prediction

Kind = Literal["canary", "shadow"]
State = Literal["running", "rolled_back", "stopped", "passed", "promoted"]
RUNNING: State = "running"
ALPHA = 1e-3
"""Probability with which a challenger that is good enough is taken back."""
SURE = math.log(4 / ALPHA)
_UNEVEN = 1.0
"""Logarithm of the evidence from which on it is no chance that the right answers of one version are told of more."""
SLOW = 0.01
"""Share of answers that are slower than the 99th percentile."""
BUCKETS = 64
"""Of a histogram of times: each ends 2 to the fourth root later than the one before, the first at 0.05 ms."""
_FIRST_MS = 0.05


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a trial is held."""

    share: float
    """Of the requests that the challenger answers, or gets copies of: more than 0, at most 0.5 for a canary."""
    by: str = ""
    """What decides who gets the challenger: empty for each request by chance, `key` for the caller's access key,
    `header:NAME` for the value of a header. The same one gets the same version through the whole trial."""
    minutes: float = 30.0
    """After so long without a reason against it, the challenger has passed."""
    then: Literal["hold", "promote"] = "hold"
    """What is done then: nothing, or it becomes champion, if gates and card allow it."""
    fails_at_most: float = 2.0
    """How many times the champion's rate of failures it may have."""
    slower_at_most: float = 2.0
    """How many times the champion's 99th percentile its own may be, in batches of the same size."""
    disagrees_at_most: float = 0.5
    """Share of texts to which its answer may be another than the champion's."""
    basis: str = ""
    """What that share comes from."""
    errs_at_most: float = 1.2
    """How many times the champion's rate of wrong answers, as feedback tells of them, it may have."""
    least: int = 100
    """Answers of the challenger without which it can't pass."""


@dataclass(kw_only=True)
class Counts:
    """What was counted in a trial; counts of several processes are added up."""

    champion: int = 0
    """Requests that the champion answered, or failed to."""
    challenger: int = 0
    champion_failed: int = 0
    challenger_failed: int = 0
    """Requests that the challenger failed to answer: as a canary, the champion answered them then."""
    champion_timed: int = 0
    """Answers whose time was held against the champion's 99th percentile."""
    challenger_timed: int = 0
    champion_slow: int = 0
    """Those that took longer than `slower_at_most` times that."""
    challenger_slow: int = 0
    compared: int = 0
    """Different texts that both have answered."""
    disagreed: int = 0
    champion_labelled: int = 0
    """Requests, or callers where they keep their version, of whose answers feedback says whether they were right."""
    challenger_labelled: int = 0
    champion_wrong: int = 0
    """Those of them with a wrong answer."""
    challenger_wrong: int = 0
    dropped: int = 0
    """Copies that were not made, because the server had better things to do."""
    champion_ms: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Histogram of the times that batches took, see `BUCKETS`."""
    challenger_ms: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, other: Counts) -> None:
        """Add another's counts to these."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            setattr(
                self, one.name, [a + b for a, b in zip(mine, theirs, strict=True)] if isinstance(mine, list)
                else mine + theirs,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A trial as the registry has it."""

    id: int
    name: str
    alias: str
    """Whose requests it gets a share of."""
    kind: Kind
    champion: int
    """Number of the version that the alias named when it began."""
    challenger: int
    """Number of the version on trial."""
    terms: Terms
    at: str
    """When it began, UTC, ISO 8601."""
    who: str
    why: str
    state: State
    ended: str | None = None
    reason: str = ""
    """Why it ended."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Of its end: the counts and what they say."""

    def __str__(self) -> str:
        return f"{self.name}@{self.challenger}"


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What counts say of a challenger."""

    reasons: tuple[str, ...]
    """Against it; empty where there are none."""
    evidence: Mapping[str, Any]
    """As JSON values."""


def rule(rollout: Rollout, counts: Counts) -> Ruling:
    """Judge a challenger by what was counted so far."""
    terms, one = rollout.terms, counts
    share = min(terms.share, 0.999)
    failing = evidence_of_more(one.challenger_failed, one.champion_failed, share, terms.fails_at_most)
    # Slow twice over: by its own 99th percentile, and by more than what befalls the champion at the same time.
    slow = min(
        evidence(one.challenger_slow, one.challenger_timed, SLOW),
        evidence_of_more(one.challenger_slow, one.champion_slow, share, terms.slower_at_most),
    )
    other = evidence(one.disagreed, one.compared, terms.disagrees_at_most)
    wrong = _wrong(one, share, terms.errs_at_most)
    if rollout.kind == "shadow":  # its copies wait until nobody else needs the processor: its times say little
        failing, slow = evidence(one.challenger_failed, one.challenger, SLOW), 0.0
    reasons = []
    if failing >= SURE:
        beside = (
            f" beside {one.champion_failed} of {one.champion} of the champion's" if rollout.kind == "canary" else ""
        )
        reasons.append(f"it failed {one.challenger_failed} of {one.challenger} requests{beside}")
    if slow >= SURE:
        reasons.append(
            f"{one.challenger_slow} of {one.challenger_timed} answers took more than {terms.slower_at_most:g} times the"
            f" champion's 99th percentile, beside {one.champion_slow} of {one.champion_timed} of the champion's"
        )
    if other >= SURE:
        reasons.append(
            f"it answered {one.disagreed} of {one.compared} texts otherwise than the champion;"
            f" {terms.disagrees_at_most:.3f} of them was expected at most ({terms.basis or 'as was said'})"
        )
    if wrong >= SURE:
        reasons.append(
            f"feedback says that {one.challenger_wrong} of {one.challenger_labelled} were answered wrongly, beside"
            f" {one.champion_wrong} of {one.champion_labelled} of the champion's;"
            f" {terms.errs_at_most:g} times the champion's rate is allowed"
        )
    found = {
        "counts": {name: value for name, value in vars(one).items() if not isinstance(value, list)},
        "log_evidence": {
            "fails": round(failing, 2),
            "slow": round(slow, 2),
            "disagrees": round(other, 2),
            "wrong": round(wrong, 2),
        },
        "sure_from": round(SURE, 2),
        "champion_ms": times(one.champion_ms),
        "challenger_ms": times(one.challenger_ms),
    }
    return Ruling(reasons=tuple(reasons), evidence=found)


def _wrong(one: Counts, share: float, ratio: float) -> float:
    """Return the evidence that the challenger's answers are wrong too often.

    Chance decides who gets the challenger, and whoever gives feedback does not choose by version: then its part of the
    wrong answers is its share of the requests, though most who are content say nothing. Where people were shown more of
    the one version's answers, its right ones are told of more often, too; then only rates within what was told count.
    """
    more = evidence_of_more(one.challenger_wrong, one.champion_wrong, share, ratio)
    right = one.challenger_labelled - one.challenger_wrong, one.champion_labelled - one.champion_wrong
    if evidence_of_more(*right, share, 1.0) < _UNEVEN:
        return more
    within = evidence_of_worse(
        one.challenger_wrong, one.challenger_labelled, one.champion_wrong, one.champion_labelled, ratio
    )
    return min(more, within)


def bucket(seconds: float) -> int:
    """Return the number of the bucket that a time falls into."""
    return min(BUCKETS - 1, max(0, math.ceil(4 * math.log2(max(seconds * 1000, 1e-9) / _FIRST_MS))))


def times(histogram: list[int]) -> dict[str, float]:
    """Return the median and 99th percentile of a histogram, in milliseconds, as the ends of their buckets."""
    total, found, seen = sum(histogram), {}, 0
    wanted = {"p50": 0.5 * total, "p99": 0.99 * total}
    for number, count in enumerate(histogram):
        seen += count
        for name, rank in wanted.items():
            if name not in found and total and seen >= rank:
                found[name] = round(_FIRST_MS * 2 ** (number / 4), 3)
    return found


def same(one: Prediction, other: Prediction) -> bool:
    """Tell whether two answers say the same, however sure they are of it."""
    if one.spans or other.spans:
        return {(s.start, s.end, s.label) for s in one.spans} == {(s.start, s.end, s.label) for s in other.spans}
    return set(one.labels) == set(other.labels)
