"""How often labelled quality takes a challenger back: rarely where it is good enough, soon where it is not."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from luban.metrics.sequential import evidence_of_worse
from luban.registry.trial import SURE, Counts, Rollout, Terms, rule

LOOK = 25
"""Answers between two looks."""
EVEN = math.log(20)
"""What is sure at one in twenty: so often may it be wrong, however often it was looked at."""


def rollout(share: float) -> Rollout:
    return Rollout(id=1, name="bank", alias="champion", kind="canary", champion=1, challenger=2,
                   terms=Terms(share=share), at="", who="", why="", state="running")  # fmt: skip


def looks(
    seed: int, share: float, wrong: tuple[float, float], n: int, *, content: float = 1.0, shown: float = 0.0
) -> Iterator[tuple[int, float]]:
    """Yield after how many answers that were told of the evidence against the challenger is what.

    Args:
        seed: of chance.
        share: of the requests that it answers.
        wrong: rates of wrong answers of the champion, and of the challenger.
        n: answers.
        content: how many of those with a right answer say so.
        shown: share of the challenger's among the answers that people are shown; 0 where they are not chosen.
    """
    chance, counts, it = random.Random(seed), Counts(), rollout(share)
    for number in range(1, n + 1):
        arm = "challenger" if (is_new := chance.random() < (shown or share)) else "champion"
        is_wrong = chance.random() < wrong[is_new]
        if is_wrong or chance.random() < content:
            setattr(counts, f"{arm}_labelled", getattr(counts, f"{arm}_labelled") + 1)
            setattr(counts, f"{arm}_wrong", getattr(counts, f"{arm}_wrong") + is_wrong)
        if number % LOOK == 0:
            yield number, rule(it, counts).evidence["log_evidence"]["wrong"]


KINDS = {"all is told": {}, "who is content says nothing": {"content": 0.0}, "the new one's are shown": {"shown": 0.5}}


@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS)
def test_a_good_one_is_rarely_taken_back(more: dict[str, float]) -> None:
    n_trials, edge, equal = 120, 0, 0
    for seed in range(n_trials):
        # As many errors more as are allowed: the worst that is innocent.
        edge += any(found >= EVEN for _, found in looks(seed, 0.1, (0.2, 0.24), 1000, **more))
        equal += any(found >= SURE for _, found in looks(seed, 0.1, (0.2, 0.2), 1000, **more))
    assert edge <= 0.05 * n_trials + 3 * math.sqrt(0.05 * 0.95 * n_trials)
    assert equal == 0


@pytest.mark.parametrize(("more", "within"), [({}, 2000), ({"content": 0.0}, 2000), ({"shown": 0.5}, 1500)], ids=KINDS)
def test_a_bad_one_is_taken_back_soon(more: dict[str, float], within: int) -> None:
    n_back = sum(any(found >= SURE for _, found in looks(seed, 0.2, (0.1, 0.4), within, **more)) for seed in range(10))
    assert n_back >= 9


def test_the_evidence_of_two_groups() -> None:
    assert evidence_of_worse(0, 0, 0, 0, 1.2) == pytest.approx(0.0, abs=1e-9)
    assert evidence_of_worse(50, 100, 10, 100, 1.2) > SURE > evidence_of_worse(12, 100, 10, 100, 1.2)
    assert evidence_of_worse(100, 100, 0, 0, 1.2) < 0, "nothing is known of the other"
    assert evidence_of_worse(10, 100, 50, 100, 1.2) < 0
    more = [evidence_of_worse(n, 100, 20, 100, 1.2) for n in range(30, 100, 10)]
    assert more == sorted(more)
