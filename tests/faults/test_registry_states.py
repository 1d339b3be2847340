"""Any order of registering, promoting, rolling back, keys, feedback that comes again, and crashes, beside a model.

`LUBAN_FUZZ=2000` makes two thousand runs; the suite a few.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import registries
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from luban import files
from luban.errors import Conflict, CorruptBundle, NotFound
from luban.registry import aliases, feedback
from luban.registry.feedback import Post, Said, Which
from luban.registry.store import open_registry
from luban.serve import keys

RUNS = int(os.environ.get("LUBAN_FUZZ") or 12)
NAMES = st.sampled_from(["bank", "shop"])
ONCE = st.sampled_from(["a", "b", "c", "d"])
SOURCES = st.sampled_from(["user 1", "user 2"])
CALLERS = st.sampled_from(["van", "desk"])
N_BUNDLES = 4


class Machine(RuleBasedStateMachine):
    """The registry, and what it should hold."""

    folders: tuple[Path, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="luban-states-"))
        self.registry = open_registry(str(self.folder), create=True)
        self.versions: dict[str, list[int]] = {}
        """Name -> the bundle of each version, in their order."""
        self.stacks: dict[str, list[int]] = {}
        self.callers: dict[str, int] = {}
        """Name of a key -> how many secrets open something; 0 where it was revoked."""
        self.said: dict[str, str] = {}
        """Key of a post -> the source of its rows."""
        self.ids: dict[str, tuple[str, ...]] = {}
        """Key of a post -> the ids that it was given, though its rows may be gone."""
        self.n_changes = 0

    @rule(name=NAMES, bundle=st.integers(0, N_BUNDLES - 1))
    def register(self, name: str, bundle: int) -> None:
        found = self.registry.register(self.folders[bundle], name=name, who="ann")
        known = self.versions.setdefault(name, [])
        assert found.is_new == (bundle not in known)
        if found.is_new:
            known.append(bundle)
            self.n_changes += 1
        assert found.version.number == known.index(bundle) + 1

    @rule(name=NAMES, bundle=st.integers(0, N_BUNDLES - 1))
    def register_damaged(self, name: str, bundle: int) -> None:
        folder = self.folder / "damaged"
        shutil.copytree(self.folders[bundle], folder)
        (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
        with pytest.raises(CorruptBundle, match=r"model\.onnx"):
            self.registry.register(folder, name=name, who="ann")
        shutil.rmtree(folder)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.versions)))
        number = data.draw(st.integers(1, len(self.versions[name])))
        move = aliases.promote(self.registry, f"{name}@{number}", who="ann", lose_at_most=1.0)
        stack = self.stacks.setdefault(name, [])
        assert move.changed == (stack[-1:] != [number])
        if move.changed:
            stack.append(number)
            self.n_changes += 1

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), times=st.integers(1, 2))
    def rollback(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.versions)))
        stack = self.stacks.get(name, [])
        if len(stack) < 2:
            with pytest.raises(NotFound):
                aliases.rollback(self.registry, name, who="ann")
            return
        top = stack.pop()
        self.n_changes += 1
        for again in range(times):
            # One who was told "timeout" asks again.
            move = aliases.rollback(self.registry, name, who="ann", expected=top)
            assert (move.after, move.changed) == (stack[-1], again == 0)

    @rule(name=CALLERS)
    def make_key(self, name: str) -> None:
        if name in self.callers:
            with pytest.raises(Conflict, match=name):
                keys.create(self.registry.database, name, ["client"], who="ann")
            return
        keys.create(self.registry.database, name, ["client"], who="ann")
        self.callers[name] = 1
        self.n_changes += 1

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), grace_s=st.sampled_from([0.0, 3600.0]))
    def rotate_key(self, data: st.DataObject, grace_s: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.callers)))
        n_live = self.callers[name]
        if n_live == 0 or (n_live == keys.MAX_LIVE and grace_s):
            with pytest.raises(Conflict, match=name):
                keys.rotate(self.registry.database, name, who="ann", grace_s=grace_s)
            return
        keys.rotate(self.registry.database, name, who="ann", grace_s=grace_s)
        self.callers[name] = n_live + 1 if grace_s else 1
        self.n_changes += 1

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), older=st.booleans())
    def revoke_key(self, data: st.DataObject, older: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.callers)))
        n_live = self.callers[name]
        keys.revoke(self.registry.database, name, who="ann", older=older)
        self.callers[name] = min(n_live, 1) if older else 0
        self.n_changes += self.callers[name] != n_live

    @rule(posts=st.lists(st.tuples(ONCE, SOURCES), min_size=1, max_size=4))
    def give_feedback(self, posts: list[tuple[str, str]]) -> None:
        row = Said(model="bank", version=1, text="where is my card", truth={"label": "card"})
        found = feedback.add(self.registry.database, [
            Post(caller="van", tenant="", rows=(replace(row, source=source),) * 2, once=once, digest="d")
            for once, source in posts
        ])  # fmt: skip
        for (once, source), ids in zip(posts, found, strict=True):
            if once not in self.ids:
                assert isinstance(ids, tuple)
                self.ids[once], self.said[once] = ids, source
            assert ids == self.ids[once]

    @rule(source=SOURCES)
    def forget(self, source: str) -> None:
        meant = [once for once, whose in self.said.items() if whose == source]
        n_rows = feedback.remove(self.registry.database, Which(source=source), who="ann")
        assert n_rows == 2 * len(meant)
        for once in meant:
            del self.said[once]
        self.n_changes += n_rows > 0

    @rule()
    def crash_and_reopen(self) -> None:
        # As a killed writer leaves it: a row that was begun, and its files.
        key, _ = self.registry._key("0" * 64)
        (self.folder / "objects" / key).mkdir(parents=True)
        self.registry.close()
        self.registry = open_registry(str(self.folder))
        self.registry.collect(older_than_s=-1.0)

    @invariant()
    def holds(self) -> None:
        assert self.registry.names() == {name: len(known) for name, known in self.versions.items()}
        for name, known in self.versions.items():
            for version, bundle in zip(self.registry.versions(name), known, strict=True):
                assert version.digest == files.read_json(self.folders[bundle] / files.MANIFEST)["digest"]
                assert files.verify(self.registry.bundle(version))["digest"] == version.digest
                assert version.aliases == (("champion",) if self.stacks.get(name, [0])[-1] == version.number else ())
        assert {key.name: len(key.live()) for key in keys.listed(self.registry.database)} == self.callers
        kept = {one.id: one.source for one in feedback.listed(self.registry.database)}
        assert kept == {id: source for once, source in self.said.items() for id in self.ids[once]}
        checked = self.registry.verify_audit()
        assert (checked.n_entries, checked.broken) == (self.n_changes, None)

    def teardown(self) -> None:
        self.registry.close()
        shutil.rmtree(self.folder)


def test_the_registry_is_what_the_model_says(tmp_path: Path) -> None:
    Machine.folders = tuple(
        registries.bundle(tmp_path / str(seed), seed=seed, rows=40, kilobytes=1) for seed in range(N_BUNDLES)
    )
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=RUNS, stateful_step_count=12, deadline=None, derandomize=RUNS <= 12,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
