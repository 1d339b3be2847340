"""Read less of long texts: half the tokens take less than half the time, and often decide as well.

What a text is about mostly stands where it begins or ends (Sun et al. 2019, "How to Fine-Tune BERT for Text
Classification?"). The model learns the uncompressed one's answers to whole texts from their shorter windows. The file
does not grow smaller; texts that fit are answered as before, until the model has learnt again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from luban.compress import Candidate, Material, surgery
from luban.compress.methods.distil import recover
from luban.errors import LubanError
from luban.models.processor import Processor

WORKS_ON = "model"
LEAST_SPARED = 0.05
"""Share of the training rows' tokens that must be spared: less does not show in any time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `window`."""

    tokens: Annotated[int, Field(ge=0)] = 0
    """Longest window afterwards, in tokens, special tokens and prefix included; 0 halves that of the training rows."""
    long_text: Literal["same", "truncate", "head_tail"] = "same"
    """What stays of longer texts: what stays now, their beginning, or beginning and end. Texts that were read in
    several windows keep beginning and end with `same`."""
    recover_epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """Passes over the rows in which the model learns to answer from less; 0 leaves it as it is."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    """Highest learning rate of these passes."""


def make(options: Options) -> Window:
    """Return the method."""
    return Window(options)


class Window:
    """Cuts texts to fewer tokens."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, candidate: Candidate, material: Material) -> Candidate:
        """Return the model with a processor that keeps less of long texts.

        Raises:
            LubanError: the task wants an answer for each token; the window has no room for text; or so few texts are
                longer that nothing would be spared.
            TrainError: the recovery could not go on.
        """
        task, before = material.task, candidate.processor
        if task.per_token:
            raise LubanError(
                f"window: the task {task.kind} wants an answer for every token, so that none can be left out",
                hint="leave window out of the plan",
            )
        lengths = task.encode(material.train, before).lengths
        tokens = self.options.tokens or -(-int(lengths.max(initial=0)) // 2)
        processor = self._processor(before, tokens)
        rows = task.encode(material.train, processor)
        spared = 1 - len(rows.ids) / max(1, int(lengths.sum()))
        if spared < LEAST_SPARED:
            raise LubanError(
                f"window: {tokens} tokens would spare {spared:.0%} of those that the training rows have, wanted "
                f"{LEAST_SPARED:.0%} or more: 90% of the windows have at most {np.quantile(lengths, 0.9):.0f}",
                hint="set `tokens` lower, or leave window out of the plan",
            )
        read = replace(candidate, processor=processor)
        model, told = recover(
            candidate.model, read, material,
            epochs=self.options.recover_epochs, learning_rate=self.options.learning_rate,
        )  # fmt: skip
        facts = {
            "tokens": tokens,
            "tokens_before": before.settings.max_length,
            "long_text": processor.settings.long_text,
            "spared": round(spared, 4),
            "parameters": surgery.parameters(model),
            "not_smaller": "reading less spares time, not weights",
            **told,
        }
        return Candidate(model, processor, {**candidate.facts, "window": facts})

    def _processor(self, before: Processor, tokens: int) -> Processor:
        """Return the processor with a shorter window; raise as `apply` says."""
        settings = before.settings
        now = "head_tail" if settings.long_text == "chunk" else settings.long_text
        stays = now if self.options.long_text == "same" else self.options.long_text
        shorter = replace(settings, max_length=min(tokens, settings.max_length), long_text=stays, stride=0)
        try:
            return Processor(shorter, before.vocabulary)
        except ValueError as error:
            raise LubanError(f"window: {error}", hint="set `tokens` higher") from error
