"""The lock: what is written is read back, damage is told, and differences are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luban.errors import CorruptBundle, NotFound
from luban.project import lock
from luban.project.load import parse

TEXT = "name: bank\ntask: {kind: classify, long_text: chunk}\nbase: minilm-l6\ndata: {train: a.csv}\n"


def settings(*overrides: str) -> dict[str, object]:
    return lock.resolved(parse(TEXT, root=Path(), overrides=overrides).project)


def test_resolved_has_every_setting_and_reads_as_a_project() -> None:
    found = settings()
    assert found["task"] == {"kind": "classify", "long_text": "chunk", "multi_label": False, "stride": 0}
    assert found["train"]["adapter"]["kind"] == "full"  # type: ignore[index]
    again = parse(json.dumps(found), root=Path())
    assert lock.resolved(again.project) == found
    assert again.digest == parse(TEXT, root=Path()).digest


def test_written_and_read(tmp_path: Path) -> None:
    project = parse(TEXT, root=Path()).project
    digest = lock.write(project, tmp_path)
    assert digest == lock.digest(project)
    assert lock.read(tmp_path) == lock.read(tmp_path / "project.lock.json") == settings()


def test_a_changed_lock_is_told(tmp_path: Path) -> None:
    lock.write(parse(TEXT, root=Path()).project, tmp_path)
    file = tmp_path / "project.lock.json"
    file.write_text(file.read_text("utf-8").replace('"chunk"', '"truncate"'), "utf-8")
    with pytest.raises(CorruptBundle, match=r"project\.lock\.json was changed"):
        lock.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"project": 3}', '{"project": {"a": NaN}}', "{", '{"project": {"a": "\\ud800"}}']
)
def test_no_locks(tmp_path: Path, text: str) -> None:
    (tmp_path / "project.lock.json").write_text(text)
    with pytest.raises(CorruptBundle, match=r"project\.lock\.json"):
        lock.read(tmp_path)


def test_no_lock_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        lock.read(tmp_path)


def test_changes_name_each_setting() -> None:
    before = settings()
    after = settings("train.epochs=5", "task.long_text=truncate", "data.languages=[zh]", "gates.accuracy=0.9")
    assert [str(change) for change in lock.changes(before, after)] == [
        "task.long_text: 'chunk' -> 'truncate'",
        "data.languages: [] -> ['zh']",
        "train.epochs: 3.0 -> 5.0",
        "gates.accuracy: nothing -> 0.9",
    ]
    assert lock.changes(after, after) == []
    assert [change.path for change in lock.changes(after, before)][-1] == "gates.accuracy"


def test_equal_numbers_are_no_change_and_truth_is_no_number() -> None:
    assert lock.changes({"a": 1}, {"a": 1.0}) == []
    assert len(lock.changes({"a": 1}, {"a": True})) == 1
