"""Sealed folders in a folder and in a real S3 server: whole or not there, verified, and under no name but ours."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import registries

from luban import files
from luban.errors import Conflict, CorruptBundle, LubanError, NotFound, RegistryError
from luban.registry.store import open_registry
from luban.store.objects import Objects, open_objects


def s3_program() -> str | None:
    """Return moto's server: it needs other versions of packages than we do, and lives in an environment of its own."""
    named = os.environ.get("LUBAN_MOTO_SERVER")
    found = Path(named) if named else Path(sys.prefix) / "s3" / "bin" / "moto_server"
    return str(found) if found.is_file() else shutil.which("moto_server")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run a server that talks like S3, and return its address."""
    program = s3_program()
    if program is None:
        pytest.skip("no S3 server: `make s3-server` installs moto's, or LUBAN_MOTO_SERVER names it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < until, "the S3 server does not start"
        yield address
    finally:
        server.kill()
        server.wait()


def let_in(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Have the store that is opened next be the one at an address."""
    monkeypatch.setenv("AWS_ENDPOINT", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "objects")
    address = request.getfixturevalue("s3")
    let_in(monkeypatch, address)
    bucket = f"bucket-{abs(hash(tmp_path))}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT"), timeout=10).close()
    return f"s3://{bucket}/luban"


@pytest.fixture
def objects(place: str) -> Objects:
    return open_objects(place)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return registries.bundle(tmp_path / "bundle", rows=60)


def key_of(bundle: Path, token: str = "0" * 16) -> str:
    return f"{files.read_json(bundle / files.MANIFEST)['digest']}-{token}"


def test_what_is_put_is_found_whole(objects: Objects, bundle: Path, tmp_path: Path) -> None:
    key = key_of(bundle)
    objects.put(key, bundle)
    folder = objects.folder(key, tmp_path / "cache")
    assert files.verify(folder) == files.verify(bundle)
    assert objects.folder(key, tmp_path / "cache") == folder
    assert objects.read(key, "card.md") == (bundle / "card.md").read_bytes()
    (stored,) = objects.stored()
    assert stored.name == key and stored.age_s < 60
    assert stored.size_bytes == sum(path.stat().st_size for path in bundle.iterdir())
    objects.remove(key)
    assert list(objects.stored()) == []
    with pytest.raises(NotFound):
        objects.read(key, "card.md")


def test_what_is_not_there_is_told(objects: Objects, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        objects.folder(key_of(bundle), tmp_path)
    objects.put(key_of(bundle), bundle)
    with pytest.raises(NotFound, match=r"holds no more\.json"):
        objects.read(key_of(bundle), "more.json")


def test_another_bundle_than_the_key_says_is_refused(objects: Objects, bundle: Path, tmp_path: Path) -> None:
    other = registries.bundle(tmp_path / "other", seed=9, rows=60)
    with pytest.raises(CorruptBundle, match="another digest"):
        objects.put(key_of(bundle), other)
    assert list(objects.stored()) == []


@pytest.mark.parametrize("key", ["../x", "a/b", "", "x" * 64, f"{'0' * 64}-{'0' * 15}g", f"{'0' * 64}-{'0' * 16}/.."])
def test_no_stranger_names_a_path(objects: Objects, bundle: Path, key: str, tmp_path: Path) -> None:
    for use in (lambda: objects.put(key, bundle), lambda: objects.folder(key, tmp_path)):
        with pytest.raises(LubanError, match="no key"):
            use()


class TestFolder:
    def test_a_link_that_leads_out_is_refused(self, bundle: Path, tmp_path: Path) -> None:
        objects = open_objects(str(tmp_path / "objects"))
        (tmp_path / "objects").mkdir()
        (tmp_path / "objects" / key_of(bundle)).symlink_to(bundle)
        with pytest.raises(CorruptBundle, match="leads out"):
            objects.folder(key_of(bundle), tmp_path)
        assert list(objects.stored()) == []
        objects.remove(key_of(bundle))
        assert bundle.is_dir()

    def test_a_key_is_used_once(self, bundle: Path, tmp_path: Path) -> None:
        objects = open_objects(str(tmp_path / "objects"))
        objects.put(key_of(bundle), bundle)
        with pytest.raises(Conflict):
            objects.put(key_of(bundle), bundle)

    def test_a_file_that_changes_while_it_is_copied_is_noticed(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = shutil.copyfile

        def late(source: Path, target: Path) -> None:
            if source.name == "model.onnx":
                source.write_bytes(b"x" * source.stat().st_size)
            copy(source, target)

        monkeypatch.setattr(shutil, "copyfile", late)
        objects = open_objects(str(tmp_path / "objects"))
        with pytest.raises(CorruptBundle, match=r"model\.onnx"):
            objects.put(key_of(bundle), bundle)
        assert list(objects.stored()) == []


def test_a_registry_whose_bundles_are_in_s3(s3: str, bundle: Path, tmp_path: Path, request: pytest.FixtureRequest,
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    let_in(monkeypatch, s3)
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "home"))
    urllib.request.urlopen(urllib.request.Request(f"{s3}/models", method="PUT"), timeout=10).close()
    registry = open_registry(str(tmp_path / "registry"), objects="s3://models/luban", create=True)
    version = registry.register(bundle, name="bank", who="ann").version
    registry.close()
    again = open_registry(str(tmp_path / "registry"))
    assert files.verify(again.bundle(version))["digest"] == version.digest
    assert again.evidence(version).answers is not None
    # What was fetched is damaged on this machine: it is fetched anew.
    (again.bundle(version) / "card.md").write_bytes(b"")
    assert files.verify(again.bundle(version))["digest"] == version.digest
    assert again.collect(older_than_s=-1.0).names == ()
    again.close()


def test_a_store_that_can_not_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    let_in(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(RegistryError, match="s3://models"):
        open_objects("s3://models/luban").put(key_of(bundle), bundle)
