"""What a package is compared on, and with which difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from unit.bundle.made import Made, made, texts

from luban import files
from luban.bundle.reference import made_up
from luban.errors import DataError, NotFound, UnknownPlugin
from luban.records import Progress
from luban.stages.packaging import package


@pytest.fixture
def it(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a bundle that stands alone, without the run that made it."""
    return made(tmp_path_factory, "classify", "onnx")


def test_without_rows_they_are_made_up_to_the_drift_reference(it: Made, tmp_path: Path) -> None:
    told: list[Progress] = []
    found = package("onnx", tmp_path / "it", bundle=it.folder, on_progress=told.append)
    assert found.rows == 256
    assert "drift reference" in found.rows_from
    assert found.proof["allowed"] == 1e-3
    assert found.size_mb > 0.1
    assert "drift reference" in told[0].message
    reference = files.read_json(it.folder / "reference.json")
    rows = made_up(reference, 500)
    assert rows == made_up(reference, 500)
    seen = set(it.rows.ids.tolist())
    assert {token for row in rows for token in row} <= seen
    assert max(map(len, rows)) <= 45  # the bin that the longest window is in


def test_a_file_of_rows_is_taken(it: Made, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": text}) for text in texts(30)), "utf-8")
    found = package("onnx", tmp_path / "it", bundle=it.folder, rows=rows, column="question")
    assert (found.rows, found.rows_from) == (30, "the rows of rows.jsonl")


def test_a_file_of_no_rows_is_refused(it: Made, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("", "utf-8")
    with pytest.raises(DataError):
        package("onnx", tmp_path / "it", bundle=it.folder, rows=rows)
    assert not (tmp_path / "it").exists()


def test_the_projects_own_difference_is_kept(it: Made, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(it.folder, folder)
    project = files.read_json(folder / "project.json")
    files.write_json(folder / "project.json", {**project, "export": {"max_difference": 0.25}})
    files.seal(folder, {"kind": "bundle"})
    assert package("onnx", tmp_path / "it", bundle=folder).proof["allowed"] == 0.25
    assert package("onnx", tmp_path / "other", bundle=folder, max_difference=0.5).proof["allowed"] == 0.5


def test_no_bundle_and_no_such_kind_are_told(it: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="has made a bundle"):
        package("onnx", tmp_path / "it")
    with pytest.raises(UnknownPlugin, match="known: docker, kserve, mlflow, onnx, openvino, sagemaker, tensorflow"):
        package("paddle", tmp_path / "it", bundle=it.folder)
