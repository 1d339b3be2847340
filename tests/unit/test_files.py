"""Durable files: whole or invisible, through failing disks and killed processes; sealed folders that tell of damage."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from luban import files
from luban.errors import Conflict, CorruptBundle, NotFound, RegistryError


def fill(folder: Path, version: int) -> None:
    (folder / "inner").mkdir()
    (folder / "model.safetensors").write_bytes(bytes([version]) * 4000)
    (folder / "inner" / "labels.json").write_text(json.dumps({"version": version}), "utf-8")


def publish(path: Path, version: int) -> str:
    with files.new_folder(path, replace=True) as aside:
        fill(aside, version)
        return files.seal(aside, {"name": "bank", "version": version})


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".aside-"))


class TestJson:
    def test_digest_does_not_depend_on_the_order_of_keys(self) -> None:
        assert files.digest_json({"a": 1, "b": [1, 2]}) == files.digest_json({"b": [1, 2], "a": 1})
        assert files.digest_json({"a": [1, 2]}) != files.digest_json({"a": [2, 1]})

    def test_chinese_stays_readable(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / "a.json", {"标签": "好评"})
        assert "好评" in (tmp_path / "a.json").read_text("utf-8")
        assert files.read_json(tmp_path / "a.json") == {"标签": "好评"}

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"gone\.json"):
            files.read_json(tmp_path / "gone.json")

    @pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b""])
    def test_not_json(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "bad.json").write_bytes(data)
        with pytest.raises(CorruptBundle, match=r"bad\.json"):
            files.read_json(tmp_path / "bad.json")

    def test_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
        (tmp_path / "large.json").write_text("[1, 2, 3, 4, 5]")
        with pytest.raises(CorruptBundle, match="more than 10 bytes"):
            files.read_json(tmp_path / "large.json")

    def test_numbers_that_are_no_json_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            files.write_json(tmp_path / "nan.json", float("nan"))
        assert not list(tmp_path.iterdir())


class TestReplacing:
    def test_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        target = tmp_path / "a.txt"
        files.write_text(target, "old")
        with pytest.raises(RuntimeError), files.replacing(target) as aside:
            aside.write_text("half")
            raise RuntimeError
        assert target.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]

    def test_mode_is_that_of_a_plain_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        files.write_text(tmp_path / "ours", "x")
        assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_makes_the_folders_above(self, tmp_path: Path) -> None:
        files.write_text(tmp_path / "a" / "b" / "c.txt", "x")
        assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


class TestNewFolder:
    def test_refuses_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        with pytest.raises(Conflict, match="taken is there already"), files.new_folder(tmp_path / "taken"):
            pytest.fail("the block must not run")

    def test_one_made_meanwhile_is_kept(self, tmp_path: Path) -> None:
        target = tmp_path / "raced"
        with pytest.raises(Conflict), files.new_folder(target) as aside:
            (aside / "mine").touch()
            target.mkdir()
            (target / "theirs").touch()
        assert [path.name for path in target.iterdir()] == ["theirs"]
        assert not leftovers(tmp_path)

    def test_replaces_even_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("a file")
        publish(tmp_path / "x", 1)
        files.verify(tmp_path / "x")
        assert not leftovers(tmp_path)

    def test_failure_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "x") as aside:
            fill(aside, 1)
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())

    def test_exchanges_where_the_system_can_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(tmp_path / "x", 1)
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
        digest = publish(tmp_path / "x", 2)
        assert files.verify(tmp_path / "x")["digest"] == digest
        assert not leftovers(tmp_path)

    def test_sweep_removes_what_killed_writers_left(self, tmp_path: Path) -> None:
        for name in (".aside-bundle-0123abcd", ".aside-other-0123abcd"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "part").touch()
        (tmp_path / ".aside-report.html-0123abcd").touch()
        files.sweep(tmp_path, "bundle")
        assert leftovers(tmp_path) == [".aside-other-0123abcd", ".aside-report.html-0123abcd"]
        files.sweep(tmp_path)
        assert not leftovers(tmp_path)

    def test_sweep_knows_the_names_that_writers_use(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), files.new_folder(tmp_path / "bundle"):
            files.sweep(tmp_path, "other")
            assert len(leftovers(tmp_path)) == 1
            files.sweep(tmp_path, "bundle")
            assert not leftovers(tmp_path)
        assert not list(tmp_path.iterdir())


class TestOnlyOne:
    def test_another_process_is_refused_until_this_one_is_done(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock"
        script = (
            "import sys, pathlib; from luban import files; from luban.errors import Conflict\n"
            "try:\n    with files.only_one(pathlib.Path(sys.argv[1]), 'the run'): print('mine')\n"
            "except Conflict as error: print(error.message)"
        )

        def other() -> str:
            done = subprocess.run([sys.executable, "-c", script, str(lock)], capture_output=True, text=True, check=True)
            return done.stdout.strip()

        with files.only_one(lock, "the run"):
            assert other() == "another process is at work on the run"
        assert other() == "mine"


class FullDisk:
    """Fails the nth flush to disk with an error, and counts the flushes after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, code: int) -> None:
        self.calls = 0
        real = os.fsync

        def fsync(handle: int) -> None:
            self.calls += 1
            if self.calls == fail_at:
                raise OSError(code, os.strerror(code))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_full_or_broken_disk_at_every_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The old folder or the new one is there and whole; the error is told; a flush that failed is not tried again."""
    n_failed = 0
    for fail_at in range(1, 100):
        target = tmp_path / str(fail_at) / "bundle"
        with monkeypatch.context() as patch:
            old = publish(target, 1)
            disk = FullDisk(patch, fail_at, code)
            try:
                new = publish(target, 2)
            except OSError as error:
                assert error.errno == code
                assert disk.calls == fail_at
                n_failed += 1
                found = files.verify(target)
                assert found["digest"] == old if found["version"] == 1 else found["version"] == 2
                continue
        assert files.verify(target)["digest"] == new
        break
    assert n_failed >= 6, "a file, an inner folder, the folder and its parent at least"


def test_full_disk_before_the_rename_leaves_the_old_one_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(tmp_path / "bundle", 1)
    FullDisk(monkeypatch, 1, errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "bundle", 2)
    assert files.verify(tmp_path / "bundle")["digest"] == old
    assert not leftovers(tmp_path)


KILLED = """
import os, pathlib, signal, sys
from luban import files

folder, way = pathlib.Path(sys.argv[1]), sys.argv[2]

def deadly(real, kill_at):
    def call(*args, **kwargs):
        die(kill_at)
        result = real(*args, **kwargs)
        die(kill_at)
        return result
    return call

calls = 0

def die(kill_at):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def careless(path, version):
    (path / "inner").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (path / "inner" / str(number)).write_bytes(bytes([version]) * 4000)
    files.seal(path, {"version": version})

def careful(path, version):
    with files.new_folder(path, replace=True) as aside:
        careless(aside, version)

for kill_at in range(1, 1000):
    target = folder / str(kill_at) / "bundle"
    careful(target, 1)
    child = os.fork()
    if not child:
        for name in ("fsync", "replace", "rename", "mkdir", "unlink", "open", "rmdir"):
            setattr(os, name, deadly(getattr(os, name), kill_at))
        files._rename = deadly(files._rename, kill_at)
        {"careless": careless, "careful": careful}[way](target, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        print(kill_at)
        sys.exit(0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


def killed_everywhere(folder: Path, way: str) -> tuple[int, list[str]]:
    """Kill a writer at each point in turn; return how many points there were, and what was broken afterwards."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), way], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    n_points, broken = int(done.stdout) - 1, []
    for point in range(1, n_points + 2):
        target = folder / str(point) / "bundle"
        try:
            version = files.verify(target)["version"]
        except (CorruptBundle, NotFound) as error:
            broken.append(f"point {point}: {error.message}")
        else:
            if point > n_points and version != 2:
                broken.append(f"version {version} after success was returned")
        files.sweep(target.parent)
        assert not leftovers(target.parent)
    return n_points, broken


def test_killed_at_every_point_the_folder_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    n_points, broken = killed_everywhere(tmp_path, "careful")
    assert n_points > 20
    assert not broken


def test_the_killing_finds_a_careless_writer(tmp_path: Path) -> None:
    _, broken = killed_everywhere(tmp_path, "careless")
    assert broken


class TestSealed:
    def test_same_contents_same_digest(self, tmp_path: Path) -> None:
        first, second = publish(tmp_path / "a", 1), publish(tmp_path / "b", 1)
        assert first == second != publish(tmp_path / "c", 2)
        assert files.verify(tmp_path / "a")["name"] == "bank"

    def test_facts_may_not_take_the_manifests_own_names(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="'digest'"):
            files.seal(tmp_path, {"digest": "x"})

    def test_no_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"manifest\.json"):
            files.verify(tmp_path)

    def test_another_format_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "MANIFEST_FORMAT", 99)
        publish(tmp_path / "x", 1)
        monkeypatch.undo()
        with pytest.raises(CorruptBundle, match="has format 99"):
            files.verify(tmp_path / "x")

    def test_five_hundred_kinds_of_damage_are_refused_with_the_file_named(self, tmp_path: Path) -> None:
        rng = random.Random(7)
        whole = tmp_path / "whole"
        publish(whole, 3)
        names = ["model.safetensors", "inner/labels.json", "manifest.json"]
        kinds = list(DAMAGES)
        for number in range(500):
            kind, name = kinds[number % len(kinds)], rng.choice(names)
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            named = DAMAGES[kind](copy, name, rng)
            with pytest.raises((CorruptBundle, NotFound)) as caught:
                files.verify(copy)
            assert named in caught.value.message, f"damage {number}, {kind} of {name}: {caught.value.message}"
            assert caught.value.hint
            shutil.rmtree(copy)


def flip_a_bit(folder: Path, name: str, rng: random.Random) -> str:
    data = bytearray((folder / name).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (folder / name).write_bytes(data)
    return name


def truncate(folder: Path, name: str, rng: random.Random) -> str:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: rng.choice([0, 1, len(data) - 1, rng.randrange(len(data))])])
    return name


def zero_a_stretch(folder: Path, name: str, rng: random.Random) -> str:
    data = bytearray((folder / name).read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + 64)
    data[start:end] = bytes(end - start)
    (folder / name).write_bytes(data)
    return name


def lengthen(folder: Path, name: str, rng: random.Random) -> str:
    with (folder / name).open("ab") as file:
        file.write(rng.choice([b"\n", b" ", b"\0", b"{}"]))
    return name


def remove(folder: Path, name: str, _: random.Random) -> str:
    (folder / name).unlink()
    return name


def add(folder: Path, _: str, rng: random.Random) -> str:
    extra = rng.choice(["model.pkl", "inner/run.py", ".hidden", "manifest.json.bak"])
    (folder / extra).write_bytes(b"x")
    return extra


def rename(folder: Path, name: str, _: random.Random) -> str:
    (folder / name).rename(folder / f"{name}.1")
    return name


def make_a_link(folder: Path, name: str, _: random.Random) -> str:
    name = "model.safetensors" if name == "manifest.json" else name
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    return name


def make_a_pipe(folder: Path, name: str, _: random.Random) -> str:
    name = "model.safetensors" if name == "manifest.json" else name
    (folder / name).unlink()
    os.mkfifo(folder / name)
    return name


def forge_the_manifest(folder: Path, name: str, rng: random.Random) -> str:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    forged = rng.choice(["files", "sha256", "name", "nan", "list", "surrogate"])
    if forged == "files":
        manifest["files"].pop("model.safetensors")
    elif forged == "sha256":
        manifest["files"]["model.safetensors"] = {"bytes": 1, "sha256": None}
    elif forged == "name":
        manifest["name"] = "other"
    elif forged == "nan":
        manifest["name"] = float("nan")
    elif forged == "surrogate":
        manifest["name"] = "\ud800"
    else:
        manifest = [manifest]
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return "manifest.json"


DAMAGES: dict[str, Callable[[Path, str, random.Random], str]] = {
    damage.__name__: damage
    for damage in (
        flip_a_bit,
        truncate,
        zero_a_stretch,
        lengthen,
        remove,
        add,
        rename,
        make_a_link,
        make_a_pipe,
        forge_the_manifest,
    )
}


def test_what_can_not_be_written_is_told_by_place_with_the_mend(tmp_path: Path) -> None:
    place = tmp_path / "states"
    with (
        pytest.raises(RegistryError, match=r"states can't be written: No space left.*\(part\.json\)") as told,
        files.written(place),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part.json")
    assert "free some space" in told.value.hint
