"""EIO, ENOSPC and `kill -9` at every write, flush, rename, truncate and unlink of what must lose nothing.

`LUBAN_FAULTS=whole` tries every point, eight minutes alone; the suite tries some of each operation.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import registries
from faults import injected, promises
from faults.mistakes import MISTAKES, Mistake, Shown

WHOLE = os.environ.get("LUBAN_FAULTS") == "whole"
N_POINTS = 6
"""How many points of each operation the suite tries."""
NAMES = (
    "begin", "publish", "promote", "rollback", "key", "revoke", "feedback", "forget", "upgrade", "checkpoint", "state",
)  # fmt: skip
Make = Callable[[str], promises.Tried]


@pytest.fixture(scope="module")
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    injected.want_strace()
    folder = tmp_path_factory.mktemp("faults")
    bundles = [registries.bundle(folder / f"bundle-{seed}", seed=seed, rows=20, kilobytes=1) for seed in (1, 2)]
    operations = promises.of_registries(bundles)
    made: dict[str, promises.Tried] = {}

    def of(name: str) -> promises.Tried:
        if name not in operations:  # late, so that what is forked until then is small
            base = request.getfixturevalue("tiny")
            operations.update(promises.of_checkpoints(promises.Checkpoints(base)))
            assert tuple(operations) == NAMES
        if name not in made:
            made[name] = promises.Tried(operations[name], folder / name)
        return made[name]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_whatever_call_fails(tried: Make, name: str) -> None:
    operation = tried(name)
    points = list(injected.faults(operation.whole.trace))
    n_all = len(points)
    if not WHOLE:
        points = random.Random(name).sample(points, N_POINTS)
    wrong, missed = operation.wrongs(None)[0], []
    for fault in points:
        found, outcome = operation.wrongs(fault)
        wrong += [f"{fault}: {one}" for one in found]
        missed += [] if outcome.is_touched else [str(fault)]
    print(f"{name}: {len(points)} of {n_all} points")
    assert wrong == []
    assert missed == [], "these faults were not met"
    for call in {fault.call for fault in points} if WHOLE else ():
        n = max(fault.n for fault in points if fault.call == call)
        assert not operation.wrongs(injected.Fault(call, n + 1, "EIO"))[1].is_touched, "there are more points"


@pytest.mark.parametrize(("mistake", "shown"), MISTAKES.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_the_harness_finds_mistakes_made_on_purpose(tried: Make, mistake: Mistake, shown: Shown) -> None:
    operation = tried(shown.operation)
    whole = operation.operation.act

    def act(folder: Path, say: injected.Say) -> None:
        mistake()
        whole(folder, say)

    found, outcome = operation.wrongs(None, act)
    if not shown.call:
        assert found != []
        return
    assert found == [], "it shows without a fault"
    points = [one for one in injected.faults(outcome.trace) if (one.call, one.error) == (shown.call, shown.error)]
    assert any(operation.wrongs(fault, act)[0] for fault in points), "it was not found"
