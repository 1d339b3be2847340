"""A registry without keys: everybody is let in."""

from __future__ import annotations

from pathlib import Path

from luban.serve.access import Open
from luban.serve.process import Settings, access
from luban.serve.unlocked import Unlocked, may_hold_keys


def test_what_knows_the_keys(tmp_path: Path) -> None:
    found = access(Settings(models={}, registry=str(tmp_path / "none")))
    assert isinstance(found, Unlocked)
    found.close()
    assert isinstance(access(Settings(models={})), Open)


def test_what_may_hold_keys(tmp_path: Path) -> None:
    assert may_hold_keys(str(tmp_path)) and may_hold_keys("postgresql://me@here/there")
    assert not may_hold_keys(str(tmp_path / "none"))
