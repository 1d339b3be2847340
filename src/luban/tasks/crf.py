"""Linear-chain conditional random field over the tags of a row (Lafferty et al. 2001): the head and its loss, in torch.

There are no scores for the start and the end of a chain: a window may begin and end inside a row, and the base sees
the edges of a text as its special tokens. Steps that BIO forbids are left out of the sum over all chains while training
too (Wei et al. 2021, "Masked Conditional Random Fields for Sequence Labeling").

Legend: B windows, L tokens in the longest, U units in the window that has most, K tags.
"""

from __future__ import annotations

import torch
from torch import nn

from luban.models.heads import TokenHead
from luban.tasks.chain import allowed

_FORBIDDEN = -1e4
_GAIN = 10.0


class CrfHead(TokenHead):
    """One linear layer over every token, and a score for each step from one tag to the next."""

    def __init__(self, width: int, n_outputs: int, *, dropout: float) -> None:
        super().__init__(width, n_outputs, dropout=dropout)
        self.steps = nn.Parameter(torch.zeros(n_outputs, n_outputs))

    @property
    def transitions(self) -> torch.Tensor:
        """(K, K) scores from -> to.

        They are ten times the parameter: scores of several units would hardly get off the ground at a learning rate
        that suits a layer's weights, which are far below 1.
        """
        return self.steps * _GAIN


def negative_log_likelihood(
    scores: torch.Tensor, tags: torch.Tensor, real: torch.Tensor, transitions: torch.Tensor
) -> torch.Tensor:
    """Return (B,): minus the log-probability of each row of tags among all rows that BIO allows.

    Args:
        scores: (B, U, K) of each unit's tags.
        tags: (B, U) the right ones; anything valid as an index where nothing is.
        real: (B, U) bool, False at padding, which comes last.
        transitions: (K, K) from -> to.
    """
    steps = _masked(transitions)
    here = scores.gather(2, tags.unsqueeze(2)).squeeze(2)
    moves = steps[tags[:, :-1], tags[:, 1:]]
    path = (here * real).sum(1) + (moves * real[:, 1:]).sum(1)
    return log_partition(scores, real, steps) - path


def log_partition(scores: torch.Tensor, real: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Return (B,): the log of the sum over all rows of tags of the exponent of their score (forward algorithm)."""
    total = scores[:, 0]
    for unit in range(1, scores.shape[1]):
        ahead = torch.logsumexp(total.unsqueeze(2) + steps, dim=1) + scores[:, unit]
        total = torch.where(real[:, unit].unsqueeze(1), ahead, total)
    whole = torch.logsumexp(total, dim=1)
    return torch.where(real[:, 0], whole, torch.zeros_like(whole))


def loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    transitions: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the mean loss a unit (a scalar).

    A row's likelihood has no parts by unit, so class weights scale it by the mean weight of the row's right tags.
    Label smoothing is cross entropy against a random walk: any tag first, then each tag that BIO allows next alike.

    Args:
        logits: (B, L, K).
        targets: (B, L) tags, -100 where nothing is asked.
        transitions: (K, K).
        weights: (K,) one a tag.
        smoothing: share of the target that is spread.
    """
    scores, tags, real = compact(logits, targets)
    per_row = negative_log_likelihood(scores, tags, real, transitions)
    if smoothing:
        spread = log_partition(scores, real, _masked(transitions)) - _walk(scores, real, transitions)
        per_row = (1 - smoothing) * per_row + smoothing * spread
    counts = real.sum(1).to(scores.dtype)
    if weights is not None:
        scale = (weights[tags] * real).sum(1) / counts.clamp(min=1)
        return (per_row * scale).sum() / (counts * scale).sum().clamp(min=1e-12)
    return per_row.sum() / counts.sum().clamp(min=1)


def compact(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the asked tokens drawn together: (B, U, K) logits, (B, U) tags, and (B, U) bool of what is no padding."""
    asked = targets >= 0
    n_units = max(1, int(asked.sum(1).max()))
    order = torch.argsort((~asked).to(torch.uint8), dim=1, stable=True)[:, :n_units]
    real = asked.gather(1, order)
    tags = targets.gather(1, order).clamp(min=0)
    scores = logits.gather(1, order.unsqueeze(2).expand(-1, -1, logits.shape[2])).float()
    return scores, tags, real


def _walk(scores: torch.Tensor, real: torch.Tensor, transitions: torch.Tensor) -> torch.Tensor:
    """Return (B,): the mean score of each row over random walks through the tags that BIO allows.

    The walks are whole rows of tags, so the log partition is never below their mean and the loss has a floor.
    """
    free = torch.from_numpy(allowed(scores.shape[2])).to(scores)
    step = free / free.sum(1, keepdim=True)
    places = [torch.full_like(step[0], 1 / len(step))]
    for _ in range(1, scores.shape[1]):
        places.append(places[-1] @ step)
    walk = torch.stack(places)
    moves = (walk[:-1].unsqueeze(2) * step * transitions.float()).sum((1, 2))
    return ((scores * walk).sum(2) * real).sum(1) + (moves * real[:, 1:]).sum(1)


def _masked(transitions: torch.Tensor) -> torch.Tensor:
    """Return the transitions with a score that no chain can afford where BIO forbids the step."""
    free = torch.from_numpy(allowed(transitions.shape[0])).to(transitions.device)
    return torch.where(free, transitions.float(), torch.full_like(transitions, _FORBIDDEN, dtype=torch.float32))
