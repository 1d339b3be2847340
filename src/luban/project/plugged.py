"""The plug-ins that a project names: where they stand, whether they exist, and whether their options are right.

A plug-in is looked for by its room's name only, and its options are checked against the dataclass in its own file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints

import pydantic
import pydantic.dataclasses

from luban import plugins
from luban.errors import LubanError, PluginError, Problem, UnknownPlugin, did_you_mean
from luban.project import translate, tree
from luban.project.schema import Project, Room


@lru_cache(maxsize=1)
def rooms() -> dict[tree.Path, tuple[Room, bool]]:
    """Return the settings that name plug-ins -> their room, and whether the setting is a list of them."""

    def walk(section: type, above: tree.Path) -> Iterable[tuple[tree.Path, tuple[Room, bool]]]:
        for name, hint in get_type_hints(section, include_extras=True).items():
            many = get_origin(hint) is tuple
            marks = getattr(get_args(hint)[0] if many else hint, "__metadata__", ())
            marked = next((mark for mark in marks if isinstance(mark, Room)), None)
            if marked:
                yield (*above, name), (marked, many)
            elif dataclasses.is_dataclass(hint):
                yield from walk(hint, (*above, name))  # type: ignore[arg-type]

    return dict(walk(Project, ()))


def room_of(path: tree.Path) -> Room | None:
    """Return the room whose plug-in a path names, if any."""
    known = rooms()
    if path in known:
        room, many = known[path]
        return None if many else room
    above, in_list = known.get(path[:-1], (None, False))
    return above if in_list else None


def places(values: dict[str, Any]) -> list[tuple[tree.Path, Room]]:
    """Return the place and room of every plug-in, the defaults of settings that the file leaves out among them."""
    found: list[tuple[tree.Path, Room]] = []
    for path, (room, many) in rooms().items():
        section: Any = values
        kind: Any = Project
        for step in path[:-1]:
            kind = get_type_hints(kind)[str(step)]
            section = section.setdefault(step, {}) if isinstance(section, dict) else section
        if not isinstance(section, dict):
            continue
        if path[-1] not in section:
            default = next(item for item in dataclasses.fields(kind) if item.name == path[-1])
            if default.default_factory is dataclasses.MISSING:
                continue
            section[path[-1]] = {"kind": default.default_factory().kind}
        if not many:
            found.append((path, room))
        elif isinstance(section[path[-1]], list):
            found.extend(((*path, index), room) for index in range(min(len(section[path[-1]]), translate.MOST_TOLD)))
    return found


def resolve(settings: tree.Tree, place: tree.Path, room: Room, modules: dict[tree.Path, Any]) -> list[Problem]:
    """Check one plug-in, and put `{kind, options}` in its place, with every option resolved.

    Args:
        settings: the values of the file; changed in place.
        place: where the plug-in stands.
        room: the room that it is looked for in.
        modules: filled with the plug-in's module, if nothing is wrong.

    Returns:
        What is wrong with the name or the options.
    """
    written = settings.get(place)
    values = {"kind": written} if isinstance(written, str) else written
    resolved: dict[str, Any] = {"kind": "", "options": {}}
    holder = settings.get(place[:-1])
    holder[place[-1]] = resolved
    try:
        catalogue = plugins.room(room.package)
    except (ImportError, PluginError) as error:
        return [settings.problem(place, tree.shown(written), "a plug-in", f"its catalogue can't be opened: {error}")]
    wanted = f"the name of one {catalogue.what}, or its name and options, as {{kind: {next(iter(catalogue), 'NAME')}}}"
    if not isinstance(values, dict):
        return [settings.problem(place, tree.shown(written), wanted)]
    options = {key: value for key, value in values.items() if key != "kind"}
    if "kind" not in values:
        near = next((name for name in options if name.lower() in ("type", "name", "method")), None)
        hint = f"did you mean `kind` where it says `{near}`?" if near else did_you_mean("", catalogue)
        return [settings.problem(place, tree.shown(written), wanted, hint)]
    kind, at = values["kind"], (*place, "kind") if isinstance(written, dict) else place
    wanted = f"the name of one {catalogue.what}"
    if not isinstance(kind, str):
        return [settings.problem(at, tree.shown(kind), wanted, did_you_mean("", catalogue))]
    try:
        module = catalogue.load(kind)
    except UnknownPlugin as error:
        return [settings.problem(at, tree.shown(kind), wanted, error.hint)]
    except PluginError as error:
        wanted = f"one {catalogue.what} that can be used here"
        return [settings.problem(at, tree.shown(kind), wanted, f"{error.message}. {error.hint}")]
    resolved["kind"] = kind
    section: type | None = getattr(module, "Options", None)
    if section is None:
        modules[place] = module
        return [
            settings.problem((*place, key), tree.shown(value), f"nothing: {kind!r} has no options", "remove it")
            for key, value in options.items()
        ]
    try:
        found = adapter(_forbidding(section)).validate_json(json.dumps(options), strict=True)
        # By way of JSON, so that options are the same whether they come from a project file or from a lock.
        resolved["options"] = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    except pydantic.ValidationError as error:
        return translate.problems(error, settings, section, place)
    except LubanError as error:
        wanted = f"options that {kind!r} takes"
        return [settings.problem(place, tree.shown(written), wanted, f"{error.message}. {error.hint}")]
    modules[place] = module
    return []


def score_names(task: Any, options: dict[str, Any]) -> tuple[str, ...]:
    """Return the scores that a task's module says it gives, the main one first; empty where it does not say."""
    return tuple(task.scores(task.Options(**options))) if hasattr(task, "scores") else ()


@lru_cache(maxsize=64)
def adapter(section: type) -> pydantic.TypeAdapter[Any]:
    """Return what validates the values of a dataclass."""
    return pydantic.TypeAdapter(section)


@lru_cache(maxsize=64)
def _forbidding(section: type) -> type:
    """Return a plug-in's options as a dataclass that refuses unknown keys and numbers that are not finite."""
    config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    frozen = section.__dataclass_params__.frozen  # type: ignore[attr-defined]
    wrapped: type = pydantic.dataclasses.dataclass(config=config, frozen=frozen)(section)
    return wrapped
