"""What is promised of feedback that was kept, held by SQLite and PostgreSQL alike."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import registries

from luban.errors import BadRequest, Conflict
from luban.registry import aliases, audit, feedback, trials
from luban.registry.feedback import Post, Said, Which
from luban.registry.store import Registry, open_registry
from luban.registry.trial import Terms
from luban.store.database import Database, open_database

WHO = "ann@shop"
ROW = Said(model="bank", version=1, text="where is my card", truth={"label": "card"}, source="user-7")


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(place: str) -> Iterator[Database]:
    opened = open_database(place, create=True)
    yield opened
    opened.close()


def post(*rows: Said, once: str = "", digest: str = "d", caller: str = "shop", tenant: str = "north") -> Post:
    return Post(caller=caller, tenant=tenant, rows=rows or (ROW,), once=once, digest=digest)


def ids(found: list[tuple[str, ...] | Conflict]) -> list[str]:
    assert not any(isinstance(one, Conflict) for one in found)
    return [id for one in found if not isinstance(one, Conflict) for id in one]


def test_what_was_kept_is_there_as_it_was_said(database: Database) -> None:
    spans = {"spans": [{"start": 0, "end": 2, "label": "地点"}]}
    rows = (
        ROW,
        Said(model="bank", version=2, answer="ab", rollout=3, unit="cd", wrong=True, said={"label": None}),
        Said(model="ner", text="北京", truth=spans, comment="嗯", masked=False),
    )
    made = ids(feedback.add(database, [post(*rows)]))
    found = feedback.listed(database)
    assert [one.id for one in found] == made and len(set(made)) == 3
    for kept, said in zip(found, rows, strict=True):
        assert {name: getattr(kept, name) for name in vars(said)} == vars(said)
        assert (kept.caller, kept.tenant, kept.state) == ("shop", "north", "quarantined")
    assert list(feedback.each(database)) == found
    assert feedback.listed(database, last=1) == found[-1:]


def test_a_post_that_is_sent_again_adds_nothing(database: Database) -> None:
    first = feedback.add(database, [post(ROW, ROW, once="k")])
    again = post(ROW, ROW, once="k")
    assert feedback.add(database, [again, again]) == first * 2
    assert [one.id for one in feedback.listed(database)] == ids(first)
    (refused,) = feedback.add(database, [post(once="k", digest="e")])
    assert isinstance(refused, Conflict) and "`once`" in refused.message
    assert len(ids(feedback.add(database, [post(once="k", caller="van"), post(), post()]))) == 3
    assert len(feedback.listed(database)) == 5


def test_one_conflict_does_not_keep_the_others_from_being_kept(database: Database) -> None:
    feedback.add(database, [post(once="k")])
    good, bad, better = feedback.add(database, [post(once="a"), post(once="k", digest="e"), post(once="b")])
    assert isinstance(bad, Conflict) and not isinstance(good, Conflict) and not isinstance(better, Conflict)
    assert [one.id for one in feedback.listed(database)][1:] == [*good, *better]


def test_what_was_deleted_is_not_kept_again_by_a_late_retry(database: Database) -> None:
    first = feedback.add(database, [post(once="k")])
    assert feedback.remove(database, Which(source="user-7"), who=WHO) == 1
    assert feedback.add(database, [post(once="k")]) == first
    assert feedback.listed(database) == []


def test_deletion_takes_what_is_meant_and_the_audit_knows_without_a_name(database: Database) -> None:
    key = feedback.secret(database)
    assert feedback.secret(database) == key and len(key) == 32
    hidden = replace(ROW, source=feedback.pseudonym(key, "user-7"))
    feedback.add(database, [post(ROW, hidden, replace(ROW, source="user-8"), replace(ROW, model="faq"))])
    feedback.add(database, [post(ROW, caller="van", tenant="south")])
    assert [one.source for one in feedback.listed(database, Which(source="user-7", model="bank", tenant="north"))] == [
        "user-7", hidden.source,
    ]  # fmt: skip
    assert feedback.remove(database, Which(source="user-7", model="bank"), who=WHO, why="asked to") == 3
    assert feedback.remove(database, Which(source="user-7", model="bank"), who=WHO) == 0
    assert feedback.remove(database, Which(caller="van"), who=WHO) == 0
    assert {(one.model, one.source) for one in feedback.listed(database)} == {("bank", "user-8"), ("faq", "user-7")}
    with pytest.raises(BadRequest, match="nothing says"):
        feedback.remove(database, Which(), who=WHO)
    with database.reading() as connection:
        (entry,) = audit.entries(connection)
        assert audit.verify(connection).broken is None
    assert (entry.action, entry.subject, entry.facts["rows"]) == ("feedback-delete", "feedback:bank", 3)
    assert "user-7" not in str(entry) and entry.facts["why"] == "asked to"


def test_deleted_texts_are_not_left_in_the_file_of_sqlite(tmp_path: Path) -> None:
    database = open_database(str(tmp_path), create=True)
    feedback.add(database, [post(replace(ROW, text=f"unforgettable {number} " * 20)) for number in range(50)])
    feedback.remove(database, Which(model="bank"), who=WHO)
    database.close()  # the last connection writes the log into the file
    assert not (tmp_path / "registry.db-wal").exists()
    assert b"unforgettable" not in (tmp_path / "registry.db").read_bytes()


def test_what_is_over_counts_as_gone_and_then_goes(database: Database) -> None:
    past, to_come = feedback.later(audit.now(), -1), feedback.later(audit.now(), 1)
    feedback.add(database, [post(replace(ROW, until=past), replace(ROW, until=to_come), ROW)])
    assert len(feedback.listed(database)) == len(list(feedback.each(database))) == 2
    assert [feedback.expire(database), feedback.expire(database)] == [1, 0]
    assert len(feedback.listed(database)) == 2
    assert feedback.remove(database, Which(before=feedback.later(audit.now(), 1)), who=WHO) == 2


def _writer(place: str, number: int, n_posts: int) -> None:
    database = open_database(place)
    for once in range(n_posts):
        # Every post is sent by two of the writers, in orders of their own.
        shared = (once * (1 if number % 2 else 7)) % n_posts
        feedback.add(database, [post(once=f"{number // 2} {shared}"), post(once=f"{number // 2} {n_posts - shared}")])
    database.close()


def test_writers_at_once_keep_each_post_once(database: Database, place: str) -> None:
    n_posts = 15  # the numbers 7 and 15 have no common divisor: each goes through all of them
    writers = [threading.Thread(target=_writer, args=(place, number, n_posts)) for number in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(feedback.listed(database)) == 2 * (n_posts + 1)


@pytest.fixture
def registry(place: str, tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(place, objects=str(tmp_path / "objects"), create=True)
    for seed in (1, 2):
        bundle = registries.bundle(tmp_path / str(seed), seed=seed, wrong=0.05, rows=60, kilobytes=1)
        opened.register(bundle, name="bank", who=WHO)
    aliases.promote(opened, "bank@1", who=WHO, force=True, why="a test")
    yield opened
    opened.close()


def told(registry: Registry, *, wrong: tuple[float, float], share: float, n: int, right_too: bool = True) -> None:
    """Have n answers in the trial told of; `wrong` are the rates of champion and challenger."""
    chance, rows = random.Random(5), []
    for number in range(n):
        arm = chance.random() < share
        is_wrong = chance.random() < wrong[arm]
        if is_wrong or right_too:
            rows.append(Said(model="bank", version=1 + arm, rollout=1, unit=f"{number}", answer=f"{number}",
                             wrong=is_wrong))  # fmt: skip
    feedback.add(registry.database, [post(*rows)])


@pytest.mark.parametrize("right_too", [True, False], ids=["all is told", "what is wrong is told"])
def test_a_canary_with_worse_answers_goes_back(registry: Registry, right_too: bool) -> None:
    trial = trials.begin(registry, "bank@2", Terms(share=0.3), who=WHO)
    told(registry, wrong=(0.08, 0.3), share=0.3, n=1500, right_too=right_too)
    ended = trials.judge(registry, trial, now=audit.now(), who="a server")
    assert ended.state == "rolled_back" and ended.reason.startswith("feedback says that ")
    assert "1.2 times the champion's rate is allowed" in ended.reason
    counts = ended.evidence["counts"]
    assert counts["challenger_wrong"] > 100 and counts["challenger_labelled"] >= counts["challenger_wrong"]
    assert ended.evidence["log_evidence"]["wrong"] >= ended.evidence["sure_from"]
    assert registry.verify_audit().broken is None


def test_one_as_good_stays_and_other_feedback_says_nothing(registry: Registry) -> None:
    trial = trials.begin(registry, "bank@2", Terms(share=0.3), who=WHO)
    told(registry, wrong=(0.15, 0.15), share=0.3, n=1500)
    unknown = [replace(ROW, version=2, rollout=1, unit=f"u{number}") for number in range(100)]
    elsewhere = [replace(ROW, version=2, wrong=True, answer=f"e{number}") for number in range(100)]
    feedback.add(registry.database, [post(*unknown, *elsewhere)])
    assert trials.judge(registry, trial, now=audit.now(), who="a server").state == "running"
    counts = trials.counted(registry, trial)
    assert counts.champion_labelled + counts.challenger_labelled == 1500
    assert 0 < counts.challenger_wrong < counts.champion_wrong


def test_what_was_decided_once_counts_once(registry: Registry) -> None:
    trial = trials.begin(registry, "bank@2", Terms(share=0.3, by="key"), who=WHO)
    rows = [Said(model="bank", version=2, rollout=1, unit="one caller", wrong=number > 0) for number in range(200)]
    feedback.add(registry.database, [post(*rows), post(*rows)])
    counts = trials.counted(registry, trial)
    assert (counts.challenger_labelled, counts.challenger_wrong) == (1, 1)
    assert trials.judge(registry, trial, now=audit.now(), who="a server").state == "running"


def test_terms_allow_no_fewer_errors_than_the_champion_s(registry: Registry) -> None:
    with pytest.raises(BadRequest, match="errs_at_most"):
        trials.begin(registry, "bank@2", Terms(share=0.3, errs_at_most=0.9), who=WHO)
