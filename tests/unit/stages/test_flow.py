"""The order of the stages: what may be asked for again."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.errors import ProjectError
from luban.project.load import load
from luban.stages import check, train


def test_a_stage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nfine,good\npoor,bad\n", "utf-8")
    (tmp_path / "luban.yaml").write_text("{name: p, task: classify, base: minilm-l6, data: {train: rows.csv}}", "utf-8")
    with pytest.raises(ProjectError, match=r"'trian'.*did you mean 'train'"):
        train(load(tmp_path), force=["trian"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("base", ["foo", "./foo"])
def test_a_quick_check_refuses_a_base_that_is_not_there(tmp_path: Path, base: str) -> None:
    rows = [f"{'fine' if n % 2 else 'poor'} {n},{'ab'[n % 2]}" for n in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    (tmp_path / "luban.yaml").write_text("{name: p, task: classify, base: minilm-l6, data: {train: rows.csv}}", "utf-8")
    with pytest.raises(ProjectError, match="wanted a name that `luban bases` lists"):
        check(load(tmp_path, [f"base={base}"]), quick=True)
    assert check(load(tmp_path, ["base=hf:nobody/asks"]), quick=True)
    (tmp_path / "foo").mkdir()
    assert check(load(tmp_path, [f"base={base}"]), quick=True)
