"""The layers that a task puts on a base, and the model that the two make together.

Legend: B windows, L tokens in the longest of them, K outputs.
"""

from __future__ import annotations

import torch
from torch import nn

EARLY = "early"
"""Name under which a head has its `EarlyHead`, where it has one."""


class TaskModel(nn.Module):
    """A base's body with a task's head: token ids in, logits out. What is trained, saved and exported."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) or (B, L, K) for ids and mask (B, L); the mask is 1 at tokens and 0 at padding."""
        if self.early is not None:
            return self.stages(input_ids, attention_mask)[0]
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: torch.Tensor = self.head(hidden, attention_mask)
        return logits

    @property
    def early(self) -> EarlyHead | None:
        """The head at an inner layer, if there is one."""
        found = getattr(self.head, EARLY, None)
        return found if isinstance(found, EarlyHead) else None

    def stages(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the logits (B, K), those of the early head, and the hidden states (B, L, width) that it reads."""
        assert self.early is not None
        found = self.body(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        hidden = found.hidden_states[self.early.after]
        return self.head(found.last_hidden_state, attention_mask), self.early(hidden, attention_mask), hidden


class EarlyHead(nn.Module):
    """A head at an inner layer: a window whose answer it is sure of is spared the layers above.

    Which windows these are is decided where the model runs, so that this is no part of `TaskModel.forward`.
    """

    def __init__(self, head: nn.Module, *, after: int, sure: float = 1.0, temperature: float = 1.0) -> None:
        """Store the head.

        Args:
            head: maps hidden states and mask to logits (B, K).
            after: number of the body's layers that it stands on.
            sure: probability of the likeliest label from which an answer is taken.
            temperature: what logits are divided by before that probability is made of them.
        """
        super().__init__()
        self.head = head
        self.after, self.sure, self.temperature = after, sure, temperature

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) for the hidden states (B, L, width) of the layer."""
        logits: torch.Tensor = self.head(hidden, mask)
        return logits

    def to_json(self) -> dict[str, float]:
        """Return what the weights do not tell: the arguments besides `head`."""
        return {"after": self.after, "sure": self.sure, "temperature": self.temperature}


class Stages(nn.Module):
    """A model with an early head, seen with all that leaving early needs: see `TaskModel.stages`."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits, early logits, and hidden states."""
        return self.model.stages(input_ids, attention_mask)


class Shallow(nn.Module):
    """A model seen from its early head: the logits of that alone."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the early logits (B, K); every layer is run, for this is not how they are used, but judged."""
        return self.model.stages(input_ids, attention_mask)[1]


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
