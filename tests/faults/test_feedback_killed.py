"""`kill -9` of a server that takes feedback: what was acknowledged is there, once, and a retry adds nothing.

`LUBAN_KILLS=100` kills it 50 times; the suite 3 times.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from serving import served
from unit.bundle.made import LABELS, Made

import luban
from luban.stages import registering
from luban.stages.feedback import list_feedback

KILLS = max(1, int(os.environ.get("LUBAN_KILLS", "6")) // 2)
CLIENTS = 4
BEFORE = 40
"""Posts that are acknowledged before each kill."""
LABEL = LABELS["classify"][0]


@pytest.fixture
def registry(classify: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    place = str(tmp_path / "registry")
    monkeypatch.setenv("LUBAN_REGISTRY", place)
    registering.register(classify.folder, name="bank", registry=place, measure=False, who="test")
    return place


class Crowd:
    """Clients that post one thing after the other until their server is gone, and know what was acknowledged."""

    def __init__(self, url: str, kill: int, acknowledged: dict[str, tuple[str, ...]]) -> None:
        self._url, self._kill, self._acknowledged = url, kill, acknowledged
        self._left = BEFORE
        self.enough = threading.Event()
        self.threads = [threading.Thread(target=self._post, args=(number,)) for number in range(CLIENTS)]

    def _post(self, number: int) -> None:
        with luban.Client(self._url, retries=0, timeout_s=30) as client:
            for place in range(10_000):
                once = f"{self._kill} {number} {place}"
                try:
                    found = client.feedback("bank", luban.Feedback(text=once, label=LABEL), once=once)
                except luban.Unavailable:
                    return
                self._acknowledged[once] = found
                self._left -= 1
                if self._left <= 0:
                    self.enough.set()


def test_what_was_acknowledged_is_there_once_wherever_the_server_was_killed(registry: str) -> None:
    acknowledged: dict[str, tuple[str, ...]] = {}
    for kill in range(KILLS):
        with served("bank@1") as server:
            crowd = Crowd(server.url, kill, acknowledged)
            for one in crowd.threads:
                one.start()
            assert crowd.enough.wait(60)
            server.process.send_signal(signal.SIGKILL)
            for one in crowd.threads:
                one.join()
    kept = list_feedback("bank", registry=registry)
    there = {one.text or "": one.id for one in kept}
    assert len(kept) == len(there), "something is there twice"
    lost = {once for once, ids in acknowledged.items() if there.get(once) != ids[0]}
    assert not lost
    assert len(there) <= len(acknowledged) + CLIENTS * KILLS
    # Those who were left without an answer send it again, and so does one who had one.
    asked = [f"{kill} {number} {sum(one.startswith(f'{kill} {number} ') for one in acknowledged)}"
             for kill in range(KILLS) for number in range(CLIENTS)]  # fmt: skip
    with served("bank@1") as server, luban.Client(server.url) as client:
        for once in (*asked, *list(acknowledged)[-3:]):
            (id,) = client.feedback("bank", luban.Feedback(text=once, label=LABEL), once=once)
            assert there.setdefault(once, id) == id
    assert {one.text: one.id for one in list_feedback("bank", registry=registry)} == there
    assert len(list_feedback("bank", registry=registry)) == len(acknowledged) + CLIENTS * KILLS
