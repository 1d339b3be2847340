"""Read a project file: parse, override, check, and tell every problem at once with its place, its line and the mend."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import pydantic

from luban.errors import Problem, ProjectError, did_you_mean
from luban.project import across, lock, plugged, translate, tree
from luban.project.schema import Plugin, Project

FILE = "luban.yaml"
DATA_ROOTS = "LUBAN_DATA_ROOTS"
_PARTS = ("train", "validation", "test")
_UNLABELLED = "compress.unlabelled"
_DATA_PATHS = (*(f"data.{part}" for part in _PARTS), _UNLABELLED)


@dataclass(frozen=True)
class Loaded:
    """A project that passed every check, and where it came from."""

    project: Project
    root: Path
    """The folder of the project file, real and absolute; the project's paths start there."""
    digest: str
    """SHA-256 of the resolved settings: the same for files that differ in order, comments or written-out defaults."""
    source: str
    """What the project file is called in messages."""
    overrides: tuple[str, ...] = ()
    """Settings given beside the file, e.g. `train.epochs=3`."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Setting -> line of the file, counted from 1, for those that the file itself sets."""

    def path(self, written: str) -> Path:
        """Return the absolute path of a file that the project names."""
        return Path(os.path.realpath(self.root / written))

    def data_files(self) -> dict[str, Path]:
        """Return the files of `data.train`, `data.validation` and `data.test`, those that are set.

        Raises:
            ProjectError: one of them is not there; all that are missing are listed, with the nearest names.
        """
        return self._files({part: (f"data.{part}", getattr(self.project.data, part)) for part in _PARTS})

    def unlabelled_file(self) -> Path | None:
        """Return the file of `compress.unlabelled`, if it is set.

        Raises:
            ProjectError: it is not there.
        """
        return self._files({"": (_UNLABELLED, self.project.compress.unlabelled)}).get("")

    def want(self, place: str, written: Sequence[str]) -> None:
        """Make sure that what a setting names is there.

        Args:
            place: the setting.
            written: files or folders that are written there.

        Raises:
            ProjectError: one of them is not there.
        """
        self._files({one: (place, one) for one in written})

    def _files(self, named: Mapping[str, tuple[str, str | None]]) -> dict[str, Path]:
        """Return name -> file for each (setting, what is written there) that is set; raise where one is not there."""
        files, problems = {}, []
        for name, (place, written) in named.items():
            if written is None:
                continue
            path = files[name] = self.path(written)
            if not path.exists():
                siblings = (
                    sorted(item.name for item in path.parent.iterdir() if item.name[:1] != ".")
                    if path.parent.is_dir()
                    else []
                )
                hint = did_you_mean(path.name, siblings[:40]) or f"nothing is in {path.parent}"
                got, wanted = tree.shown(written), "a file or folder that is there"
                problems.append(Problem(place, got, wanted, self.lines.get(place), hint))
        if problems:
            raise ProjectError(problems, source=self.source)
        return files


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded:
    """Read a project file.

    Args:
        path: the file, or the folder that holds `luban.yaml`.
        overrides: settings that go before the file's, as `train.epochs=3`, with values in YAML.

    Raises:
        ProjectError: with every problem found: in the YAML, the settings, the plug-ins' options, and between settings.
    """
    file = Path(path)
    try:
        if file.is_dir():
            file = file / FILE
        with file.open("rb") as stream:
            data = stream.read(tree.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        hint = "name the project file or its folder, or write one with `luban init DATA`"
        raise ProjectError([Problem(tree.shown(str(file))[1:-1], said, "a project file", hint=hint)]) from error
    source = str(file)
    if len(data) > tree.MAX_BYTES:
        problem = Problem(source, f"more than {tree.MAX_BYTES} bytes", "a project file of at most 1 MB")
        raise ProjectError([problem], source=source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"bytes that are not UTF-8 (at byte {error.start})"
        problem = Problem(source, got, "UTF-8 text", line, "save the file as UTF-8")
        raise ProjectError([problem], source=source) from error
    return parse(text, root=file.parent, overrides=overrides, source=source)


def parse(text: str, *, root: Path, overrides: Sequence[str] = (), source: str = FILE) -> Loaded:
    """Read the text of a project file whose paths start at `root`; see `load`."""
    try:
        settings = tree.parse(text, source)
    except tree.Unreadable as error:
        raise ProjectError([error.problem], source=source) from error
    settings.lines.setdefault((), 1)
    if settings.value is None:
        settings.value = {}
    if not isinstance(settings.value, dict):
        wanted = "sections and settings, such as `name: my-project`"
        raise ProjectError([Problem(source, tree.shown(settings.value), wanted, line=1)], source=source)
    _open_sections(Project, settings.value)
    problems = [problem for override in overrides for problem in _override(settings, override)]
    problems.extend(settings.problems)
    _open_sections(Project, settings.value)

    found: list[Problem] = []
    modules: dict[tree.Path, Any] = {}
    for place, room in plugged.places(settings.value):
        found.extend(plugged.resolve(settings, place, room, modules))
    known_scores: tuple[str, ...] = ()
    if ("task",) in modules:
        known_scores = plugged.score_names(modules["task",], settings.get(("task", "options")))
        if known_scores and isinstance(train := settings.value["train"], dict):
            train.setdefault("choose_by", known_scores[0])
    project: Project | None = None
    n_untold = 0
    try:
        project = plugged.adapter(Project).validate_json(json.dumps(settings.value), strict=True)
    except pydantic.ValidationError as error:
        told = translate.problems(error, settings, Project)
        found.extend(told)
        n_untold = error.error_count() - len(told)
    root = Path(os.path.realpath(root))
    found.extend(_paths(settings, root))
    adapter = modules.get(("train", "adapter"))
    low_rank = adapter is None or hasattr(adapter, "low_rank")
    found.extend(across.problems(settings, known_scores, low_rank=low_rank))
    lost = {settings.where(path) for path in settings.lost}
    problems.extend(problem for problem in found if problem.where not in lost)
    if problems or project is None:
        in_order = sorted(dict.fromkeys(problems), key=lambda one: (one.line is None, one.line or 0))
        raise ProjectError(in_order[: translate.MOST_TOLD], source=source, total=len(in_order) + n_untold)
    return Loaded(
        project=project,
        root=root,
        digest=lock.digest(project),
        source=source,
        overrides=tuple(overrides),
        lines={tree.dotted(path): line for path, line in settings.lines.items() if path},
    )


def _open_sections(section: type, values: dict[str, Any]) -> None:
    """Read a section with nothing in it as an empty one, as `train:` alone on its line is meant."""
    for name, kind in get_type_hints(section).items():
        if dataclasses.is_dataclass(kind) and kind is not Plugin:
            if name in values and values[name] is None:
                values[name] = {}
            if isinstance(values.get(name), dict):
                _open_sections(kind, values[name])  # type: ignore[arg-type]


def _override(settings: tree.Tree, override: str) -> list[Problem]:
    """Set one `path=value`, and return what is wrong with it."""
    place = f"override {tree.shown(override)}"
    written, equals, value = override.partition("=")
    steps = tuple(step.strip() for step in written.split("."))
    if not equals or not all(steps) or len(steps) > tree.MAX_DEPTH:
        return [Problem(place, "no setting" if equals else "no `=`", "SETTING=VALUE, e.g. train.epochs=3")]
    try:
        parsed = tree.parse(value, place)
    except tree.Unreadable as error:
        return [dataclasses.replace(error.problem, line=None)]
    if parsed.problems:
        return [dataclasses.replace(problem, where=place, line=None) for problem in parsed.problems]
    path: tree.Path = ()
    for step in steps:
        there = settings.get(path)
        if isinstance(there, str) and plugged.room_of(path) is not None:
            settings.put(path, {"kind": there}, place)
        path = (*path, int(step) if isinstance(there, list) and step.isdecimal() and len(step) < 10 else step)
    try:
        settings.put(path, parsed.value, place)
    except LookupError as error:
        return [Problem(place, str(error.args[0]), f"a section in which {tree.shown(steps[-1])} can be set")]
    return []


def _paths(settings: tree.Tree, root: Path) -> list[Problem]:
    """Check that data paths stay under the project, or under a folder that the user of this machine has allowed."""
    allowed = [folder for folder in os.environ.get(DATA_ROOTS, "").split(os.pathsep) if folder]
    roots = [root, *(Path(os.path.realpath(folder)) for folder in allowed)]
    problems = []
    for name in _DATA_PATHS:
        path = tuple(name.split("."))
        written = settings.get(path)
        if not isinstance(written, str):
            continue
        if not written.strip() or "\0" in written:
            problems.append(settings.problem(path, tree.shown(written), "the path of a file or folder"))
            continue
        if "://" in written:
            hint = "download the file into the project's folder and name it there"
            problems.append(settings.problem(path, tree.shown(written), "a path on this machine", hint))
            continue
        real = Path(os.path.realpath(root / written))
        if not any(real.is_relative_to(folder) for folder in roots):
            got = f"{tree.shown(written)}, a link to {real}" if _is_inside(written) else tree.shown(written)
            hint = f"copy the data into {root}, or allow their folder: export {DATA_ROOTS}={real.parent}"
            problems.append(settings.problem(path, got, "a path under the project's folder", hint))
    return problems


def _is_inside(written: str) -> bool:
    """Return whether a path would stay inside if no folder on it were a link."""
    return not os.path.isabs(written) and not os.path.normpath(written).startswith("..")
