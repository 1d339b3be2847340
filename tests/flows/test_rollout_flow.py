"""Trials through the command line and a live server: begun, looked at, restarted, promoted, stopped."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import challengers
import httpx
import pytest
import serving
from serving import served
from unit.bundle.made import WORDS, Made

from luban.registry import trials
from luban.registry.store import open_registry
from luban.stages import registering


@pytest.fixture
def registry(classify: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a registry whose versions may all be promoted."""
    place = str(tmp_path / "registry")
    monkeypatch.setenv("LUBAN_REGISTRY", place)
    monkeypatch.setenv("LUBAN_WHO", "ann")
    stated = {"use": "tests", "limits": "many", "licence": "MIT"}
    folders = [classify.folder, *(challengers.good(classify.folder, tmp_path / f"b{n}", n) for n in (1, 2))]
    for folder in folders:
        registering.register(folder, name="bank", registry=place, measure=False, stated=stated, who="test")
    registering.promote("bank@1", registry=place, force=True, why="a test", who="test")
    return place


def some(n: int, start: int = 0) -> Any:
    texts = (f"{WORDS[number % len(WORDS)]} {number}" for number in itertools.count(start))
    return (json.dumps({"text": text}).encode() for text in itertools.islice(texts, n))


def test_the_commands(registry: str, said: Any) -> None:
    assert "nothing is on trial" in said("canary", "--status")
    begun = said("canary", "bank@2", "--share", "0.1", "--by", "header:x-user", "--why", "smaller")
    assert "begun: bank@2 beside bank@champion" in begun and "10.0% of the requests, by header:x-user" in begun
    assert "bank@2 is on trial" in said("canary", "bank@3", exit_code=7)
    assert "bank@2 beside bank@champion as a canary: running" in said("canary", "bank", "--status")
    told = json.loads(said("canary", "--status", "--json").splitlines()[-1])["trials"][0]
    assert told["rollout"]["terms"]["share"] == 0.1 and told["evidence"]["counts"]["challenger"] == 0
    assert "stopped: bank@2  no time" in said("canary", "bank", "--stop", "--why", "no time")
    assert "stopped: bank@2  no time" in said("canary", "bank@2", "--stop")
    assert "canary-end" in said("audit", "list", "bank") and "holds" in said("audit", "verify")
    assert "wanted more than 0 and at most 0.5" in said("canary", "bank@2", "--share", "0.9", exit_code=8)
    assert "name a version" in said("canary", exit_code=2)
    said("canary", "bank@2", "--shadow", "--share", "1")


def test_a_restart_goes_on_where_it_was_and_a_good_one_is_promoted(registry: str, said: Any) -> None:
    said("canary", "bank@2", "--share", "0.5", "--then", "promote", "--minutes", "0.2", "--disagree-at-most", "0.3")
    with served("bank") as server:
        server.wait_for("trial.begun")
        assert serving.flood(server.port, some(400), 4).statuses == {200: 400}
    with served("bank") as server:
        server.wait_for("trial.begun")
        got = serving.flood(server.port, some(300, 400), 4, keep=True)
        assert {body["version"] for body in got.bodies} <= {1, 2}
        ended = server.wait_for("trial.ended", timeout=40)
        assert ended["state"] == "promoted"
        server.wait_for("model.swapped")
        assert {body["version"] for body in serving.flood(server.port, some(20), 2, keep=True).bodies} == {2}
    it = open_registry(registry)
    rollout = trials.rollouts(it, "bank")[-1]
    counts = rollout.evidence["counts"]
    assert 500 < counts["champion"] + counts["challenger"] <= 700, "those of the first server too"
    assert it.version("bank@champion").number == 2 and it.verify_audit().broken is None
    it.close()
    assert "promoted" in said("canary", "bank", "--status")


def test_several_processes_judge_together_and_callers_keep_their_version(registry: str, said: Any) -> None:
    said("canary", "bank@2", "--share", "0.5", "--by", "header:x-user", "--disagree-at-most", "0.3")
    with served("bank", "--workers", "2", "--log-requests", "1") as server:
        server.wait_for("trial.begun", 2)
        with httpx.Client(base_url=server.url) as client:
            versions: dict[str, set[int]] = {}
            for number in range(120):
                user = f"user {number % 12}"
                found = client.post(
                    "/v1/models/bank/predict", json={"text": f"card {number}"},
                    headers={"x-user": user, "x-request-id": f"r{number}", "connection": "close"},
                )  # fmt: skip
                assert found.headers["x-request-id"] == f"r{number}"
                versions.setdefault(user, set()).add(found.json()["version"])
        assert all(len(one) == 1 for one in versions.values()) and len(set.union(*versions.values())) == 2
        line = server.wait_for("request", 120)
        assert line["route"] == "/v1/models/{name}/predict" and "card" not in json.dumps(line)
        said("canary", "bank", "--stop")
        server.wait_for("trial.ended", 2)


def test_a_challenger_that_can_t_be_opened_goes_back_and_the_champion_answers(
    registry: str, classify: Made, tmp_path: Path, said: Any
) -> None:
    broken = challengers.failing(classify.folder, tmp_path / "broken", 9, "a")
    registering.register(broken, name="bank", registry=registry, measure=False, who="test")
    with served("bank") as server:
        said("canary", "bank@4")
        server.wait_for("trial.refused")
        assert serving.flood(server.port, some(20), 2).statuses == {200: 20}
    assert "rolled back" in said("canary", "bank", "--status", exit_code=1)
