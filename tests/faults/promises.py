"""Operations that must lose nothing, and what is looked at after a fault in one of them.

What can be seen after a fault is what could be seen before the operation, or all of what can be seen after it; where it
was acknowledged, only the latter. Then the operation is done again, and must end as if nothing had happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.injected import Act, Fault, Outcome, Say, at_risk, run

from luban import files
from luban.errors import LubanError, NotFound
from luban.registry import aliases, feedback
from luban.registry.store import open_registry
from luban.serve import keys
from luban.store import database as databases

REGISTRY = "registry"
ROWS = 2
"""Remarks of a post."""


class BrokenPromiseError(Exception):
    """What can be seen is not whole."""


@dataclass(frozen=True)
class Operation:
    """Something that is done to a folder, whole or not at all."""

    prepare: Callable[[Path], None]
    """Makes the folder as it is before."""
    act: Act
    """Does it, and tells when it would be acknowledged; what comes after that must not undo it."""
    seen: Callable[[Path], Any]
    """Returns all that can be seen, equal where nothing differs that matters; raises where something is not whole."""
    swept: Callable[[Path], list[str]] = lambda folder: []
    """Clears up as is done an hour later, and returns what is wrong then."""


class Tried:
    """An operation with its folder before it, and what can be seen before and after it."""

    def __init__(self, operation: Operation, folder: Path) -> None:
        self.operation = operation
        self._folder = folder
        self._before = folder / "before"
        self._before.mkdir(parents=True)
        operation.prepare(self._before)
        self._n = 0
        self.before = operation.seen(self._copy())
        place = self._copy()
        self.whole = run(operation.act, place, log=folder / "log")
        self.after = operation.seen(place)
        assert self.whole.acknowledged, self.whole.error
        assert self.before != self.after

    def wrongs(self, fault: Fault | None, act: Act | None = None) -> tuple[list[str], Outcome]:
        """Do it with a fault; return all that is wrong after it, and what it said.

        Args:
            fault: what happens to it; None for nothing.
            act: does it instead, with a mistake in it.
        """
        place = self._copy()
        there = {str(path) for path in place.rglob("*")}
        outcome = run(act or self.operation.act, place, fault=fault, log=self._folder / "log")
        found = self._said(fault, outcome, place)
        if outcome.acknowledged:
            found += at_risk(outcome.trace, place, there)
        elif fault is not None and fault.error != "KILL" and fault.call not in ("unlink", "unlinkat", "rmdir"):
            found += [f"{path.name} was left aside" for path in place.rglob(".aside-*") if not _is_whole(path)]
        try:
            found += self._looked_at(outcome, place, act)
        except (LubanError, BrokenPromiseError, OSError) as error:
            found.append(f"what is there is not whole: {error}")
        shutil.rmtree(place)
        return found, outcome

    def _said(self, fault: Fault | None, outcome: Outcome, place: Path) -> list[str]:
        if outcome.error and not outcome.is_told:
            return [f"it raised {outcome.error}"]
        if outcome.error and str(place) not in outcome.error:
            return [f"the error does not say where: {outcome.error}"]
        if outcome.status not in (0, 1) and not (fault is not None and fault.error == "KILL" and outcome.is_touched):
            return [f"it ended with {outcome.status}"]
        if outcome.status == 0 and not outcome.acknowledged:
            return ["it neither failed nor succeeded"]
        return []

    def _looked_at(self, outcome: Outcome, place: Path, act: Act | None) -> list[str]:
        operation = self.operation
        seen = operation.seen(place)
        if outcome.acknowledged and seen != self.after:
            return [f"it was acknowledged, and there is {seen}"]
        if seen not in (self.before, self.after):
            return [f"half of it can be seen: {seen}"]
        found = operation.swept(place)
        again = run(act or operation.act, place)
        if not again.acknowledged and not (seen == self.after and again.error.startswith("Conflict")):
            found.append(f"done again, it fails: {again.error or again.status}")
        elif (last := operation.seen(place)) != self.after:
            found.append(f"done again, there is {last}")
        return found

    def _copy(self) -> Path:
        self._n += 1
        place = self._folder / str(self._n)
        shutil.copytree(self._before, place)
        return place


def _is_whole(aside: Path) -> bool:
    """Tell whether it is what was replaced: were the rename undone, it would be needed."""
    try:
        files.verify(aside)
    except LubanError:
        return False
    return True


def registry_seen(folder: Path) -> Any:
    """Return all that a registry shows, having verified all of it."""
    place = folder / REGISTRY
    try:
        registry = open_registry(str(place))
    except NotFound:
        return "no registry"
    except LubanError as error:
        if "has schema 0001" not in error.message:
            raise
        return "an older schema"
    try:
        models = {
            name: [(one.number, one.digest, one.aliases) for one in registry.versions(name)]
            for name in registry.names()
        }
        for name in models:
            for version in registry.versions(name):
                if files.verify(registry.bundle(version))["digest"] != version.digest:
                    raise BrokenPromiseError(f"{version} is another bundle")
        for path in (place / "objects").glob("[!.]*"):
            if (path / files.MANIFEST).exists():
                files.verify(path)
        checked = registry.verify_audit()
        if checked.broken is not None:
            raise BrokenPromiseError(f"the audit is broken: {checked.problem}")
        moves = [(one.kind, one.before, one.after) for name in models for one in aliases.moves(registry, name)]
        callers = [(key.name, len(key.secrets), key.revoked is not None) for key in keys.listed(registry.database)]
        told = [(one.text, one.caller, one.source) for one in feedback.listed(registry.database)]
        if len(told) % ROWS:
            raise BrokenPromiseError(f"half of what was said at once is there: {told}")
        changes = [(entry.action, entry.subject) for entry in registry.entries()]
        if not changes and not told:
            return "no registry"  # an empty one is as good as none
        return {"models": models, "moves": moves, "keys": callers, "changes": changes, "feedback": told}
    finally:
        registry.close()


def registry_swept(folder: Path) -> list[str]:
    """Collect, and return what is missing or left over among the objects."""
    try:
        registry = open_registry(str(folder / REGISTRY))
    except LubanError:
        return []
    try:
        registry.collect(older_than_s=-1.0)
        needed = {one.object for name in registry.names() for one in registry.versions(name)}
        there = {one.name for one in registry.objects.stored()}
        return [f"after collecting, there is {there}, and needed is {needed}"] if there != needed else []
    finally:
        registry.close()


def of_registries(bundles: list[Path]) -> dict[str, Operation]:
    """Return what is done to registries, by name; `bundles` are two sealed folders."""

    def prepared(folder: Path) -> None:
        registry = open_registry(str(folder / REGISTRY), create=True)
        registry.register(bundles[0], name="bank", who="ann")
        registry.close()

    def moved(folder: Path) -> None:
        registry = open_registry(str(folder / REGISTRY), create=True)
        for bundle in bundles:
            registry.register(bundle, name="bank", who="ann")
        for number in (1, 2, 1):
            aliases.promote(registry, f"bank@{number}", who="ann", lose_at_most=1.0)
        keys.create(registry.database, "shop", ["client"], who="ann")
        feedback.add(registry.database, [said(0)])
        registry.close()

    def of_registry(do: Callable[[Any], Any], prepare: Callable[[Path], None], create: bool = False) -> Operation:
        def act(folder: Path, say: Say) -> None:
            registry = open_registry(str(folder / REGISTRY), create=create)
            try:
                do(registry)
                say()
            finally:
                registry.close()

        return Operation(prepare, act, registry_seen, registry_swept)

    def upgrade(folder: Path, say: Say) -> None:
        databases.upgrade(str(folder / REGISTRY))
        say()

    return {
        "begin": of_registry(lambda one: one.register(bundles[0], name="bank", who="ann"), lambda folder: None, True),
        "publish": of_registry(lambda one: one.register(bundles[1], name="bank", who="ann"), prepared),
        "promote": of_registry(lambda one: aliases.promote(one, "bank@2", who="ann", lose_at_most=1.0), moved),
        "rollback": of_registry(lambda one: aliases.rollback(one, "bank", who="ann", expected=1), moved),
        "key": of_registry(lambda one: keys.create(one.database, "van", ["client"], who="ann"), moved),
        "revoke": of_registry(lambda one: keys.revoke(one.database, "shop", who="ann"), moved),
        "feedback": of_registry(say_twice, moved),
        "forget": of_registry(
            lambda one: feedback.remove(one.database, feedback.Which(source="user 0"), who="ann"), moved
        ),
        "upgrade": Operation(lambda folder: older(folder / REGISTRY), upgrade, registry_seen),
    }


def said(number: int) -> feedback.Post:
    """Return what a caller says at once."""
    row = feedback.Said(model="bank", version=1, text=f"text {number}", wrong=True, source=f"user {number}")
    return feedback.Post(caller="shop", tenant="north", rows=(row,) * ROWS, once=f"once {number}", digest="d")


def say_twice(registry: Any) -> None:
    """Keep two posts, one of which was kept before.

    Raises:
        BrokenPromiseError: that one was kept again.
    """
    found = feedback.add(registry.database, [said(0), said(1)])
    there = {one.id for one in feedback.listed(registry.database, feedback.Which(source="user 0"))}
    if set(found[0]) != there:
        raise BrokenPromiseError("a post that was sent again has other ids")


def of_checkpoints(checkpoints: Checkpoints) -> dict[str, Operation]:
    """Return what is done to folders of checkpoints, by name."""
    return {
        "checkpoint": Operation(
            lambda folder: checkpoints.save(folder, 0),
            lambda folder, say: (checkpoints.save(folder, 1), say())[1],
            checkpoints.seen,
        ),
        "state": Operation(
            lambda folder: checkpoints.save_state(folder, 0),
            lambda folder, say: (checkpoints.save_state(folder, 1), say())[1],
            checkpoints.state_seen,
        ),
    }


def older(place: Path) -> None:
    """Make a registry as the first released schema has it."""
    from alembic import command

    whole = command.upgrade
    command.upgrade = lambda config, _: whole(config, "0001")
    try:
        databases.open_database(str(place), create=True).close()
    finally:
        command.upgrade = whole


class Checkpoints:
    """A model over a base, which is saved at one moment and at a later one."""

    def __init__(self, base: Any) -> None:
        import torch

        from luban.models import body as bodies
        from luban.models.checkpoint import Parts
        from luban.models.heads import TaskModel
        from luban.models.processor import Processor, ProcessorSettings
        from luban.tasks import make as make_task

        torch.manual_seed(0)
        task = make_task("classify", {}, ["bad", "good"])
        body = bodies.load_body(base, 0.0)
        self.model = TaskModel(body, task.head(body.config.hidden_size, dropout=0.0, pooling="mean"))
        processor = Processor(ProcessorSettings(max_length=32), (base.folder / "tokenizer.json").read_text("utf-8"))
        facts = {"kind": "classify", "options": {}, "labels": ["bad", "good"], "facts": {}}
        self.parts = Parts(facts, base.facts, processor)
        self.optimizer = torch.optim.SGD(self.model.head.parameters(), lr=0.1, momentum=0.9)
        for parameter in self.model.body.parameters():
            parameter.requires_grad_(False)

    def _at(self, moment: int) -> None:
        import torch

        with torch.no_grad():
            for parameter in self.model.head.parameters():
                parameter.fill_(float(moment))
                self.optimizer.state[parameter]["momentum_buffer"] = parameter.detach().clone()

    def save(self, folder: Path, moment: int) -> None:
        """Save it as a checkpoint, in place of the one before."""
        from luban.models import checkpoint

        self._at(moment)
        checkpoint.save(self.model, self.parts, folder / "checkpoint")

    def seen(self, folder: Path) -> Any:
        """Return the digest of the checkpoint."""
        return files.verify(folder / "checkpoint")["digest"]

    def save_state(self, folder: Path, moment: int) -> None:
        """Save it as a state, from which training goes on."""
        from luban.train import resume

        self._at(moment)
        resume.save(folder / "states", resume.Place(moment + 1), self.model, self.optimizer, None, "plan")

    def state_seen(self, folder: Path) -> Any:
        """Return the place and the digest of the state that training goes on from."""
        from luban.train import resume

        newest = resume.newest(folder / "states", "plan")
        if newest is None:
            raise BrokenPromiseError("there is no state to go on from")
        place = resume.load(newest, self.model, self.optimizer, None)
        head = [float(parameter.detach().mean()) for parameter in self.model.head.parameters()]
        return place.step, files.verify(newest)["digest"], head
