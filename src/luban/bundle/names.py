"""A bundle that tags people and places, as one more recogniser of personal data: finds names that no word gives away.

It stands beside the rules of `luban.data.personal`, and never instead of them: what either finds counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luban.data.mask import wanted_kind
from luban.data.personal import Personal
from luban.errors import BadRequest, did_you_mean

if TYPE_CHECKING:
    from luban.bundle.engine import Engine

MEANS = {
    "per": "name", "pers": "name", "person": "name", "people": "name", "name": "name", "nr": "name", "人名": "name",
    "姓名": "name", "人物": "name", "loc": "address", "location": "address", "address": "address", "gpe": "address",
    "ns": "address", "地址": "address", "地点": "address", "地名": "address",
}  # fmt: skip
"""What labels are taken for where nobody says otherwise, in small letters: a kind of personal data."""
_ROWS = 256
"""Texts that are answered together: more would only take memory."""


class NameFinder:
    """Finds what a bundle tags. A `Finder` of `luban.data.personal`; threads may share it."""

    def __init__(self, engine: Engine, labels: Mapping[str, str] | None = None) -> None:
        """Store the engine, and what its labels are taken for.

        Args:
            engine: an opened bundle of the task `tag`.
            labels: label -> kind of personal data, as `{"PER": "name"}`: these alone count then. Without it, those that
                `MEANS` knows.

        Raises:
            BadRequest: it tags nothing, has no such label, none that is known, or there is no such kind.
        """
        if not engine.task.per_token:
            raise BadRequest(
                f"{engine.name} does not tag names: its task is {engine.task.kind}",
                hint="name a bundle of the task tag",
            )
        if labels is None:
            found = {label: MEANS[label.lower()] for label in engine.labels if label.lower() in MEANS}
        else:
            if unknown := sorted(set(labels) - set(engine.labels)):
                raise BadRequest(
                    f"{engine.name} has no label {unknown[0]!r}", hint=did_you_mean(unknown[0], engine.labels)
                )
            found = {label: wanted_kind(kind) for label, kind in labels.items()}
        if not found:
            raise BadRequest(
                f"{engine.name} tags {', '.join(engine.labels)}: none is known to be a name or an address",
                hint=f"say what one is: {engine.labels[0]}=name",
            )
        self._engine = engine
        self.means: Mapping[str, str] = found
        """Label -> kind of personal data, of the labels that count."""

    @classmethod
    def open(cls, folder: Path | str, labels: Mapping[str, str] | None = None, threads: int = 0) -> NameFinder:
        """Open a bundle; see `__init__` and `Engine.open`."""
        from luban.bundle.engine import Engine

        return cls(Engine.open(folder, threads=threads), labels)

    def __call__(self, texts: Sequence[str]) -> list[list[Personal]]:
        """Return what is found in each text, by characters of it; long ones are read in windows."""
        found: list[list[Personal]] = [[] for _ in texts]
        # Numbers and blanks hold no name, and in a table they are many.
        asked = [place for place, text in enumerate(texts) if any(map(str.isalpha, text))]
        for begin in range(0, len(asked), _ROWS):
            places = asked[begin : begin + _ROWS]
            answers = self._engine.predict([texts[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                found[place] = [
                    Personal(self.means[span.label], span.start, span.end)
                    for span in answer.spans
                    if span.label in self.means
                ]
        return found
