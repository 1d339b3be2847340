"""A version on trial beside the champion, as a command has it: begin, look, stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from luban.stages.registering import opened, whoami

if TYPE_CHECKING:
    from luban.registry.trial import Rollout


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a trial stands."""

    rollout: Rollout
    evidence: Mapping[str, Any]
    """Of its end, or as it is now."""
    reasons: tuple[str, ...]
    """Against the challenger."""
    minutes: float
    """Since it began; to its end, where it has ended."""


def begin(
    reference: str,
    *,
    share: float = 0.05,
    by: str = "",
    minutes: float = 30.0,
    then: str = "hold",
    shadow: bool = False,
    disagree_at_most: float | None = None,
    slower_at_most: float = 2.0,
    errs_at_most: float = 1.2,
    alias: str = "champion",
    registry: str | None = None,
    why: str = "",
    who: str | None = None,
) -> Rollout:
    """Put a version on trial; see `luban.registry.trials.begin`."""
    from luban.registry import trials
    from luban.registry.trial import Terms

    after = cast(Literal["hold", "promote"], then)
    terms = Terms(
        share=share, by=by, minutes=minutes, then=after, slower_at_most=slower_at_most, errs_at_most=errs_at_most
    )
    with opened(registry) as it:
        return trials.begin(
            it, reference, terms, kind="shadow" if shadow else "canary", alias=alias,
            disagrees_at_most=disagree_at_most, who=who or whoami(), why=why,
        )  # fmt: skip


def status(name: str | None = None, *, alias: str = "champion", registry: str | None = None) -> list[Standing]:
    """Return how the last trial of a model stands, or those that run of all models.

    Args:
        name: the model, or a version of it.
        alias: beside which it is or was.
        registry: a folder or URL; see `registry_place`.

    Raises:
        NotFound: there is no such model.
    """
    from luban.registry import audit, trials
    from luban.registry.trial import RUNNING, rule
    from luban.registry.version import parse

    found = []
    with opened(registry) as it:
        if name is None:
            wanted = trials.rollouts(it, running=True)
        else:
            model = parse(name).name
            it.versions(model)
            wanted = [one for one in trials.rollouts(it, model) if one.alias == alias][-1:]
        for one in wanted:
            minutes = trials.minutes_between(one.at, one.ended or audit.now())
            ruling = rule(one, trials.counted(it, one))
            running = one.state == RUNNING
            evidence, reasons = (ruling.evidence, ruling.reasons) if running else (one.evidence, (one.reason,))
            found.append(Standing(rollout=one, evidence=evidence, reasons=reasons, minutes=minutes))
    return found


def stop(
    name: str, *, alias: str = "champion", registry: str | None = None, why: str = "", who: str | None = None
) -> Rollout:
    """End the trial of a model; one that has ended stays as it ended.

    Raises:
        NotFound: there was never one.
    """
    from luban.registry import trials
    from luban.registry.version import parse

    with opened(registry) as it:
        return trials.stop(it, parse(name).name, alias=alias, who=who or whoami(), why=why)
