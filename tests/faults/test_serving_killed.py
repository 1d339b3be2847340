"""`kill -9` on serving processes and on their parent, at random, while clients ask: every answer that comes is whole
and right, what died is started again, and no process outlives its parent.

`LUBAN_LOAD=20` kills 200 times; 10 of them the parent.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import serving
from faults.loads import LOAD, Loaded
from unit.bundle.made import Made, texts

import luban

KILLS = 200 if LOAD >= 20 else 2 * LOAD
OF_PARENT = 20 if LOAD >= 20 else 2
"""Every so many kills it is the parent."""
WORKERS = 3 if LOAD > 1 else 2
ASKED = texts(40, seed=3, longest=12)
Right = dict[str, tuple[str, float]]
_PAUSE = threading.Event()


@dataclass
class Asked:
    """What came back to the clients."""

    right: Right
    """A text's label and probability."""
    digest: str
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self, port: int) -> None:
        """Ask one thing after the other; where the connection breaks, on a new one."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for text in itertools.cycle(ASKED):
            if self.stopped.is_set():
                break
            try:
                connection.request("POST", "/v1/models/bank/predict", json.dumps({"text": text}))
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self.counts["lost"] += 1
                _PAUSE.wait(0.05)
                continue
            self.counts[str(answer.status)] += 1
            if answer.status == 200:
                self.check(text, body)
            elif answer.status != 503 or answer.headers["retry-after"] is None:
                self.wrong.append(f"{answer.status}: {body[:200]!r}")
        connection.close()

    def check(self, text: str, body: bytes) -> None:
        """Compare an answer with the right one."""
        told = json.loads(body)
        (one,) = told["predictions"]
        label, score = self.right[text]
        if (one["label"], told["digest"]) != (label, self.digest) or abs(one["score"] - score) > 1e-3:
            self.wrong.append(f"a wrong answer to {text!r}: {one}")


@contextmanager
def clients(port: int, asked: Asked, n: int = 6) -> Iterator[None]:
    threads = [threading.Thread(target=asked.ask, args=(port,)) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        asked.stopped.set()
        for thread in threads:
            thread.join()


class Life:
    """A server with several processes that is started again where all of it dies."""

    def __init__(self, folder: Path, mistake: str) -> None:
        self._folder, self._mistake = folder, mistake
        self._stack = ExitStack()
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, as often as it takes until the port is free again."""
        given = (f"bank={self._folder}", "--workers", str(WORKERS), "--port", str(self.port))
        end = time.monotonic() + 60
        while True:
            try:
                self.server = self._stack.enter_context(serving.served(*given, mistake=self._mistake))
                break
            except AssertionError:
                if time.monotonic() > end:
                    raise
        self.port = self.server.port

    def kill_one(self, chance: random.Random) -> list[str]:
        """Kill a process, and return what is wrong with its successor."""
        pids = [one.pid for one in psutil.Process(self.server.process.pid).children()]
        if not pids:
            return ["no process is left"]
        n_ready = sum(one["event"] == "ready" for one in self.server.events)
        os.kill(chance.choice(pids), signal.SIGKILL)
        try:
            self.server.wait_for("ready", n_ready + 1, 45 if self._mistake == "" else 8)
        except AssertionError:
            return ["a process was not started again"]
        return []

    def kill_parent(self) -> list[str]:
        """Kill the parent, start it again, and return what is wrong."""
        children = psutil.Process(self.server.process.pid).children(recursive=True)
        self.server.process.kill()
        _, left = psutil.wait_procs(children, timeout=30 if self._mistake == "" else 8)
        for one in left:
            one.kill()
        self._stack.close()
        if left:
            return [f"{len(left)} processes outlive their parent"]
        self.start()
        return []

    def close(self) -> None:
        self._stack.close()


def killed(made: Made, n: int, mistake: str = "", parent_every: int = OF_PARENT) -> Loaded:
    """Kill processes while clients ask."""
    engine = luban.load(made.folder)
    right = {text: (str(one.label), one.score) for text, one in zip(ASKED, engine.predict(ASKED), strict=True)}
    asked, chance, wrong = Asked(right, made.bundle.digest), random.Random(7), []
    life = Life(made.folder, mistake)
    try:
        with clients(life.port, asked):
            for number in range(1, n + 1):
                before = asked.counts["200"]
                wrong += life.kill_parent() if number % parent_every == 0 else life.kill_one(chance)
                end = time.monotonic() + (0 if wrong else 30)
                while asked.counts["200"] <= before and time.monotonic() < end:
                    _PAUSE.wait(0.02)
                if asked.counts["200"] <= before and not wrong:
                    wrong.append(f"nobody was answered after kill {number}")
                if wrong or asked.wrong:
                    break
    finally:
        life.close()
    return Loaded(wrong + asked.wrong, {"kills": n, **{name: float(count) for name, count in asked.counts.items()}})


def test_every_answer_is_right_whatever_is_killed(classify: Made) -> None:
    loaded = killed(classify, KILLS)
    print("killed", loaded)
    assert loaded.wrong == []


MISTAKES = {
    "not_started_again": "not started", "answers_of_another": "a wrong answer", "outlives_its_parent": "outlive",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_harness_finds_mistakes_made_on_purpose(classify: Made, mistake: str) -> None:
    loaded = killed(classify, 1, mistake, parent_every=1 if mistake == "outlives_its_parent" else 2)
    assert any(MISTAKES[mistake] in one for one in loaded.wrong), loaded
