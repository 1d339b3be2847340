"""Sealed folders where versions keep them: a folder on a disk, or an object store by URL.

A folder is stored under a key that is used once, `DIGEST-TOKEN`: its manifest's digest, and a token made here. It is
copied aside, compared with its manifest file by file, flushed and renamed; in an object store its manifest is written
last. So what has a manifest is whole, and what two writers do at once never meets.

No name that a stranger chose becomes a path: keys and file names have a pattern, and kinds of files a list.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luban.errors import Conflict, CorruptBundle, LubanError, MissingExtra, NotFound, RegistryError, install
from luban.files import (
    ENDINGS,
    MANIFEST,
    MEND,
    digest_bytes,
    digest_file,
    new_folder,
    read_json,
    survey,
    verify,
    written,
)

SCHEMES = ("s3://", "gs://", "az://")
_KEY = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_STORE_MEND = "put the object back from a copy, or register the bundle again under another name"


@dataclass(frozen=True, slots=True)
class Stored:
    """One thing that lies in an object store, whole or not."""

    name: str
    """Its key, or what a killed writer has left aside."""
    age_s: float
    """Seconds since it was last written."""
    size_bytes: int


class Objects(Protocol):
    """Where sealed folders are kept."""

    place: str
    """Where it is, for messages."""

    def put(self, key: str, source: Path) -> None:
        """Store a sealed folder; when this returns it is whole, durable, and compared with its manifest.

        Raises:
            NotFound, CorruptBundle: the folder can't be stored as it is; nothing of it stays under the key.
            Conflict: the key is used already.
        """

    def folder(self, key: str, cache: Path) -> Path:
        """Return a folder of this machine that holds the object, for `bundle.Engine.open`, which verifies it.

        Args:
            key: as it was put.
            cache: where objects are kept that lie elsewhere.

        Raises:
            NotFound: it is not there.
            CorruptBundle: it is not what was put.
        """

    def read(self, key: str, name: str) -> bytes:
        """Return one file of an object, compared with the manifest.

        Raises:
            NotFound: the object, or the file in it, is not there.
            CorruptBundle: it is not what was put.
        """

    def remove(self, name: str) -> None:
        """Remove an object, or what was left aside, as far as can be."""

    def stored(self) -> Iterator[Stored]:
        """Yield everything that is there, what killed writers have left among it."""


def new_key(digest: str) -> str:
    """Return a key that nobody has used: the digest, and 64 random bits."""
    return f"{digest}-{secrets.token_hex(8)}"


def open_objects(place: str) -> Objects:
    """Open the store at a folder, or at `s3://BUCKET/PREFIX`, `gs://...`, `az://...`.

    Raises:
        MissingExtra: the package that talks to object stores is not installed.
        LubanError: it is neither.
    """
    if place.startswith(SCHEMES):
        return RemoteObjects(place)
    if "://" in place:
        raise LubanError(f"objects can't be kept at {place}", hint=f"a folder, or {', '.join(SCHEMES)}BUCKET/PREFIX")
    return LocalObjects(Path(place))


class LocalObjects:
    """Objects in a folder, one folder each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)

    def put(self, key: str, source: Path) -> None:
        """Store a sealed folder."""
        target = self._path(key)
        manifest = _storable(source, key)
        with written(target), new_folder(target) as aside:
            for name in (*manifest["files"], MANIFEST):
                shutil.copyfile(source / name, aside / name)
                if name != MANIFEST and digest_file(aside / name) != manifest["files"][name]["sha256"]:
                    raise CorruptBundle(f"{source / name} was changed: its contents do not match {MANIFEST}", hint=MEND)
            _same(survey(aside), key, source)

    def folder(self, key: str, cache: Path) -> Path:
        """Return where the object lies."""
        path = self._path(key)
        try:
            found = survey(path)
        except NotFound as error:
            raise NotFound(f"the object {path} is not there, or has no {MANIFEST}", hint=_STORE_MEND) from error
        _same(found, key, path)
        return path

    def read(self, key: str, name: str) -> bytes:
        """Return one file of an object."""
        path = self._path(key)
        manifest = read_json(path / MANIFEST)
        noted = _noted(manifest, key, name, path)
        data = (path / name).read_bytes()
        if digest_bytes(data) != noted:
            raise CorruptBundle(f"{path / name} was changed: its contents do not match {MANIFEST}", hint=_STORE_MEND)
        return data

    def remove(self, name: str) -> None:
        """Remove what is there, the manifest first: half an object is none."""
        path = self.root / name
        if path.parent != self.root or path.is_symlink() or not path.is_dir():
            return
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    def stored(self) -> Iterator[Stored]:
        """Yield every folder."""
        if not self.root.is_dir():
            return
        for path in self.root.iterdir():
            try:
                if path.is_dir() and not path.is_symlink():
                    states = [path.stat(), *(file.stat() for file in path.iterdir())]
                    size_bytes = sum(state.st_size for state in states[1:])
                    yield Stored(path.name, time.time() - max(state.st_mtime for state in states), size_bytes)
            except FileNotFoundError:
                continue  # another process has removed it, or has made it whole

    def _path(self, key: str) -> Path:
        path = self.root / _wanted_key(key)
        if os.path.lexists(path) and path.resolve().parent != self.root.resolve():
            raise CorruptBundle(f"{path} leads out of {self.root}", hint=_STORE_MEND)
        return path


class RemoteObjects:
    """Objects in an object store, their files under `KEY/`; credentials and endpoint come from its own variables."""

    def __init__(self, url: str) -> None:
        try:
            from obstore.store import from_url
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"{url} needs the package obstore, which is not installed", hint=install("objects")
            ) from error
        self.place = url
        with self._told():
            # A server without TLS has to be named so, in AWS_ENDPOINT.
            self._store: Any = from_url(url, client_options={"allow_http": True})

    def put(self, key: str, source: Path) -> None:
        """Store a sealed folder, the manifest last."""
        import obstore

        manifest = _storable(source, _wanted_key(key))
        with self._told():
            for name in (*manifest["files"], MANIFEST):
                obstore.put(self._store, f"{key}/{name}", source / name)
            for name, noted in manifest["files"].items():
                if self._digest(f"{key}/{name}") != noted["sha256"]:
                    raise CorruptBundle(f"{source / name} was changed: its contents do not match {MANIFEST}", hint=MEND)
            if self._digest(f"{key}/{MANIFEST}") != digest_file(source / MANIFEST):
                raise CorruptBundle(f"{source / MANIFEST} was changed while it was stored", hint=MEND)

    def folder(self, key: str, cache: Path) -> Path:
        """Return a copy in the cache, fetched where it is not there yet."""
        import obstore

        target = cache / _wanted_key(key)[:64]
        try:
            _same(survey(target), key, target)
            return target
        except (NotFound, CorruptBundle):
            shutil.rmtree(target, ignore_errors=True)
        manifest = self._manifest(key)
        try:
            with self._told(), new_folder(target) as aside:
                for name in (*manifest["files"], MANIFEST):
                    with (aside / _safe_name(name)).open("wb") as file:
                        for chunk in obstore.get(self._store, f"{key}/{name}").stream():
                            file.write(chunk)
                _same(verify(aside), key, target)
        except Conflict:
            pass  # another process has fetched it meanwhile
        return target

    def read(self, key: str, name: str) -> bytes:
        """Return one file of an object."""
        import obstore

        noted = _noted(self._manifest(key), key, name, f"{self.place}/{key}")
        with self._told():
            data = bytes(obstore.get(self._store, f"{key}/{_safe_name(name)}").bytes())
        if digest_bytes(data) != noted:
            raise CorruptBundle(f"{self.place}/{key}/{name} was changed", hint=_STORE_MEND)
        return data

    def remove(self, name: str) -> None:
        """Remove an object's files, the manifest first."""
        import obstore

        with self._told():
            files = [part["path"] for batch in obstore.list(self._store, f"{name}/") for part in batch]
            for path in sorted(files, key=lambda path: not path.endswith(f"/{MANIFEST}")):
                obstore.delete(self._store, path)

    def stored(self) -> Iterator[Stored]:
        """Yield every object, by the files that lie under its key."""
        import obstore

        newest: dict[str, float] = {}
        size: dict[str, int] = {}
        with self._told():
            for batch in obstore.list(self._store):
                for part in batch:
                    name = part["path"].split("/")[0]
                    newest[name] = max(newest.get(name, 0.0), part["last_modified"].timestamp())
                    size[name] = size.get(name, 0) + part["size"]
        yield from (Stored(name, time.time() - at, size[name]) for name, at in newest.items())

    def _manifest(self, key: str) -> Mapping[str, Any]:
        import json

        import obstore

        with self._told():
            raw = bytes(obstore.get(self._store, f"{_wanted_key(key)}/{MANIFEST}").bytes())
        try:
            manifest = json.loads(raw)
        except ValueError as error:
            raise CorruptBundle(f"{self.place}/{key}/{MANIFEST} is not JSON", hint=_STORE_MEND) from error
        return manifest if isinstance(manifest, dict) else {}

    def _digest(self, path: str) -> str:
        import obstore

        found = hashlib.sha256()
        for chunk in obstore.get(self._store, path).stream():
            found.update(chunk)
        return found.hexdigest()

    @contextmanager
    def _told(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"{self.place}: an object, or a file of it, is not there", hint=_STORE_MEND) from error
        except BaseError as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            hint = "see that the store can be reached and lets you in (AWS_ENDPOINT, AWS_ACCESS_KEY_ID, ...)"
            raise RegistryError(f"{self.place}: {said}", hint=hint) from error


def _storable(source: Path, key: str) -> dict[str, Any]:
    """Return the manifest of a sealed folder that holds only what may be stored; contents are compared in the copy."""
    manifest = survey(source)
    for name in manifest["files"]:
        if not _NAME.fullmatch(name) or Path(name).suffix not in ENDINGS:
            kinds = ", ".join(sorted(ENDINGS))
            raise CorruptBundle(f"{source / name} is of a kind that is not stored", hint=f"only {kinds}, in no folder")
    _same(manifest, key, source)
    return manifest


def _same(manifest: Mapping[str, Any], key: str, where: Path) -> None:
    if manifest.get("digest") != key[:64]:
        raise CorruptBundle(
            f"{where} has another digest than was noted: {manifest.get('digest')}, not {key[:64]}", hint=_STORE_MEND
        )


def _noted(manifest: Any, key: str, name: str, where: Path | str) -> str:
    """Return the digest that a manifest states for a file, where the manifest itself is the one that was stored."""
    from luban.files import digest_json

    body = {field: value for field, value in manifest.items() if field != "digest"}
    if manifest.get("digest") != key[:64] or digest_json(body) != key[:64]:
        raise CorruptBundle(f"{where}/{MANIFEST} was changed: its digest does not match", hint=_STORE_MEND)
    if name not in manifest["files"]:
        raise NotFound(f"{where} holds no {name}", hint="an older Luban has made this bundle")
    return str(manifest["files"][name]["sha256"])


def _wanted_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise LubanError(f"{key!r} is no key of an object")
    return key


def _safe_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CorruptBundle(f"{name!r} is no name of a file of a bundle")
    return name
