"""How long a batch takes: a time to begin and a time a token, learned as batches run."""

from __future__ import annotations

_KEPT = 0.98
"""Share of what was known that a new batch leaves: half of it goes in 34 batches."""
_BEGIN_TOKENS = 8
"""Tokens whose time it takes to begin, before anything was measured; see `luban.bundle.engine`."""
_SHORTEST_S = 1e-4
_SPREAD = 1e-2
"""Least variance of the tokens, as a share of their mean square, from which begin and token are told apart."""


class Pace:
    """Least squares over batches, the older the less (Haykin, Adaptive Filter Theory, 4th edition, chapter 9).

    What is not known yet is assumed: a millisecond to begin, and the eighth of it a token.
    """

    __slots__ = ("_n", "_s", "_t", "_ts", "_tt", "begin_s", "token_s")

    def __init__(self, begin_s: float = 1e-3) -> None:
        self.begin_s, self.token_s = begin_s, begin_s / _BEGIN_TOKENS
        # Sums over batches of 1, tokens, seconds, tokens squared, tokens x seconds.
        self._n = self._t = self._s = self._tt = self._ts = 0.0

    def seconds(self, tokens: int) -> float:
        """Return how long a batch of so many tokens will take."""
        return self.begin_s + self.token_s * tokens

    def add(self, tokens: int, seconds: float) -> None:
        """Learn from a batch."""
        for name in ("_n", "_t", "_s", "_tt", "_ts"):
            setattr(self, name, getattr(self, name) * _KEPT)
        self._sum(tokens, seconds)
        spread = self._n * self._tt - self._t * self._t
        slope = (self._n * self._ts - self._t * self._s) / spread if spread > _SPREAD * self._n * self._tt else 0.0
        begin = (self._s - slope * self._t) / self._n
        if slope <= 0:  # all of one size, or noise: what it takes to begin is as it is known to be
            slope = self._s / (self._t + _BEGIN_TOKENS * self._n)
            begin = _BEGIN_TOKENS * slope
        elif begin < 0:
            slope, begin = self._ts / self._tt, 0.0
        self.token_s, self.begin_s = max(slope, 1e-9), begin

    def _sum(self, tokens: int, seconds: float) -> None:
        # By relative error: what disturbs a batch lengthens it by a share, and short ones are to be told well too.
        weight = 1.0 / max(seconds, _SHORTEST_S) ** 2
        self._n += weight
        self._t += weight * tokens
        self._s += weight * seconds
        self._tt += weight * tokens * tokens
        self._ts += weight * tokens * seconds
