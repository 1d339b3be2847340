"""The card of a version: what must be known of a model before it may answer for anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luban.bundle.card import use_and_limits
from luban.errors import CorruptBundle

STATED = {
    "licence": "the terms under which the base and the data may be used",
    "use": "what the model is for, and what it is not for",
    "limits": "where it is known to be wrong or was not tested",
}
"""What people can state of a version -> what is meant."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a version; empty where it is not."""

    licence: str
    base: str
    data: str
    """Digest of the rows."""
    scores: int
    """How many scores there are."""
    limits: str
    use: str

    def missing(self) -> list[str]:
        """Return what is not stated, in the order of reading."""
        return [name for name in ("licence", "base", "data", "scores", "limits", "use") if not getattr(self, name)]


def read(bundle: bytes, metrics: bytes, text: bytes, stated: Mapping[str, str]) -> Card:
    """Return the card of a bundle with what people have stated beside it, which goes before the bundle's own.

    Args:
        bundle: `bundle.json`.
        metrics: `metrics.json`.
        text: `card.md`.
        stated: `licence`, `use`, `limits`.

    Raises:
        CorruptBundle: one of the files is not what its name says.
    """
    try:
        base: Mapping[str, Any] = json.loads(bundle)["base"]
        found = json.loads(metrics)
        scores, data = found["scores"], found["digests"].get("data", "")
        use, limits = use_and_limits(text.decode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(f"a file of the bundle does not hold what its name says: {error!r}") from error
    return Card(
        licence=stated.get("licence") or str(base.get("licence") or ""),
        base=str(base.get("name") or ""),
        data=str(data),
        scores=len(scores),
        limits=stated.get("limits") or limits,
        use=stated.get("use") or use,
    )
