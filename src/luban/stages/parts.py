"""What a project's settings mean as objects: the base, the task, the processor. Here a Project is unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luban.errors import Problem, ProjectError
from luban.evaluate.measure import Measure
from luban.files import read_json, write_json
from luban.models import base as bases
from luban.models.facts import BaseFolder
from luban.models.processor import Processor, ProcessorSettings
from luban.project.load import Loaded
from luban.records import Listener, ignore
from luban.tasks import Task
from luban.tasks import make as make_task

BASE_LOCK = "luban.lock.json"


def find_base(loaded: Loaded, on_progress: Listener = ignore) -> BaseFolder:
    """Return the project's base, at the revision that the lock beside the project file pins, and pin it if none is."""
    path = loaded.root / BASE_LOCK
    name = loaded.project.base
    pinned = read_json(path) if path.is_file() else {}
    revision = pinned.get("revision") if pinned.get("base") == name else None
    found = bases.find(name, loaded.root, revision=revision, on_progress=on_progress)
    if found.facts.revision and revision is None:
        write_json(path, {"base": name, "revision": found.facts.revision, "digest": found.facts.digest})
    return found


def task_of(loaded: Loaded, labels: Sequence[str]) -> Task:
    """Return the project's task over these labels."""
    kind, options = task_json(loaded)
    return make_task(kind, options, labels)


def task_json(loaded: Loaded) -> tuple[str, dict[str, Any]]:
    """Return the task's kind and its options as JSON values."""
    task = loaded.project.task
    return task.kind, dict(task.options)


def is_multi_label(loaded: Loaded) -> bool:
    """Tell whether a text may have several labels."""
    return bool(loaded.project.task.options.get("multi_label"))


def measure_of(loaded: Loaded, task: Task) -> Measure:
    """Return how the project's predictions are scored."""
    return Measure(task.kind, tuple(task.labels), is_multi_label(loaded))


def processor_of(loaded: Loaded, base: BaseFolder) -> Processor:
    """Return the processor that the project's settings and its base make.

    Raises:
        ProjectError: the window is longer than the base's, or has no room for text.
    """
    project = loaded.project
    if project.max_length > base.facts.max_length:
        raise ProjectError(
            [_window(loaded, f"at most {base.facts.max_length}, the window of {project.base}")], source=loaded.source
        )
    options = project.task.options
    settings = ProcessorSettings(
        max_length=project.max_length,
        prefix=base.facts.prefix,
        long_text=options.get("long_text", "truncate"),
        stride=options.get("stride", 0),
        clean=project.data.clean,
        replace=dict(project.data.replace),
    )
    try:
        return Processor(settings, (base.folder / "tokenizer.json").read_text("utf-8"))
    except ValueError as error:
        raise ProjectError([_window(loaded, f"room for text: {error}")], source=loaded.source) from error


def _window(loaded: Loaded, wanted: str) -> Problem:
    return Problem("max_length", str(loaded.project.max_length), wanted, loaded.lines.get("max_length"))
