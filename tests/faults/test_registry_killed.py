"""`kill -9` at every flush, copy, rename and commit of register, promote and rollback: nothing acknowledged is lost,
nothing is half visible, and the same command again ends as if nothing had happened.

The harness itself is tried on mistakes made on purpose, each of which it must find.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
import registries
from children import CHILDREN
from faults import mistakes
from sqlalchemy import Connection

from luban import files
from luban.errors import LubanError
from luban.registry import aliases
from luban.registry.store import Registry, open_registry
from luban.store.database import Database, open_database

STEP = 1 if int(os.environ.get("LUBAN_KILLS", "6")) > 6 else 4
"""`LUBAN_KILLS=100` kills at every point; the suite at some, other ones for each database."""
AGAIN = 1 if STEP == 1 else 3
"""After every so many kills everything is done again."""
_HUNG_S = 100


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [registries.bundle(folder / str(seed), seed=seed, rows=60, wrong=0.1, kilobytes=1) for seed in (1, 2)]


def script(place: str, folder: Path, bundles: list[Path], say: Callable[[str], None]) -> None:
    """Do what is to be survived, and acknowledge each change when it has returned."""
    registry = open_registry(place, objects=str(folder / "objects"), create=True)
    for bundle in bundles:
        say(f"version {registry.register(bundle, name='bank', who='ann').version.number}")
    for version in ("bank@1", "bank@2"):
        say(f"champion {aliases.promote(registry, version, who='ann', lose_at_most=1.0).after}")
    say(f"champion {aliases.rollback(registry, 'bank', who='ann', expected=2).after}")


def killed_at(
    point: int, place: str, folder: Path, bundles: list[Path], seed: mistakes.Mistake | None
) -> tuple[list[str], bool]:
    """Run the script in a child that dies at a point; return what it acknowledged, and whether it died."""
    reader, writer = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=_life, args=(point, place, folder, bundles, seed, writer), daemon=True)
    child.start()
    writer.close()
    acknowledged: list[str] = []
    with reader, suppress(EOFError):
        while reader.poll(_HUNG_S):
            acknowledged.append(reader.recv())
    child.join(_HUNG_S)
    if child.exitcode not in (0, -signal.SIGKILL):
        acknowledged.append(f"failed {child.exitcode}")
    return acknowledged, child.exitcode == -signal.SIGKILL


def _life(
    point: int, place: str, folder: Path, bundles: list[Path], seed: mistakes.Mistake | None, heard: Pipe
) -> None:
    """Be the child."""
    _arm(point)
    if seed is not None:
        seed()
    script(place, folder, bundles, heard.send)


def _arm(point: int) -> None:
    """Have this process killed at the n-th of all points: before and after each flush, copy, rename and commit."""
    left = [point]

    def passed() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            passed()
            result = function(*arguments, **more)
            passed()
            return result

        return called

    os.fsync = around(os.fsync)
    files._rename = around(files._rename)
    shutil.copyfile = around(shutil.copyfile)
    writing = Database.writing

    @contextmanager
    def watched(self: Database) -> Iterator[Connection]:
        with writing(self) as connection:
            yield connection
            passed()
        passed()

    Database.writing = watched  # type: ignore[method-assign]


def wrongs(place: str, folder: Path, acknowledged: list[str]) -> list[str]:
    """Return everything that is not as was promised."""
    try:
        registry = open_registry(place, objects=str(folder / "objects"), create=True)
    except LubanError as error:
        return [f"it can't be opened: {error}"]
    try:
        found = _wrongs(registry, acknowledged)
        registry.collect(older_than_s=-1.0)
        found += [f"after collecting: {one}" for one in _wrongs(registry, acknowledged)]
        needed = {one.object for one in registry.versions("bank")} if registry.names() else set()
        if left := {one.name for one in registry.objects.stored()} - needed:
            found.append(f"after collecting, {left} is still there")
        return found
    finally:
        registry.close()


def _wrongs(registry: Registry, acknowledged: list[str]) -> list[str]:
    found = []
    versions = registry.versions("bank") if registry.names() else []
    numbers = [one.number for one in versions]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"the versions are {numbers}")
    for version in versions:
        try:
            if files.verify(registry.bundle(version))["digest"] != version.digest:
                found.append(f"{version} is another bundle")
        except LubanError as error:
            found.append(f"{version} is listed, and can't be used: {error.message}")
    found += [line for line in acknowledged if line.startswith("failed")]
    told = [line.split() for line in acknowledged]
    lost = {int(number) for what, number in told if what == "version"} - set(numbers)
    if lost:
        found.append(f"versions {lost} were acknowledged, and are not there")
    champions = [None, 1, 2, 1]
    done = sum(what == "champion" for what, _ in told)
    now = next((one.number for one in versions if "champion" in one.aliases), None)
    if now not in champions[done : done + 2]:
        found.append(f"the champion is {now} after {done} moves that were acknowledged")
    checked = registry.verify_audit()
    if checked.broken is not None:
        found.append(f"the audit is broken: {checked.problem}")
    return found


def explored(
    tmp_path: Path, places: Callable[[], str], bundles: list[Path], *, first: int = 0, step: int = 1,
    seed: mistakes.Mistake | None = None, stop: bool = False,
) -> tuple[list[str], int]:  # fmt: skip
    """Kill at one point after another until none is left; return all that was wrong, and at how many points it was."""
    found: list[str] = []
    point, n = first, 0
    while True:
        folder, place = tmp_path / str(point), places()
        folder.mkdir()
        acknowledged, died = killed_at(point, place, folder, bundles, seed)
        found += [f"point {point}: {one}" for one in wrongs(place, folder, acknowledged)]
        if not found and died and n % AGAIN == 0:
            again, _ = killed_at(10**9, place, folder, bundles, None)
            if again != ["version 1", "version 2", "champion 1", "champion 2", "champion 1"]:
                found.append(f"point {point}: run again, it acknowledged {again}")
        shutil.rmtree(folder)
        if not died or (stop and found):
            return found, n
        point, n = point + step, n + 1


@pytest.fixture
def places(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], str]:
    made: list[str] = []
    whole = tmp_path / "whole"
    if kind == "sqlite":
        open_database(str(whole), create=True).close()

    def make() -> str:
        made.append("")
        if kind == "sqlite":
            shutil.copytree(whole, tmp_path / f"registry-{len(made)}")
            return str(tmp_path / f"registry-{len(made)}")
        name = f"killed_{os.getpid()}_{len(made)}"
        url = f"postgresql://postgres@/postgres?host={request.getfixturevalue('postgres')}"
        registries.execute(url, [f"CREATE SCHEMA {name}"])
        return f"{url}&options=-csearch_path%3D{name}"

    return make


@pytest.mark.parametrize(("kind", "first", "step"), [("sqlite", 0, STEP), ("postgresql", 2, 4 * STEP - 3)])
def test_nothing_is_lost_wherever_it_is_killed(
    places: Callable[[], str], tmp_path: Path, bundles: list[Path], first: int, step: int
) -> None:
    found, n = explored(tmp_path, places, bundles, first=first, step=step)
    assert found == []
    assert n * step > 40, "the points were not all reached"


FOUND = {
    mistakes.row_before_object: 0,
    mistakes.files_in_place: 0,
    mistakes.audit_in_a_transaction_of_its_own: 20,
    mistakes.number_taken_apart: 20,
}
"""A mistake -> the first point that it is tried at: those before show nothing of it."""


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize(("mistake", "first"), FOUND.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_the_harness_finds_mistakes_made_on_purpose(
    places: Callable[[], str], tmp_path: Path, bundles: list[Path], mistake: mistakes.Mistake, first: int
) -> None:
    found, _ = explored(tmp_path, places, bundles, seed=mistake, stop=True, first=first, step=2)
    assert found
