"""The registry's commands as functions: where it is, who does it, and what else of Luban a version needs.

SQLAlchemy is imported when a registry is first opened; `luban predict` on a folder never waits for it.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import CorruptBundle, LubanError, NotFound
from luban.files import MANIFEST, read_json
from luban.records import Listener, Progress, ignore
from luban.stages.places import BUNDLE, COMPRESSED
from luban.stages.predicting import newest_bundle

if TYPE_CHECKING:
    from luban.registry.audit import Entry, Verified
    from luban.registry.compare import Diff
    from luban.registry.store import Collected, Registered, Registry
    from luban.registry.version import Move, Version

FOLDER = ".luban/registry"
"""Where a registry is, in this folder or one above it, where nobody says otherwise."""
_MADE_UP_ROWS = 64
_TIMED = 60


@dataclass(frozen=True, kw_only=True)
class About:
    """What a version is, beside its row: its card, where it comes from, how its aliases moved."""

    version: Version
    card: Mapping[str, Any]
    missing: tuple[str, ...]
    """What its card must state before it can be promoted."""
    lineage: tuple[Version, ...]
    """Its parent, that one's parent, and so on."""
    moves: tuple[Move, ...]
    """Moves of `champion` to it and from it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a registry is."""

    place: str
    database: str
    schema: str
    objects: str
    n_models: int
    n_versions: int
    n_objects: int
    size_bytes: int
    """Of everything in the object store."""


def registry_place(given: str | None = None, start: Path | None = None) -> str:
    """Return where the registry is: as given, else LUBAN_REGISTRY, else the nearest `.luban/registry` from here up.

    Where there is none, it will be made in this folder.
    """
    if named := given or os.environ.get("LUBAN_REGISTRY"):
        return named if "://" in named else str(Path(named).expanduser().absolute())
    here = (start or Path.cwd()).absolute()
    there = next((one / FOLDER for one in (here, *here.parents) if (one / FOLDER).is_dir()), here / FOLDER)
    return str(there)


def whoami() -> str:
    """Return who does it, for the audit: LUBAN_WHO, or user and host."""
    try:
        return os.environ.get("LUBAN_WHO") or f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        return f"{os.getuid()}@{socket.gethostname()}"


@contextmanager
def opened(place: str | None, *, objects: str | None = None, create: bool = False) -> Iterator[Registry]:
    """Open the registry for a while."""
    from luban.registry.store import open_registry

    at = objects or os.environ.get("LUBAN_OBJECTS") or ""
    registry = open_registry(registry_place(place), objects=at, create=create)
    try:
        yield registry
    finally:
        registry.close()


def register(
    source: str | Path | None = None,
    *,
    name: str | None = None,
    registry: str | None = None,
    objects: str | None = None,
    note: str = "",
    parent: str = "",
    stated: Mapping[str, str] | None = None,
    measure: bool = True,
    who: str | None = None,
    on_progress: Listener = ignore,
) -> Registered:
    """Make a bundle a version. It is opened first, and its answers timed, so that it is known to answer here.

    Args:
        source: the sealed folder, or a version to register under another name; without it the newest under `./runs`.
        name: the model's name; without it the bundle's own.
        registry: a folder or URL; see `registry_place`.
        objects: where bundles are kept, if not in the registry's folder; said once.
        note: anything worth knowing.
        parent: the version it was made from.
        stated: what the card is to state: `licence`, `use`, `limits`.
        measure: open it and time its answers.
        who: who does it.
        on_progress: told how far it has come.

    Raises:
        NotFound: there is no such bundle.
        CorruptBundle: a file of it is missing, added or changed; nothing is registered.
    """
    from luban.bundle import seal
    from luban.registry.store import facts_of
    from luban.registry.version import wanted_name

    folder = newest_bundle(Path.cwd()) if source is None else find_bundle(source, registry)
    if name is None:
        name = (
            str(source).partition("@")[0]
            if source is not None and _is_reference(source)
            else seal.read(folder, check=False).bundle.name
        )
    wanted_name(name)
    on_progress(Progress("register", f"{folder} as {name}"))
    facts = facts_of(folder)
    latency_ms = _latency_ms(folder) if measure else None
    # Last, so that what can't be registered leaves no empty registry. A parent is in one that is there.
    with opened(registry, objects=objects, create=not parent) as it:
        return it.register(
            folder, name=name, who=who or whoami(), note=note, parent=parent, latency_ms=latency_ms, stated=stated,
            facts=facts,
        )  # fmt: skip


def versions(name: str | None = None, registry: str | None = None) -> dict[str, list[Version]]:
    """Return every model's name -> its versions, the oldest first; or those of one name.

    Raises:
        NotFound: there is no such model.
    """
    with opened(registry) as it:
        return {one: it.versions(one) for one in ([name] if name else it.names())}


def about(reference: str, registry: str | None = None) -> About:
    """Return everything that is known of a version.

    Raises:
        NotFound: there is none.
    """
    from luban.registry.aliases import moves
    from luban.registry.lineage import lineage

    with opened(registry) as it:
        version = it.version(reference)
        card = it.evidence(version).card
        touched = (version.number,)
        return About(
            version=version, card=vars(card), missing=tuple(card.missing()), lineage=tuple(lineage(it, version)),
            moves=tuple(one for one in moves(it, version.name) if one.after in touched or one.before in touched),
        )  # fmt: skip


def diff(before: str, after: str, registry: str | None = None) -> Diff:
    """Return what changed from one version to another; `@ALIAS` is of the other one's name.

    Raises:
        NotFound: there is no such version.
    """
    from luban.registry import compare
    from luban.registry.version import parse

    with opened(registry) as it:
        one = parse(before, beside=parse(after).name if before.startswith("@") else "")
        return compare.diff(it, it.version(one), it.version(after, beside=one.name))


def promote(
    reference: str,
    *,
    to: str = "champion",
    registry: str | None = None,
    why: str = "",
    force: bool = False,
    lose_at_most: float | None = None,
    once: str = "",
    who: str | None = None,
) -> Move:
    """Let an alias name a version; see `luban.registry.aliases.promote`."""
    from luban.registry import aliases

    with opened(registry) as it:
        return aliases.promote(
            it, reference, to=to, who=who or whoami(), why=why, force=force, lose_at_most=lose_at_most, once=once
        )


def rollback(
    name: str,
    *,
    alias: str = "champion",
    registry: str | None = None,
    why: str = "",
    expected: int | None = None,
    once: str = "",
    who: str | None = None,
) -> Move:
    """Let an alias name what it named before; see `luban.registry.aliases.rollback`."""
    from luban.registry import aliases

    with opened(registry) as it:
        return aliases.rollback(it, name, alias=alias, who=who or whoami(), why=why, expected=expected, once=once)


def audit_list(subject: str = "", *, last: int = 0, registry: str | None = None) -> list[Entry]:
    """Return entries of the audit, the oldest first."""
    with opened(registry) as it:
        return it.entries(subject=subject, last=last)


def audit_verify(noted: str = "", registry: str | None = None) -> Verified:
    """Check the audit's chain, and that the tables say what it says."""
    with opened(registry) as it:
        return it.verify_audit(noted)


def registry_info(registry: str | None = None) -> Place:
    """Return where the registry is and what it holds."""
    with opened(registry) as it:
        models, stored = it.names(), list(it.objects.stored())
        return Place(
            place=it.database.place, database=it.database.version(), schema=it.database.schema(),
            objects=it.objects.place, n_models=len(models), n_versions=sum(models.values()), n_objects=len(stored),
            size_bytes=sum(one.size_bytes for one in stored),
        )  # fmt: skip


def registry_collect(registry: str | None = None) -> Collected:
    """Remove what killed writers left among the objects more than an hour ago."""
    with opened(registry) as it:
        return it.collect()


def registry_upgrade(registry: str | None = None) -> str:
    """Bring the registry's schema up to date, and return its number."""
    from luban.store.database import upgrade

    return upgrade(registry_place(registry))


def find_bundle(given: str | os.PathLike[str], registry: str | None = None) -> Path:
    """Return the folder that is given, or that of the version which is named: `bank@3`, `bank@champion`.

    Raises:
        NotFound: there is no such folder or version; the message has what may have been meant.
        CorruptBundle: its object is not the bundle that was registered.
    """
    if _is_reference(given):
        with opened(registry) as it:
            return it.bundle(it.version(os.fspath(given)))
    folder = Path(given)
    if not (folder / MANIFEST).is_file() and (hint := _meant(folder, registry)):
        said = f"{folder} is no bundle" if folder.exists() else f"{folder}: no such folder"
        raise NotFound(said, hint=hint)
    return folder


def _is_reference(given: str | os.PathLike[str]) -> bool:
    """Tell whether a version is named; a folder that has an @ in its name is a folder."""
    from luban.registry.version import looks_like_reference

    return looks_like_reference(os.fspath(given)) and not Path(given).exists()


def _meant(folder: Path, registry: str | None) -> str:
    """Return which bundles may have been meant by what is none: those in a run's folder, or a model's versions."""
    from luban.registry.version import NAME

    inside = [str(folder / kind) for kind in (BUNDLE, COMPRESSED) if (folder / kind / MANIFEST).is_file()]
    if inside:
        return f"name the bundle itself: {' or '.join(inside)}"
    name = str(folder).removesuffix("@")
    if not NAME.fullmatch(name):
        return ""
    try:
        with opened(registry) as it:
            found = it.versions(name)
    except LubanError:
        return ""
    aliases = [f"{name}@{alias}" for version in found for alias in version.aliases]
    return f"the registry has versions of that name: {', '.join([*aliases, str(found[-1])])}"


def _latency_ms(folder: Path) -> float | None:
    """Open a bundle and return the median time of one answer, on rows made up to its drift reference.

    None where it has no reference to make rows up to, or shares a runtime that is not here.
    """
    import numpy as np

    from luban.bundle import measure
    from luban.bundle.engine import Engine
    from luban.bundle.reference import made_up
    from luban.errors import MissingExtra
    from luban.records import Encoded

    try:
        engine = Engine.open(folder, check=False)  # it was verified a moment ago
    except MissingExtra:
        return None
    try:
        rows = made_up(read_json(folder / "reference.json"), _MADE_UP_ROWS)
    except (KeyError, TypeError, CorruptBundle):
        return None
    if not rows:
        return None
    limit = engine.processor.settings.max_length
    rows = [row[:limit] for row in rows]
    ids = np.concatenate([np.array(row, np.int32) for row in rows])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    encoded = Encoded(ids, offsets, np.arange(len(rows), dtype=np.int64), len(rows))
    return round(measure.latency(engine.runner, encoded, pad_id=engine.processor.pad_id, n=_TIMED).p50_ms, 3)
