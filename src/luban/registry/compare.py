"""What changed from one version to another: data, settings, scores, slices, size, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luban.evaluate import answers
from luban.evaluate.answers import SliceDifference
from luban.metrics.interval import Difference
from luban.project.lock import Change, changes
from luban.records import Score
from luban.registry.judge import Evidence
from luban.registry.store import Registry
from luban.registry.version import Version


@dataclass(frozen=True, kw_only=True)
class ScoreChange:
    """One score of both versions."""

    name: str
    before: Score | None
    after: Score | None
    difference: Difference | None
    """After minus before on the same test rows; None where they were judged on different ones."""


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed from `before` to `after`."""

    before: Version
    after: Version
    same_data: bool
    """Trained, validated and tested on the same rows."""
    same_test_rows: bool
    """Judged on the same rows: scores are compared pairwise."""
    settings: Sequence[Change]
    labels_added: Sequence[str]
    labels_removed: Sequence[str]
    scores: Sequence[ScoreChange]
    only_before: int = 0
    """Test rows that only the older version has wholly right."""
    only_after: int = 0
    slices: Sequence[SliceDifference] = ()
    """`one` is the newer version's score, `other` the older one's."""
    card: Mapping[str, tuple[str, str]]
    """What is stated differently: licence, base."""


def diff(registry: Registry, before: Version, after: Version) -> Diff:
    """Return what changed from one version to another; scores are paired where both have the same test rows.

    Raises:
        CorruptBundle: a file of one of the bundles can't be used.
    """
    old, new = registry.evidence(before), registry.evidence(after)
    paired = None
    slices: Sequence[SliceDifference] = ()
    if old.answers is not None and new.answers is not None:
        paired = answers.compared(new.answers, old.answers)
        slices = answers.by_slice(new.answers, old.answers)
    names = [*after.scores, *(name for name in before.scores if name not in after.scores)]
    return Diff(
        before=before, after=after, same_data=before.data_digest == after.data_digest,
        same_test_rows=paired is not None,
        settings=changes(old.project, new.project),
        labels_added=_more(new, old), labels_removed=_more(old, new),
        scores=[
            ScoreChange(
                name=name, before=before.scores.get(name), after=after.scores.get(name),
                difference=None if paired is None else paired.differences.get(name),
            )
            for name in names
        ],
        only_before=0 if paired is None else paired.only_other,
        only_after=0 if paired is None else paired.only_one,
        slices=slices,
        card={
            what: (getattr(old.card, what), getattr(new.card, what))
            for what in ("licence", "base") if getattr(old.card, what) != getattr(new.card, what)
        },
    )  # fmt: skip


def _more(one: Evidence, other: Evidence) -> list[str]:
    if one.answers is None or other.answers is None:
        return []
    return [label for label in one.answers.measure.labels if label not in other.answers.measure.labels]
