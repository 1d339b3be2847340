"""The layers that a task puts on a base, and the model that the two make together.

Legend: B windows, L tokens in the longest of them, K outputs.
"""

from __future__ import annotations

import torch
from torch import nn


class TaskModel(nn.Module):
    """A base's body with a task's head: token ids in, logits out. What is trained, saved and exported."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) or (B, L, K) for ids and mask (B, L); the mask is 1 at tokens and 0 at padding."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: torch.Tensor = self.head(hidden, attention_mask)
        return logits


class PooledHead(nn.Module):
    """One vector a window, then one linear layer."""

    def __init__(self, width: int, n_outputs: int, *, dropout: float, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, n_outputs)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) for hidden states (B, L, width)."""
        logits: torch.Tensor = self.output(self.dropout(pool(hidden, mask, self.pooling)))
        return logits


class TokenHead(nn.Module):
    """One linear layer over every token."""

    def __init__(self, width: int, n_outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, n_outputs)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B, L, K) for hidden states (B, L, width); the mask changes nothing."""
        logits: torch.Tensor = self.output(self.dropout(hidden))
        return logits


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return one vector a window (B, width): the first token's (`cls`), or the mean over tokens that are no padding."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
