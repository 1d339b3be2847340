"""The order of the stages: what may be asked for again."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.errors import ProjectError
from luban.project.load import load
from luban.stages import train


def test_a_stage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nfine,good\npoor,bad\n", "utf-8")
    (tmp_path / "luban.yaml").write_text("{name: p, task: classify, base: minilm-l6, data: {train: rows.csv}}", "utf-8")
    with pytest.raises(ProjectError, match=r"'trian'.*did you mean 'train'"):
        train(load(tmp_path), force=["trian"])
    assert not (tmp_path / "runs").exists()
