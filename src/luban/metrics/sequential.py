"""Tests of proportions that may be looked at after every observation, for as long as one likes.

A fixed-sample test that is looked at a hundred times raises far more false alarms than it promises. Here the evidence
is a likelihood ratio of a mixture against the most favourable innocent proportion: while the truth is innocent it is a
supermartingale that begins at 1, so that it ever exceeds 1/alpha with probability alpha at most (Ville 1939; Robbins
1970, "Statistical methods related to the law of the iterated logarithm"; Howard et al. 2021, "Time-uniform
confidence sequences").

Two groups are compared by asking of each bad event to which of them it belongs: where both have the same rate, that is
decided by their shares of the traffic alone, whatever the rate does over the day (Lindon, Sanden and Shirikian 2022,
"Rapid regression detection in software deployments through sequential testing"; Lindon and Malek 2022, "Anytime-valid
inference for multinomial count data"). A machine that stumbles harms both alike, and accuses neither.
"""

from __future__ import annotations

import math

import numpy as np

_POINTS = (np.arange(256) + 0.5) / 256
"""Of the mixture, as shares of the way from the innocent proportion to 1."""
_TINY = 1e-300


def evidence(events: int, trials: int, at_most: float) -> float:
    """Return the natural logarithm of the evidence that the probability of an event is above `at_most`.

    Above log(1/alpha) it is sure at the level alpha, however often and whenever it was looked at.

    Args:
        events: how often it happened.
        trials: how often it could have.
        at_most: the innocent probability, 0 < at_most < 1.
    """
    if not trials:
        return 0.0
    truth = at_most + (1.0 - at_most) * _POINTS
    each = events * np.log(truth / at_most) + (trials - events) * np.log((1.0 - truth) / (1.0 - at_most))
    most = float(each.max())
    return most + math.log(float(np.exp(each - most).mean()))


def evidence_of_more(ours: int, theirs: int, share: float, ratio: float) -> float:
    """Return the evidence, as `evidence` does, that events come more often in our group than `ratio` times theirs.

    Args:
        ours: events in our group.
        theirs: events in the other.
        share: of the traffic that ours has, 0 < share < 1.
        ratio: how many times their rate ours may have.
    """
    odds = ratio * share / (1.0 - share)
    return evidence(ours, ours + theirs, odds / (1.0 + odds))


def evidence_of_worse(ours: int, n_ours: int, theirs: int, n_theirs: int, ratio: float) -> float:
    """Return the evidence, as `evidence` does, that an event is more than `ratio` times as probable in our group.

    For groups whose sizes say nothing, because someone chose how many of each are looked at. The likelihood of a
    mixture over both probabilities is held against the largest one that innocence allows (Wasserman, Ramdas and
    Balakrishnan 2020, "Universal inference", section 8): it is sure at every moment, and needs more observations.

    Args:
        ours: events in our group.
        n_ours: how often it could have happened there.
        theirs: events in the other.
        n_theirs: how often it could have happened there.
        ratio: how many times their probability ours may be, at least 1.
    """

    def mixture(events: int, trials: int) -> float:
        # Beta(1/2, 1/2) over the probability, of Krichevsky and Trofimov.
        return (
            math.lgamma(events + 0.5) + math.lgamma(trials - events + 0.5) - math.lgamma(trials + 1) - math.log(math.pi)
        )

    def likelihood(our_p: float, their_p: float) -> float:
        found = 0.0
        for events, trials, p in ((ours, n_ours, our_p), (theirs, n_theirs, their_p)):
            found += events * math.log(max(p, _TINY)) + (trials - events) * math.log(max(1.0 - p, _TINY))
        return found

    our_p, their_p = (events / trials if trials else 0.0 for events, trials in ((ours, n_ours), (theirs, n_theirs)))
    if our_p <= ratio * their_p or not n_theirs:
        innocent = likelihood(our_p, their_p if n_theirs else 1.0)
    else:
        # On the edge of innocence; the likelihood has one top there, as it is concave.
        low, high = 0.0, 1.0 / ratio
        for _ in range(80):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            if likelihood(ratio * left, left) < likelihood(ratio * right, right):
                low = left
            else:
                high = right
        innocent = likelihood(ratio * low, low)
    return mixture(ours, n_ours) + mixture(theirs, n_theirs) - innocent


def at_least(events: int, trials: int, alpha: float = 0.05) -> float:
    """Return the lower end of a confidence sequence of level 1 - alpha for a probability.

    The ends of all moments hold together: with probability 1 - alpha none is ever above the truth.
    """
    if not events:
        return 0.0
    low, high, wanted = 0.0, events / trials, math.log(1.0 / alpha)
    for _ in range(40):
        middle = (low + high) / 2
        if middle <= 0.0 or middle >= 1.0:
            break
        low, high = (middle, high) if evidence(events, trials, middle) >= wanted else (low, middle)
    return low
