"""The lock: a project with every value resolved, as JSON that is the same for equal projects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luban.files import digest_json, read_json, write_json
from luban.project.schema import Plugin, Project

LOCK = "project.lock.json"


def resolved(project: Project) -> dict[str, Any]:
    """Return every setting as JSON values, with plug-ins as the project file has them: `{kind: ..., option: ...}`."""
    values = _plain(project)
    assert isinstance(values, dict)
    return values


def digest(project: Project) -> str:
    """Return the SHA-256 of a project's settings: the same for files that differ in order, comments or defaults."""
    return digest_json(resolved(project))


def write(project: Project, folder: Path) -> str:
    """Write `project.lock.json` into a run folder, whole or not at all, and return its digest."""
    settings = resolved(project)
    name = digest_json(settings)
    write_json(folder / LOCK, {"digest": name, "project": settings})
    return name


def read(path: Path) -> dict[str, Any]:
    """Read the settings of a lock: `project.lock.json` or the folder that holds it.

    Raises:
        NotFound: there is no lock.
        CorruptBundle: it is not a lock, or was changed since it was written.
    """
    from luban.errors import CorruptBundle

    file = path / LOCK if path.is_dir() else path
    lock = read_json(file)
    hint = "remove it and run again: the run writes it anew"
    if not isinstance(lock, dict) or not isinstance(lock.get("project"), dict):
        raise CorruptBundle(f"{file} holds no settings of a project", hint=hint)
    settings: dict[str, Any] = lock["project"]
    try:
        found = digest_json(settings)
    except ValueError as error:
        raise CorruptBundle(f"{file} holds what no lock does: {error}", hint=hint) from error
    if found != lock.get("digest"):
        raise CorruptBundle(f"{file} was changed: its digest does not match", hint=hint)
    return settings


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs between two locks."""

    path: str
    """The setting, e.g. `train.epochs`."""
    before: Any
    """Its value in the older lock; None where it was not set."""
    after: Any
    """Its value in the newer lock; None where it is not set."""

    def __str__(self) -> str:
        from luban.project.tree import shown

        return f"{self.path}: {shown(self.before)} -> {shown(self.after)}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the settings that differ between two locks' settings, in the order of the newer one."""
    return list(_changes("", before, after))


def _changes(path: str, before: Any, after: Any) -> list[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*after, *(key for key in before if key not in after)]
        inner = [_changes(f"{path}.{key}" if path else str(key), before.get(key), after.get(key)) for key in keys]
        return [change for found in inner for change in found]
    same = (before == after and type(before) is type(after)) or (
        before == after
        and isinstance(before, int | float)
        and isinstance(after, int | float)
        and not isinstance(before, bool)
        and not isinstance(after, bool)
    )
    return [] if same else [Change(path, before, after)]


def _plain(value: Any) -> Any:
    if isinstance(value, Plugin):
        return {"kind": value.kind, **{key: _plain(item) for key, item in value.options.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
