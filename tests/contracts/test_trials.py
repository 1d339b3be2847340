"""What a trial promises, held by SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registries
from sqlalchemy import update

from luban.errors import BadRequest, Conflict, NotFound
from luban.registry import aliases, audit, trials
from luban.registry.store import Registry, open_registry
from luban.registry.trial import Counts, Rollout, Terms, rule
from luban.store.tables import ROLLOUTS

WHO = "ann@shop"
TERMS = Terms(share=0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [registries.bundle(folder / f"b{seed}", seed=seed, wrong=wrong) for seed, wrong in
            enumerate((0.05, 0.05, 0.5), 1)]  # fmt: skip


@pytest.fixture
def registry(place: str, tmp_path: Path, made: list[Path]) -> Iterator[Registry]:
    opened = open_registry(place, objects=str(tmp_path / "objects"), create=True)
    stated = {"use": "tests", "limits": "many", "licence": "MIT"}
    for bundle in made:
        opened.register(bundle, name="bank", who=WHO, stated=stated)
    aliases.promote(opened, "bank@1", who=WHO)
    yield opened
    opened.close()


def begin(registry: Registry, **more: Any) -> Rollout:
    return trials.begin(registry, "bank@2", more.pop("terms", TERMS), who=WHO, **more)


def judged(registry: Registry, trial: Rollout, minutes: float = 0.0) -> Rollout:
    from datetime import datetime, timedelta

    now = (datetime.fromisoformat(trial.at) + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    return trials.judge(registry, trial, now=now, who="a server")


def test_one_at_a_time_and_each_ends_once(registry: Registry) -> None:
    trial = begin(registry, why="smaller")
    assert (trial.state, trial.champion, trial.challenger, trial.id) == ("running", 1, 2, 1)
    with pytest.raises(Conflict, match=r"bank@2 is on trial beside bank@champion"):
        trials.begin(registry, "bank@3", TERMS, who=WHO)
    stopped = trials.stop(registry, "bank", who="bob", why="enough")
    assert (stopped.state, stopped.reason) == ("stopped", "enough") and stopped.ended
    assert trials.stop(registry, "bank", who="eve") == stopped
    assert trials.end(registry, trial, "rolled_back", "too late", who="a server") == stopped
    assert begin(registry).id == 2
    assert [one.state for one in trials.rollouts(registry, "bank")] == ["stopped", "running"]
    assert [one.id for one in trials.rollouts(registry, running=True)] == [2]


def test_counts_of_several_servers_are_added_up_and_survive_them(registry: Registry) -> None:
    trial = begin(registry)
    trials.note(registry, trial, "one", Counts(champion=90, challenger=5))
    trials.note(registry, trial, "one", Counts(champion=95, challenger=6))
    trials.note(registry, trial, "two", Counts(champion=5, challenger=1, champion_ms=[1] * 64))
    total = trials.counted(registry, trial)
    assert (total.champion, total.challenger, sum(total.champion_ms)) == (100, 7, 64)


@pytest.mark.parametrize(("counts", "said"), [
    (Counts(champion=950, challenger=50, challenger_failed=10), "it failed 10 of 50 requests beside 0 of 950"),
    (Counts(champion=950, challenger=50, champion_timed=900, challenger_timed=50, challenger_slow=20, champion_slow=2),
     "20 of 50 answers took more than 2 times the champion's 99th percentile, beside 2 of 900"),
    (Counts(champion=950, challenger=50, compared=40, disagreed=38), "it answered 38 of 40 texts otherwise"),
])  # fmt: skip
def test_what_is_worse_goes_back_at_once_with_its_evidence_in_the_audit(
    registry: Registry, counts: Counts, said: str
) -> None:
    trial = begin(registry)
    trials.note(registry, trial, "one", counts)
    ended = judged(registry, trial)
    assert ended.state == "rolled_back" and said in ended.reason
    entry = registry.entries(subject="bank@2")[-1]
    assert (entry.action, entry.who, entry.facts["why"]) == ("canary-end", "a server", ended.reason)
    assert entry.facts["evidence"]["counts"]["challenger"] == 50
    assert registry.version("bank@champion").number == 1
    assert registry.verify_audit().broken is None


def test_as_bad_as_the_champion_is_no_reason(registry: Registry) -> None:
    trial = begin(registry)
    trials.note(registry, trial, "one", Counts(
        champion=950, challenger=50, champion_failed=95, challenger_failed=5, champion_timed=950, challenger_timed=50,
        champion_slow=300, challenger_slow=16, compared=50, disagreed=3,
    ))  # fmt: skip
    assert judged(registry, trial).state == "running"


def test_the_end_of_its_time(registry: Registry) -> None:
    for counts, then, state, said in (
        (Counts(challenger=3), "promote", "stopped", "only 3 answers in 30 minutes, of 100 wanted"),
        (Counts(challenger=300), "hold", "passed", "nothing against it in 300 answers"),
        (Counts(challenger=300), "promote", "promoted", "nothing against it"),
    ):
        trial = begin(registry, terms=replace(TERMS, then=then))
        trials.note(registry, trial, "one", counts)
        assert judged(registry, trial, 29.9).state == "running"
        ended = judged(registry, trial, 30.1)
        assert (ended.state, ended.reason[: len(said)]) == (state, said)
        assert judged(registry, trial, 31) == ended
    assert registry.version("bank@champion").number == 2
    assert len(aliases.moves(registry, "bank")) == 2


def test_a_promotion_that_is_refused_is_no_promotion(registry: Registry) -> None:
    trial = trials.begin(registry, "bank@3", replace(TERMS, then="promote"), who=WHO)
    trials.note(registry, trial, "one", Counts(challenger=300))
    ended = judged(registry, trial, 31)
    assert ended.state == "passed" and "but not promoted: bank@3 can't become bank@champion" in ended.reason
    assert registry.version("bank@champion").number == 1


def test_a_champion_that_moves_ends_it(registry: Registry) -> None:
    trial = begin(registry)
    aliases.promote(registry, "bank@2", who=WHO)
    assert judged(registry, trial).state == "promoted"
    trial = trials.begin(registry, "bank@1", TERMS, who=WHO)
    aliases.promote(registry, "bank@3", who=WHO, force=True, why="a trial")
    ended = judged(registry, trial)
    assert (ended.state, ended.reason) == ("stopped", "bank@champion was moved to 3")


def test_what_may_disagree_is_what_the_test_rows_say(registry: Registry, place: str) -> None:
    alike = begin(registry)
    assert 0.1 < alike.terms.disagrees_at_most < 0.35 and "in 300 test rows" in alike.terms.basis
    trials.stop(registry, "bank", who=WHO)
    assert trials.begin(registry, "bank@3", TERMS, who=WHO).terms.disagrees_at_most > 0.6
    trials.stop(registry, "bank", who=WHO)
    assert begin(registry, disagrees_at_most=0.07).terms.disagrees_at_most == 0.07


@pytest.mark.parametrize("wrong", [
    {"share": 0.0}, {"share": 0.6}, {"share": float("nan")}, {"by": "cookie"}, {"by": "header: "}, {"minutes": 0.0},
])  # fmt: skip
def test_terms_that_can_not_be_kept_are_refused(registry: Registry, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong))):
        begin(registry, terms=replace(TERMS, **wrong))


def test_what_is_not_there_is_told(registry: Registry) -> None:
    with pytest.raises(NotFound, match="nothing was ever on trial"):
        trials.stop(registry, "bank", who=WHO)
    with pytest.raises(BadRequest, match="bank@1 is bank@champion itself"):
        trials.begin(registry, "bank@1", TERMS, who=WHO)
    with pytest.raises(NotFound, match="bank has no alias 'beta'"):
        begin(registry, alias="beta")
    with pytest.raises(BadRequest, match="a shadow answers nobody"):
        begin(registry, kind="shadow", terms=replace(TERMS, then="promote"))


def test_an_end_that_was_written_past_the_audit_is_noticed(registry: Registry) -> None:
    begin(registry)
    assert registry.verify_audit().broken is None
    with registry.database.writing() as connection:
        audit.lock(connection)
        connection.execute(update(ROLLOUTS).values(state="passed"))
    assert "the trial 1 of bank@2 is passed" in registry.verify_audit().problem


def test_a_shadow_is_judged_by_its_failures_and_answers_alone(registry: Registry) -> None:
    trial = begin(registry, kind="shadow", terms=replace(TERMS, share=1.0))
    slow = Counts(champion=100, challenger=100, challenger_timed=100, challenger_slow=100)
    assert not rule(trial, slow).reasons
    assert rule(trial, replace(slow, challenger_failed=20)).reasons == ("it failed 20 of 100 requests",)
