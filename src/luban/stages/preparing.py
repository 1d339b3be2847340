"""The stage `prepare`: read the labelled files, split them, and keep the rows as Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from luban.data import write
from luban.data.read import read
from luban.data.split import Splits, split
from luban.files import digest_bytes, digest_file, new_folder, seal, write_json
from luban.project import lock
from luban.stages.places import DATA
from luban.stages.record import Run, code_digest

PARTS = ("train", "validation", "test")


def prepare(run: Run) -> Mapping[str, Any]:
    """Read and split the project's files; the facts tell labels, counts and what the split did."""
    project = run.loaded.project
    files = run.loaded.data_files()
    settings = lock.resolved(project)
    section = {key: value for key, value in settings["data"].items() if key not in (*PARTS, "languages")}
    inputs = {
        "data": {name: {"digest": _digest(path)} for name, path in files.items()},
        "settings": {"data": section, "task": settings["task"]},
        "code_digest": code_digest("data"),
    }

    def work() -> dict[str, Any]:
        sets = {}
        for name, path in files.items():
            run.tell("prepare", f"reading {path.name}")
            # As the project file has it, so that a project gives the same bundle wherever its folder stands.
            sets[name] = replace(read(path, project.data, project.task.kind), source=getattr(project.data, name))
        run.tell("prepare", "splitting")
        splits = split(sets["train"], project.data, validation=sets.get("validation"), test=sets.get("test"))
        labels = labels_of(splits, project.task.kind)
        with new_folder(run.folder / DATA, replace=True) as aside:
            for name in PARTS:
                write.save(getattr(splits, name), aside / f"{name}.arrow")
            write_json(aside / "labels.json", labels)
            seal(aside, {"kind": "data"})
        return {"labels": labels, "split": dict(splits.report)}

    return run.stage("prepare", inputs, [DATA], work)


def open_splits(run: Run, report: Mapping[str, Any]) -> Splits:
    """Return the rows that `prepare` kept, memory-mapped, with what it told of the split."""
    train, validation, test = (write.open_dataset(run.folder / DATA / f"{name}.arrow") for name in PARTS)
    return Splits(train, validation, test, report)


def labels_of(splits: Splits, kind: str) -> list[str]:
    """Return the labels of the training rows, sorted; of `tag` the kinds of entity."""
    import pyarrow.compute as pc

    column = splits.train.table.column("tags" if kind == "tag" else "labels")
    values = [value for value in pc.unique(pc.list_flatten(column)).to_pylist() if value is not None]
    return sorted({value[2:] for value in values if value != "O"} if kind == "tag" else values)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        return digest_file(path)
    lines = (f"{file.relative_to(path)} {digest_file(file)}" for file in sorted(path.rglob("*")) if file.is_file())
    return digest_bytes("\n".join(lines).encode())
