"""Luban itself, for packages that hold it: its files, a wheel of them, and what it needs, pinned to what is here.

A package then answers by what was proven, and fetches nothing by a name that could be another's.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from luban.errors import LubanError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

EXTRAS = {"openvino": ("openvino",), "torch": ("train",)}
"""Runtime -> the extras that hold what it needs."""
_ROOT = Path(__file__).resolve().parents[1]
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""Zip files know no earlier one; a real one would make every wheel another."""


def copy(folder: Path) -> None:
    """Copy Luban's files to a folder that will be called `luban`."""
    shutil.copytree(_ROOT, folder, ignore=shutil.ignore_patterns("__pycache__"))


def wheel(folder: Path) -> Path:
    """Write what runs here as a wheel that pip installs, and return its path; the same files give the same bytes.

    Raises:
        LubanError: Luban is not installed as a package here.
    """
    try:
        installed = metadata.distribution("luban")
    except metadata.PackageNotFoundError as error:
        raise _not_installed("luban") from error
    about = f"luban-{installed.version}.dist-info"
    parts = {f"luban/{name}": path.read_bytes() for name, path in _files().items()}
    parts[f"{about}/METADATA"] = (installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "").encode()
    parts[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: luban\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    parts[f"{about}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    parts[f"{about}/RECORD"] = _record(parts, f"{about}/RECORD")
    made = folder / f"luban-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            told = zipfile.ZipInfo(name, _FIRST_DAY)
            told.external_attr = 0o100644 << 16
            packed.writestr(told, data, zipfile.ZIP_DEFLATED)
    return made


def requirements(runtime: str, *extras: str) -> list[str]:
    """Return the packages that answering by a runtime needs directly, pinned to what is installed here, sorted.

    Args:
        runtime: the bundle's.
        extras: Luban's extras that are wanted too.

    Raises:
        LubanError: Luban or one of them is not installed as a package.
    """
    return sorted(f"{name}=={version}" for name, version in _wanted(runtime, extras).items())


def closure(runtime: str, *extras: str) -> list[str]:
    """Return the packages of `requirements` and all that these need in turn, each pinned, sorted.

    Raises:
        LubanError: as `requirements`.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    waiting = [Requirement(name) for name in _wanted(runtime, extras)]
    waiting += [one for one in _declared() if _applies(one, ("", *EXTRAS.get(runtime, ()), *extras))]
    while waiting:
        wanted = waiting.pop()
        name = str(canonicalize_name(wanted.name))
        found[name] = _version(wanted.name)
        for extra in {"", *wanted.extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                needed = map(Requirement, metadata.requires(wanted.name) or ())
                waiting += [one for one in needed if _applies(one, (extra,))]
    return sorted(f"{name}=={version}" for name, version in found.items())


def _wanted(runtime: str, extras: tuple[str, ...]) -> Mapping[str, str]:
    """Return name -> version of what answering needs directly."""
    chosen = ("", *EXTRAS.get(runtime, ()), *extras)
    named = {one.name for one in _declared() if _applies(one, chosen)}
    if not named:
        raise _not_installed("luban")
    return {name: _version(name) for name in named}


def _declared() -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    try:
        yield from map(Requirement, metadata.requires("luban") or ())
    except metadata.PackageNotFoundError as error:
        raise _not_installed("luban") from error


def _applies(wanted: Requirement, extras: tuple[str, ...]) -> bool:
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)


def _version(name: str) -> str:
    """Return what is installed; what a build adds to a version, such as +cpu, is on no index."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError as error:
        raise _not_installed(name) from error


def _not_installed(name: str) -> LubanError:
    return LubanError(
        f"what {name} needs is not written down here, so that a package's requirements can't be pinned: it was not "
        "installed by pip, or before it said so",
        hint="install Luban again, with pip or `make setup`, and package the bundle there",
    )


def _files() -> dict[str, Path]:
    found = (path for path in _ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(_ROOT).as_posix(): path for path in sorted(found)}


def _record(parts: Mapping[str, bytes], own: str) -> bytes:
    """Return the list of a wheel's files, as PyPA's binary distribution format has it."""
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in parts.items()]
    return "\n".join([*lines, f"{own},,", ""]).encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
