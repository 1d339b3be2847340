"""Trials of versions, as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luban.cli.show import words
from luban.cli.show.results import pairs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from luban.registry.trial import Rollout
    from luban.stages.trying import Standing

_STYLES = {"running": "cyan", "passed": "green", "promoted": "green", "rolled_back": "red", "stopped": "yellow"}


def begun(trial: Rollout) -> RenderableType:
    """Return what has begun, and what will end it."""
    from rich.console import Group
    from rich.text import Text

    terms = trial.terms
    of = "of the requests" if trial.kind == "canary" else "of the requests, as copies"
    return Group(
        Text.assemble(("begun: ", "green"), (str(trial), "bold"), f" beside {trial.name}@{trial.alias}"),
        pairs({
            "share": f"{terms.share:.1%} {of}" + (f", by {words.safe(terms.by)}" if terms.by else ""),
            "time": f"{terms.minutes:g} minutes, then {terms.then}",
            "may disagree": f"on {terms.disagrees_at_most:.1%} of the texts ({terms.basis or 'as said'})",
        }),
    )  # fmt: skip


def ended(trial: Rollout) -> RenderableType:
    """Return how a trial ended."""
    from rich.text import Text

    state = trial.state.replace("_", " ")
    return Text.assemble((f"{state}: ", _STYLES[trial.state]), (str(trial), "bold"), f"  {words.safe(trial.reason)}")


def standings(found: Sequence[Standing]) -> RenderableType:
    """Return how trials stand."""
    from rich.console import Group
    from rich.text import Text

    if not found:
        return Text("nothing is on trial: `luban canary NAME@NUMBER` begins one")
    parts: list[RenderableType] = []
    for one in found:
        trial, told = one.rollout, one.evidence
        counts = told.get("counts", {})
        state = trial.state.replace("_", " ")
        parts += [
            Text.assemble(
                (str(trial), "bold"), f" beside {trial.name}@{trial.alias} as a {trial.kind}: ",
                (state, _STYLES[trial.state]),
            ),
            pairs({
                "time": f"{one.minutes:.1f} of {trial.terms.minutes:g} minutes, share {trial.terms.share:.1%}",
                **({"answers": _row(counts, "challenger", "champion"),
                    "failed": _row(counts, "challenger_failed", "champion_failed"),
                    "slow": _row(counts, "challenger_slow", "champion_slow"),
                    "disagreed": f"{counts['disagreed']} of {counts['compared']} texts,"
                                 f" {trial.terms.disagrees_at_most:.1%} may be",
                    **({"wrong": f"{counts['challenger_wrong']} of {counts['challenger_labelled']} by feedback, of the"
                                 f" champion {counts['champion_wrong']} of {counts['champion_labelled']}"}
                       if counts.get("challenger_labelled") or counts.get("champion_labelled") else {}),
                    "batches": _times(told)} if counts else {}),
                **{f"reason {number}": words.safe(reason) for number, reason in enumerate(one.reasons, 1) if reason},
            }),
            Text(),
        ]  # fmt: skip
    return Group(*parts[:-1])


def _row(counts: dict[str, int], one: str, other: str) -> str:
    return f"{words.count(counts[one])}, of the champion {words.count(counts[other])}"


def _times(told: object) -> str:
    assert isinstance(told, dict)
    mine, theirs = told["challenger_ms"], told["champion_ms"]
    if not mine or not theirs:
        return ""
    return (
        f"{mine['p50']:g} ms, 99% within {mine['p99']:g}; of the champion {theirs['p50']:g} ms, 99% within"
        f" {theirs['p99']:g}"
    )
