"""Cut the vocabulary down to what the data need: most of a small multilingual model is token vectors never used.

Nothing is lost: what was one piece falls back to smaller ones, and whatever could be read without the unknown token
still can (see `luban.compress.pieces`). Texts of pieces that stay get the very same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.pieces import Trimmed, trim
from luban.errors import LubanError
from luban.models.processor import Processor

if TYPE_CHECKING:
    import torch

    from luban.records import Encoded

WORKS_ON = "model"
_COMPARED = 16
_READ_AGAIN = 1000
_LOW = 256
"""Ids below which padding keeps its number: some families count positions from it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `vocabulary`."""

    extra: Annotated[int, Field(ge=0)] = 4000
    """Pieces that stay beyond those that the rows need and those that spell any text: the most frequent ones that are
    spelled with the rows' own characters, so that new texts are read in pieces as long as before."""
    least: Annotated[int, Field(ge=1)] = 1
    """A piece is needed if the training and unlabelled rows hold it at least this often."""


def make(options: Options) -> Vocabulary:
    """Return the method."""
    return Vocabulary(options)


class Vocabulary:
    """Vocabulary trimming, as in Abdaoui et al. 2020, "Load What You Need: Smaller Versions of Multilingual BERT"."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with fewer token vectors, and its processor with fewer pieces.

        Raises:
            LubanError: nothing can be cut, or the tokeniser is of a kind that has nothing to fall back to.
        """
        task, before = material.task, candidate.processor
        parts = [task.encode(material.train, before)]
        if material.unlabelled:
            parts.append(task.encode(list(material.unlabelled), before))
        counts = np.bincount(np.concatenate([part.ids for part in parts]))
        needed = np.flatnonzero(counts >= self.options.least)
        trimmed = trim(before.tokenizer_json, needed.tolist(), extra=self.options.extra, fixed=_fixed(candidate))
        matrix = _matrix(candidate)
        n_before, n_after = int(matrix.shape[0]), len(trimmed.old_ids)
        if n_after >= n_before:
            raise LubanError(
                f"vocabulary: all {n_before:,} pieces would stay",
                hint=f"set extra below {self.options.extra}, or leave vocabulary out of the plan",
            )
        weights, config = _weights(candidate, trimmed), _config(candidate, trimmed, n_before)
        model = surgery.rebuilt(candidate.model, weights, config=config, shapes=_shapes(candidate, n_after))
        processor = Processor(before.settings, trimmed.tokenizer_json)
        found = Candidate(model, processor)
        self._check(candidate, found, trimmed, n_before, parts[0], material)
        facts = {
            "pieces": n_after,
            "pieces_before": n_before,
            "needed": len(needed),
            "spelling": trimmed.n_spelling,
            "extra": trimmed.n_extra,
            "parameters": surgery.parameters(model),
            "parameters_before": surgery.parameters(candidate.model),
        }
        return replace(found, facts={**candidate.facts, "vocabulary": facts})

    def _check(
        self, before: Candidate, after: Candidate, trimmed: Trimmed, n_before: int, rows: Encoded, material: Material
    ) -> None:
        """Prove on training rows that texts of pieces that stay are read and answered as they were.

        Raises:
            LubanError: they are not.
        """
        wanted = replace(rows, ids=trimmed.new_ids(n_before)[rows.ids].astype(np.int32))
        known = np.minimum.reduceat(wanted.ids, wanted.offsets[:-1]) >= 0
        lost = np.unique(wanted.rows[~known])
        chosen = np.setdiff1d(np.unique(wanted.rows), lost)[:_READ_AGAIN]
        again = material.task.encode(material.train.take(chosen), after.processor)
        windows = np.flatnonzero(np.isin(wanted.rows, chosen))
        same = len(again) == len(windows) and np.array_equal(
            again.ids,
            np.concatenate([wanted.ids[wanted.offsets[w] : wanted.offsets[w + 1]] for w in windows] or [again.ids]),
        )
        if not same:
            raise LubanError(
                "vocabulary: the tokeniser reads texts otherwise with fewer pieces",
                hint="leave vocabulary out of the plan; please report the base that does this",
            )
        some = windows[surgery.sample(again, _COMPARED, material.settings.seed)]
        old = surgery.batches(rows, some, before.processor.pad_id)
        new = surgery.batches(wanted, some, after.processor.pad_id)
        surgery.check_same(surgery.logits(before.model, old), surgery.logits(after.model, new), new, "vocabulary")


def _matrix(candidate: Candidate) -> torch.Tensor:
    """Return the matrix of token vectors, one row a token."""
    weights: torch.Tensor = candidate.model.body.state_dict()[_name(candidate)]
    return weights


def _name(candidate: Candidate) -> str:
    """Return the name of the matrix of token vectors among the body's weights."""
    from luban.models.body import words
    from luban.models.shapes import LowRankEmbedding

    matrix = words(candidate.model.body)
    path = next(path for path, module in candidate.model.body.named_modules() if module is matrix)
    return f"{path}.lookup.weight" if isinstance(matrix, LowRankEmbedding) else f"{path}.weight"


def _fixed(candidate: Candidate) -> set[int]:
    """Return ids that must stay: those that the configuration names, and all below padding where it stands low."""
    special = _special(candidate)
    pad = max(candidate.processor.pad_id, special.get("pad_token_id", 0))
    below = range(pad + 1) if pad < _LOW else (pad,)
    return {*special.values(), *below}


def _special(candidate: Candidate) -> dict[str, int]:
    """Return the ids that the body's configuration names, e.g. `pad_token_id`."""
    values: dict[str, Any] = candidate.model.body.config.to_dict()  # type: ignore[union-attr, operator]
    return {name: value for name, value in values.items() if name.endswith("_token_id") and isinstance(value, int)}


def _config(candidate: Candidate, trimmed: Trimmed, n_before: int) -> dict[str, Any]:
    numbers = trimmed.new_ids(n_before)
    special = {
        name: int(numbers[index]) if 0 <= index < n_before and numbers[index] >= 0 else None
        for name, index in _special(candidate).items()
    }
    return {"vocab_size": len(trimmed.old_ids), **special}


def _shapes(candidate: Candidate, n_tokens: int) -> dict[str, dict[str, list[int]]]:
    """Return what the body has beyond its configuration; a matrix of token vectors in factors gets fewer rows."""
    from luban.models import shapes

    found = shapes.of(candidate.model.body)
    path = _name(candidate).removesuffix(".lookup.weight")
    if path in found.get("low_rank", {}):
        found["low_rank"][path] = [n_tokens, *found["low_rank"][path][1:]]
    return found


def _weights(candidate: Candidate, trimmed: Trimmed) -> dict[str, torch.Tensor]:
    """Return the body's weights with the rows of tokens that stay; a new piece gets the mean of those it stands in."""
    import torch

    weights, name = dict(candidate.model.body.state_dict()), _name(candidate)
    matrix = weights[name]
    chosen = matrix[torch.from_numpy(np.maximum(trimmed.old_ids, 0))]
    for index, made_of in trimmed.made_of.items():
        chosen[index] = matrix[made_of].mean(0)
    return {**weights, name: chosen}
