"""Bad and good versions as canaries of a server that answers a steady stream of requests.

`LUBAN_CANARIES=10` tries ten bad ones and ten good ones, as `make faults` does.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import challengers
import pytest
import serving
from serving import served
from unit.bundle.made import WORDS, Made

from luban.stages import registering, trying

N = int(os.environ.get("LUBAN_CANARIES", "1"))
SHARE = 0.05
BACK_S = 30.0
GOOD_S = 6.0 if N == 1 else 20.0
CLIENTS = 4
BAD: dict[str, Callable[..., Path]] = {
    "wrong": challengers.wrong, "slow": challengers.slow, "failing": challengers.failing,
}  # fmt: skip
TRIED = [list(BAD)[number % 3] for number in range(max(3, N))]


@pytest.fixture(scope="module")
def registry(classify: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("rollout")
    there = str(place / "registry")
    kinds = [*TRIED, *["good"] * N]
    makers = {**BAD, "good": challengers.good}
    folders = [makers[kind](classify.folder, place / f"{kind}{n}", n) for n, kind in enumerate(kinds)]
    for folder in (classify.folder, *folders):
        registering.register(folder, name="bank", registry=there, measure=False, who="test")
    registering.promote("bank@1", registry=there, force=True, why="a test", who="test")
    return there


@pytest.fixture(scope="module")
def server(registry: str) -> Iterator[serving.Server]:
    with served("bank", "--registry", registry) as server:
        yield server


def bodies() -> Iterator[bytes]:
    """Yield requests of different texts."""
    for number in itertools.count():
        text = f"{WORDS[number % len(WORDS)]} {challengers.TRIGGER} {number}"
        yield json.dumps({"text": text}).encode()


def tried(server: serving.Server, registry: str, number: int, lasts_s: float) -> tuple[serving.Got, float, str]:
    """Try a version while clients ask, and return what they got, how long it was on trial, and how it ended."""
    n_begun = sum(one["event"] == "trial.begun" for one in server.events)
    n_ended = sum(one["event"] == "trial.ended" for one in server.events)
    seen: list[float | str] = []

    def meanwhile(crowd: serving.Crowd) -> None:
        try:
            trying.begin(f"bank@{number}", share=SHARE, minutes=30, disagree_at_most=0.1, registry=registry, who="test")
            server.wait_for("trial.begun", n_begun + 1)
            begun = time.monotonic()
            try:
                ended = server.wait_for("trial.ended", n_ended + 1, lasts_s)
            except AssertionError:
                trying.stop("bank", registry=registry, why="it was good enough", who="test")
                ended = server.wait_for("trial.ended", n_ended + 1)
            seen.extend([time.monotonic() - begun, ended["state"]])
        finally:
            crowd.stopped = True

    got = serving.flood(server.port, bodies(), CLIENTS, keep=True, meanwhile=meanwhile)
    lasted, state = seen
    assert isinstance(lasted, float) and isinstance(state, str)
    return got, lasted, state


@pytest.mark.parametrize("number", range(len(TRIED)), ids=[f"{kind}-{n}" for n, kind in enumerate(TRIED)])
def test_a_bad_one_goes_back_soon_and_harms_nobody(server: serving.Server, registry: str, number: int) -> None:
    got, lasted, state = tried(server, registry, number + 2, BACK_S)
    answers = [body["version"] for body in got.bodies]
    print(json.dumps({"kind": TRIED[number], "seconds": round(lasted, 2), "requests": len(answers),
                      "share": round(answers.count(number + 2) / len(answers), 4)}))  # fmt: skip
    assert state == "rolled_back"
    assert lasted <= BACK_S
    assert set(got.statuses) == {200} and not got.lost, "what a challenger fails, the champion answers"
    assert answers.count(number + 2) <= 1.5 * SHARE * len(answers) + 3
    ended = trying.status("bank", registry=registry)[-1].rollout
    assert {"wrong": "otherwise", "slow": "percentile", "failing": "failed"}[TRIED[number]] in ended.reason


@pytest.mark.parametrize("number", range(N))
def test_a_good_one_stays(server: serving.Server, registry: str, number: int) -> None:
    version = len(TRIED) + 2 + number
    got, _, state = tried(server, registry, version, GOOD_S)
    answers = [body["version"] for body in got.bodies]
    assert state == "stopped", trying.status("bank", registry=registry)[-1].rollout.reason
    assert set(answers) == {1, version} and set(got.statuses) == {200} and not got.lost


def test_the_audit_has_every_end_with_its_evidence(server: serving.Server, registry: str) -> None:
    entries = [one for one in registering.audit_list("bank", registry=registry) if one.action == "canary-end"]
    assert entries, "the tests before this one"
    assert all(one.facts["evidence"]["counts"]["challenger"] for one in entries)
    assert registering.audit_verify(registry=registry).broken is None
