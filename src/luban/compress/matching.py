"""The objective of distillation: answer as the teacher does, and come to the answer the way it does.

Legend: B windows in a pass, L tokens in the longest of them, K outputs, D width of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.compress import surgery
from luban.compress.answers import Lesson
from luban.errors import LubanError
from luban.models.windows import token_places

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luban.compress import Candidate
    from luban.models.heads import TaskModel
    from luban.objectives import TaskLoss

PROJECTION = "projection"
"""Name of the layer that the candidate's head has, while it learns, where the teacher is of another width."""


class Distillation:
    """Learn from a teacher's logits (Hinton et al. 2015), and from its inside where an `Inside` is given."""

    def __init__(
        self,
        lesson: Lesson,
        *,
        per_token: bool,
        temperature: float,
        labels: float,
        inside: Inside | None = None,
        early: Early | None = None,
    ) -> None:
        """Store what the loss is made of.

        Args:
            lesson: the rows of the training run, and the teachers' answers.
            per_token: the answers are tokens', not windows'.
            temperature: what both sides' logits are divided by.
            labels: weight of the task's own loss; that of the answers is 1 minus it.
            inside: adds terms on hidden states and attention.
            early: the early answers, which learn the same.
        """
        self._lesson, self._per_token = lesson, per_token
        self._temperature, self._labels = temperature, labels
        self._inside, self._early = inside, early

    def loss(
        self,
        model: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        batch: dict[str, torch.Tensor],
        logits: torch.Tensor,
        inner: Callable[[torch.Tensor], torch.Tensor],
        task_loss: TaskLoss,
    ) -> torch.Tensor:
        """Return the weighted sum of all terms, a scalar."""
        loss = self._of(logits, batch, inner)
        if self._early is not None:
            loss = loss + self._of(self._early.logits, batch, inner)
        return loss if self._inside is None else loss + self._inside.loss(batch)

    def _of(
        self, logits: torch.Tensor, batch: dict[str, torch.Tensor], inner: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return what some logits of a pass are apart from the teachers' and from the labels, a scalar."""
        several = batch["targets"].is_floating_point()
        found, wanted = self._beside(logits, batch["windows"].cpu().numpy())
        loss = (1 - self._labels) * disagreement(found, wanted, self._temperature, several_labels=several)
        if self._labels:
            loss = loss + self._labels * inner(logits)
        return loss

    def _beside(self, logits: torch.Tensor, windows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (A, K) logits of a pass and the teachers' answers to the same questions."""
        import torch

        lesson = self._lesson
        if not self._per_token:
            return logits, torch.from_numpy(lesson.answers[lesson.place[windows]]).to(logits.device)
        places, real = token_places(lesson.rows, windows)
        place = np.where(real, lesson.place[places], -1)
        asked = torch.from_numpy(place >= 0).to(logits.device)
        return logits[asked], torch.from_numpy(lesson.answers[place[place >= 0]]).to(logits.device)


def disagreement(
    found: torch.Tensor, wanted: torch.Tensor, temperature: float, *, several_labels: bool = False
) -> torch.Tensor:
    """Return the mean divergence of answers from the wanted ones (a scalar), 0 where they are the same.

    It is multiplied by the temperature's square, so that gradients stay of one size whatever it is (Hinton et al.).

    Args:
        found: (A, K) logits.
        wanted: (A, K) logits.
        temperature: what both are divided by.
        several_labels: every label is a distribution of its own, of yes and no.
    """
    from torch.nn import functional

    if not len(found):
        return found.sum() * 0.0
    found, wanted = found / temperature, wanted / temperature
    if several_labels:
        share = wanted.sigmoid()
        most = functional.binary_cross_entropy_with_logits(found, share)
        least = functional.binary_cross_entropy_with_logits(wanted, share)
        return (most - least) * temperature**2
    log_found, log_wanted = found.log_softmax(-1), wanted.log_softmax(-1)
    return functional.kl_div(log_found, log_wanted, log_target=True, reduction="batchmean") * temperature**2


class Early:
    """Looks at what a model's early head answers, until it is closed."""

    def __init__(self, head: nn.Module) -> None:
        self._logits: list[torch.Tensor] = []
        self._handle = head.register_forward_hook(self._see)

    def _see(self, _: nn.Module, __: Any, logits: torch.Tensor) -> None:
        self._logits[:] = [logits.float()]

    @property
    def logits(self) -> torch.Tensor:
        """The early logits (B, K) of the last pass."""
        return self._logits[0]

    def close(self) -> None:
        """Look no longer."""
        self._handle.remove()


class Inside:
    """Makes a candidate's hidden states and attention like a teacher's.

    Hidden states are matched layer by layer, an even map of the candidate's layers to the teacher's (Sanh et al. 2019;
    Jiao et al. 2020, "TinyBERT"). Of attention the relations among queries, keys and values of the last layer are
    (Wang et al. 2021, "MiniLMv2"), which may differ in width and in heads.
    """

    def __init__(
        self,
        model: TaskModel,
        candidate: Candidate,
        teacher: Candidate,
        rows: np.ndarray,
        *,
        hidden: float,
        attention: float,
        seed: int,
    ) -> None:
        """Look into both models from now on; `close` ends that.

        Args:
            model: the one that is trained; where the teacher has another width, its head gets a projection.
            candidate: what it was made from, with its processor.
            teacher: which is left as it is.
            rows: token ids of all rows that are learnt from.
            hidden: weight of the term on hidden states.
            attention: weight of the term on attention.
            seed: start of the projection's random numbers.

        Raises:
            LubanError: the two read other pieces, or attention has not the layers that are matched.
        """
        import copy

        import torch

        self._hidden, self._attention = hidden, attention
        device = next(model.parameters()).device
        self._numbers = torch.from_numpy(_same_pieces(candidate, teacher, rows)).to(device)
        self._pad_id = teacher.processor.pad_id
        self._teacher = copy.deepcopy(teacher.model).to(device).eval()
        self._theirs = _Watched(self._teacher.body, attention=attention > 0)
        self._ours = _Watched(model.body, attention=attention > 0)
        self._head = model.head
        widths = [int(one.body.config.hidden_size) for one in (model, self._teacher)]  # type: ignore[union-attr, arg-type]
        if hidden and widths[0] != widths[1]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model.head.add_module(PROJECTION, torch.nn.Linear(widths[0], widths[1], bias=False).to(device))

    def close(self) -> None:
        """Look no longer."""
        self._ours.close()
        self._theirs.close()

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted terms for the batch that the candidate has just run, a scalar."""
        import torch

        mask = batch["attention_mask"]
        hidden, relations = list(self._ours.hidden), dict(self._ours.relations)
        with torch.no_grad():
            ids = self._numbers[batch["input_ids"]].masked_fill(mask == 0, self._pad_id)
            self._teacher(ids, mask)
        loss = torch.zeros((), device=mask.device)
        if self._hidden:
            project = getattr(self._head, PROJECTION, torch.nn.Identity())
            loss = loss + self._hidden * distance(hidden, self._theirs.hidden, mask, project)
        if self._attention:
            terms = [relation_divergence(relations[part], self._theirs.relations[part], mask) for part in relations]
            loss = loss + self._attention * torch.stack(terms).mean()
        return loss


def distance(
    ours: list[torch.Tensor], theirs: list[torch.Tensor], mask: torch.Tensor, project: Callable[[torch.Tensor], Any]
) -> torch.Tensor:
    """Return the mean squared distance of hidden states as a share of the teacher's own mean square, a scalar.

    Args:
        ours: the candidate's hidden states (B, L, D), lowest layer first.
        theirs: the teacher's.
        mask: (B, L), 1 at tokens.
        project: brings the candidate's states to the teacher's width.
    """
    import torch

    real = mask > 0
    terms = []
    for layer, states in enumerate(ours, start=1):
        wanted = theirs[round(layer * len(theirs) / len(ours)) - 1][real].float()
        found = project(states[real].float())
        terms.append((found - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12))
    return torch.stack(terms).mean()


def relation_divergence(ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return how far relations among the tokens of a window diverge from the teacher's, in nats a token, a scalar.

    Args:
        ours: (B, L, D) queries, keys or values of the candidate.
        theirs: (B, L, D') the teacher's.
        mask: (B, L), 1 at tokens.
    """
    from torch.nn import functional

    heads = math.gcd(ours.shape[-1], theirs.shape[-1], 48)
    found, wanted = _relations(ours, mask, heads), _relations(theirs, mask, heads)
    divergence = functional.kl_div(found, wanted, log_target=True, reduction="none")
    real = (mask > 0)[:, None, :, None] & (mask > 0)[:, None, None, :]
    return divergence.masked_fill(~real, 0.0).sum() / (heads * mask.sum()).clamp(min=1)


def _relations(x: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Return (B, heads, L, L) log-probabilities with which tokens attend to their like, for x (B, L, D)."""
    split = x.float().view(*x.shape[:2], heads, -1).transpose(1, 2)
    scores = split @ split.transpose(2, 3) / math.sqrt(split.shape[-1])
    shares: torch.Tensor = scores.masked_fill(mask[:, None, None, :] == 0, -1e4).log_softmax(-1)
    return shares


class _Watched:
    """Keeps what a body's layers put out in its last pass."""

    def __init__(self, body: nn.Module, *, attention: bool) -> None:
        from luban.models.body import layers

        self.hidden: list[torch.Tensor] = []
        """(B, L, D) after each layer, lowest first."""
        self.relations: dict[str, torch.Tensor] = {}
        """(B, L, D) queries, keys and values of the last layer."""
        self._hooks = [body.register_forward_pre_hook(self._begin)]
        self._hooks += [layer.register_forward_hook(self._after_layer) for layer in layers(body)]
        if attention:
            for number, path in enumerate(surgery.attention(body)[-1].inward):
                self._hooks.append(body.get_submodule(path).register_forward_hook(self._relation(number)))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module, given: Any) -> None:
        self.hidden, self.relations = [], {}

    def _after_layer(self, module: nn.Module, given: Any, out: Any) -> None:
        self.hidden.append(out[0] if isinstance(out, tuple) else out)

    def _relation(self, number: int) -> Callable[..., None]:
        def keep(module: nn.Module, given: Any, out: torch.Tensor) -> None:
            if out.shape[-1] == 3 * int(given[0].shape[-1]) and number == 0:
                self.relations = dict(zip("qkv", out.chunk(3, -1), strict=True))
            else:
                self.relations["qkv"[number]] = out

        return keep


def _same_pieces(candidate: Candidate, teacher: Candidate, rows: np.ndarray) -> np.ndarray:
    """Return (V,) int64: the teacher's id of each of the candidate's tokens; special tokens by where they stand.

    Raises:
        LubanError: the rows have tokens that the teacher's vocabulary lacks.
    """
    from tokenizers import Tokenizer

    ours, theirs = (
        Tokenizer.from_str(one.processor.tokenizer_json).get_vocab(with_added_tokens=True)
        for one in (candidate, teacher)
    )
    numbers = np.full(max(ours.values()) + 1, -1, np.int64)
    for piece, number in ours.items():
        numbers[number] = theirs.get(piece, -1)
    around = [one.processor.encode_texts([""]).ids for one in (candidate, teacher)]
    if len(around[0]) == len(around[1]):
        numbers[around[0]] = around[1]
    numbers[candidate.processor.pad_id] = teacher.processor.pad_id
    if missing := int((numbers[np.unique(rows)] < 0).sum()):
        raise LubanError(
            f"distil: {missing:,} of the pieces that the rows are read in are not in the teacher's vocabulary",
            hint="set hidden: 0 and attention: 0; logits alone are matched whatever each model reads",
        )
    return numbers
