"""A registry on a full disk of 16 MB, under a running server: whoever changes something is told so clearly, the
old version goes on answering, and when there is space again everything goes on, with nothing left of what failed.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import registries
import serving
from faults import injected, mistakes
from unit.bundle.made import Made

from luban.errors import RegistryError
from luban.registry import aliases
from luban.registry.store import Registry, open_registry
from luban.stages import access

SIZE = 16 << 20
LEFT = {"nothing": 0, "some": 40_000, "half a bundle": 400_000}
"""Bytes that are free when it is called full."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here, which takes root: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, left: int) -> Path:
    """Fill a disk but for so many bytes, and return what fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - left))
    return filler


def refused(act: Callable[[], object], place: Path) -> list[str]:
    """Do something on a full disk, and return what is wrong with what it says."""
    try:
        act()
    except RegistryError as error:
        said = str(error).lower()
        clear = os.strerror(errno.ENOSPC).lower() in said or "full" in said
        return [] if clear and error.hint and str(place) in str(error) else [f"this is not clear: {error}"]
    except Exception as error:
        return [f"no error of Luban's: {type(error).__name__}: {error}"]
    return ["it was done on a full disk"]


def unfinished(registry: Registry, n_versions: int) -> list[str]:
    """Return what is wrong with a registry that has so many versions."""
    found = []
    versions = registry.versions("bank")
    if len(versions) != n_versions:
        found.append(f"there are {len(versions)} versions, and not {n_versions}")
    for version in versions:
        try:
            registry.evidence(version)
        except Exception as error:
            found.append(f"{version} is listed, and can't be read: {error}")
    if left := {one.name for one in registry.objects.stored()} - {one.object for one in versions}:
        found.append(f"this was left: {left}")
    if (checked := registry.verify_audit()).broken is not None:
        found.append(f"the audit is broken: {checked.problem}")
    return found


@pytest.mark.parametrize("left", LEFT)
def test_the_old_version_answers_and_all_goes_on_when_there_is_space(disk: Path, classify: Made, left: str) -> None:
    place = disk / "registry"
    other = serving.another(classify.folder, disk.parent / "other", 3.0)
    registry = open_registry(str(place), create=True)
    registry.register(classify.folder, name="bank", who="test")
    aliases.promote(registry, "bank@1", who="test", force=True, why="a test")
    secret = access.create_key("shop", ["predict", "read"], registry=str(place), who="test").secret
    headers = {"authorization": f"Bearer {secret}"}
    with serving.served("bank", "--registry", str(place)) as server, httpx.Client(headers=headers) as client:

        def version() -> int:
            told = client.post(f"{server.url}/v1/models/bank/predict", json={"text": "where"}, timeout=20)
            assert told.status_code == 200, told.text
            return int(told.json()["version"])

        filler = fill(disk, LEFT[left])
        wrong = refused(lambda: registry.register(other, name="bank", who="test"), place)
        if not LEFT[left]:
            wrong += refused(lambda: access.create_key("more", ["read"], registry=str(place), who="test"), place)
        assert [version() for _ in range(50)] == [1] * 50
        with serving.served("bank", "--registry", str(place)) as another:
            told = client.post(f"{another.url}/v1/models/bank/predict", json={"text": "where"}, timeout=20)
            wrong += [] if told.status_code == 200 else [f"one that was started on the full disk: {told.text}"]
        assert wrong == []
        filler.unlink()
        assert unfinished(registry, 1) == []
        registry.register(other, name="bank", who="test")
        aliases.promote(registry, "bank@2", who="test", force=True, why="a test")
        server.wait_for("model.swapped")
        assert version() == 2
        assert [one for one in server.events if one["event"] == "text"] == []
    assert unfinished(registry, 2) == []
    registry.close()


MISTAKES = (
    mistakes.failed_copy_passed_over, mistakes.left_aside, mistakes.bare_error, mistakes.error_without_place,
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.__name__)
def test_the_harness_finds_mistakes_made_on_purpose(disk: Path, tmp_path: Path, mistake: mistakes.Mistake) -> None:
    place = disk / "registry"
    first, second = (registries.bundle(tmp_path / str(seed), seed=seed, rows=20, kilobytes=600) for seed in (1, 2))
    registry = open_registry(str(place), create=True)
    registry.register(first, name="bank", who="test")
    registry.close()
    filler = fill(disk, 300_000)

    def act(folder: Path, say: injected.Say) -> None:
        mistake()
        registry = open_registry(str(place))
        wrong = refused(lambda: registry.register(second, name="bank", who="test"), place)
        registry.close()
        if wrong:
            raise AssertionError(wrong)
        say()

    outcome = injected.run(act, tmp_path)
    filler.unlink()
    registry = open_registry(str(place))
    wrong = unfinished(registry, 1)
    registry.close()
    assert not outcome.acknowledged or wrong
