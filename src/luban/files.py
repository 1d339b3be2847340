"""Durable files: a folder or file is whole or invisible, and a sealed folder proves that nothing in it changed.

Writing goes aside, is flushed to disk (file, then folder), renamed, and the parent flushed. A failed flush is never
tried again: after one, the page cache can no longer be trusted (Rebello et al. 2020, "Can Applications Recover from
fsync Failures?").
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from luban.errors import Conflict, CorruptBundle, NotFound, RegistryError, system_mend

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
ENDINGS = frozenset({".safetensors", ".onnx", ".json", ".txt", ".md"})
"""Kinds of files that a bundle holds and a store keeps: nothing that runs code when it is opened, and no archive."""
MAX_JSON_BYTES = 64 * 2**20
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_ASIDE = ".aside-"
MEND = "copy the folder again from where it was made, or make it again with `luban run`"
"""What to do where a sealed folder is not as it was sealed."""


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    return digest_bytes(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """Return JSON bytes that are the same for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def read_json(path: Path) -> Any:
    """Read one JSON file of at most 64 MiB.

    Raises:
        NotFound: there is no such file.
        CorruptBundle: it is not JSON, or is too large.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CorruptBundle(f"{path} has more than {MAX_JSON_BYTES} bytes", hint="this is not a file of Luban's")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{path} is not there") from error
    except (ValueError, RecursionError) as error:
        raise CorruptBundle(f"{path} is not valid JSON: {error}", hint="restore the file, or make it again") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented for reading, whole or not at all."""
    write_bytes(path, _readable_json(value))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    with replacing(path) as aside:
        aside.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it takes the place of `path`, on failure it is removed."""
    _make_folder(path.parent)
    aside = _beside(path)
    aside.touch(exist_ok=False)
    try:
        yield aside
        flush(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; on success it becomes `path` in one rename, on failure it is removed.

    Args:
        path: where the folder will be.
        replace: exchange it with what is there already, which is then removed.

    Raises:
        Conflict: `path` is there and `replace` is False.
    """
    taken = Conflict(f"{path} is there already", hint="choose another name, or remove it")
    if not replace and os.path.lexists(path):
        raise taken
    _make_folder(path.parent)
    aside = _beside(path)
    aside.mkdir()
    try:
        yield aside
        for part in sorted(aside.rglob("*")):
            flush(part)
        flush(aside)
        try:
            _rename(aside, path, _NO_REPLACE)
        except FileExistsError:
            if not replace:
                raise taken from None
            _exchange(aside, path)
    except BaseException:
        _remove(aside)
        raise
    # What was replaced goes only after the rename is on the disk: were that undone, it would be needed.
    flush(path.parent)
    _remove(aside)


@contextmanager
def written(place: Path | str) -> Iterator[None]:
    """Turn what the system refuses within the block into an error that names the place and what was refused.

    Raises:
        RegistryError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        part = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes | os.PathLike) else ""
        said = f"{place} can't be written: {error.strerror or error}{part}"
        raise RegistryError(said, hint=system_mend(error)) from error


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed writers left aside in `folder`: all of it, or what was to become `name`."""
    for path in folder.glob(f"{_ASIDE}{glob.escape(name)}-????????" if name else f"{_ASIDE}*"):
        _remove(path)


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; the kernel lets go of it when the process dies.

    Raises:
        Conflict: another process holds it.
    """
    _make_folder(path.parent)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another process is at work on {what}", hint="wait for it, or end it") from error
        yield


def seal(folder: Path, facts: Mapping[str, Any]) -> str:
    """Write the manifest of a folder: `facts`, each file's size and SHA-256, and a digest over them all.

    Returns:
        The digest: 64 hexadecimal digits that are equal for equal contents and facts.

    Raises:
        ValueError: a fact has the name of something that the manifest itself says.
    """
    if reserved := {"format", "files", "digest"} & set(facts):
        raise ValueError(f"{min(reserved)!r} is the manifest's own: name the fact otherwise")
    files = {
        name: {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        for name, path in sorted(_files(folder).items())
        if name != MANIFEST
    }
    body = {**facts, "format": MANIFEST_FORMAT, "files": files}
    digest = digest_json(body)
    write_json(folder / MANIFEST, {**body, "digest": digest})
    return digest


def verify(folder: Path) -> dict[str, Any]:
    """Check a sealed folder file by file and return its manifest.

    Raises:
        NotFound: no folder, or no manifest in it.
        CorruptBundle: a file is missing, added, changed or of a kind that is never written; the message names it.
    """
    manifest = survey(folder)
    verify_contents(folder, manifest)
    return manifest


def survey(folder: Path) -> dict[str, Any]:
    """Check all of a sealed folder that needs no file to be read: the manifest, and the files' names, kinds and sizes.

    Returns:
        The manifest, for `verify_contents`.

    Raises:
        NotFound: no folder, or no manifest in it.
        CorruptBundle: as `verify`, but for contents that changed and kept their size.
    """
    if not (folder / MANIFEST).is_file():
        found = f"holds no {MANIFEST}" if folder.is_dir() else "is a file, not a folder"
        said = f"{folder} {found}" if folder.exists() else f"{folder}: no such folder"
        raise NotFound(said, hint="name the sealed folder itself, e.g. runs/NAME/bundle")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CorruptBundle(f"{folder / MANIFEST} does not list files", hint=MEND)
    body = {key: value for key, value in manifest.items() if key != "digest"}
    try:
        digest = digest_json(body)
        whole = (folder / MANIFEST).read_bytes() == _readable_json(manifest)
    except (ValueError, RecursionError) as error:
        raise CorruptBundle(f"{folder / MANIFEST} holds what no manifest does: {error}", hint=MEND) from error
    if manifest.get("digest") != digest or not whole:
        raise CorruptBundle(f"{folder / MANIFEST} was changed: its digest does not match", hint=MEND)
    if manifest.get("format") != MANIFEST_FORMAT:
        raise CorruptBundle(
            f"{folder / MANIFEST} has format {manifest.get('format')!r}; this Luban reads {MANIFEST_FORMAT}",
            hint="use the Luban that made it, or make it again",
        )
    present = _files(folder)
    for name, noted in manifest["files"].items():
        path = present.pop(name, None)
        if path is None:
            raise CorruptBundle(f"{folder / name} is missing", hint=MEND)
        if not isinstance(noted, dict) or not _HEX_DIGEST.fullmatch(str(noted.get("sha256"))):
            raise CorruptBundle(f"{folder / MANIFEST} has no digest for {name}", hint=MEND)
        if not _is_plain(path) or path.stat().st_size != noted.get("bytes"):
            raise _changed(path)
    present.pop(MANIFEST, None)
    if present:
        raise CorruptBundle(f"{folder / min(present)} is not in {MANIFEST}", hint=MEND)
    return manifest


def verify_contents(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the SHA-256 of every file with the manifest that `survey` returned; hashing lets other threads run.

    Raises:
        CorruptBundle: a file's contents changed; the message names it.
    """
    for name, noted in manifest["files"].items():
        if digest_file(folder / name) != noted["sha256"]:
            raise _changed(folder / name)


def _changed(path: Path) -> CorruptBundle:
    return CorruptBundle(f"{path} was changed: its contents do not match {MANIFEST}", hint=MEND)


def _files(folder: Path) -> dict[str, Path]:
    """Return the path below a folder -> the file, for all that is no folder."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in found}


def _is_plain(path: Path) -> bool:
    """Return whether a path is a file itself: no link, pipe or device, which could answer differently each time."""
    return stat.S_ISREG(path.lstat().st_mode)


def _readable_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _beside(path: Path) -> Path:
    """Return a fresh name in the same folder, for what is not yet whole; `sweep` knows it."""
    return path.with_name(f"{_ASIDE}{path.name}-{secrets.token_hex(4)}")


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each on the disk before anything stands in it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    flush(folder.parent)


def _remove(path: Path) -> None:
    """Remove a file or folder as far as can be; `sweep` finds what is left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file or a folder to disk; a failure is final."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_AT_CWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2
_UNKNOWN_TO_SYSTEM = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def _rename(old: Path, new: Path, how: int) -> None:
    """Rename in one step with Linux's renameat2; where there is none, as nearly so as can be.

    Args:
        old: what is renamed.
        new: what it is called then.
        how: `_NO_REPLACE` fails where `new` is there; `_EXCHANGE` swaps the two, so that `new` is never absent.

    Raises:
        FileExistsError: `new` is there, for `_NO_REPLACE`.
        NotImplementedError: the system can't exchange.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        if library.renameat2(_AT_CWD, os.fsencode(old), _AT_CWD, os.fsencode(new), how) == 0:
            return
        code = ctypes.get_errno()
        if code not in _UNKNOWN_TO_SYSTEM:
            raise OSError(code, os.strerror(code), str(new))
    if how == _EXCHANGE:
        raise NotImplementedError
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)


def _exchange(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`, and `old` in its."""
    try:
        _rename(new, old, _EXCHANGE)
    except NotImplementedError:
        spare = _beside(old)
        old.rename(spare)
        try:
            new.rename(old)
        except BaseException:
            spare.rename(old)
            raise
        spare.rename(new)
