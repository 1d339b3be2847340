"""A registry without keys, and what a server does not import for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from luban.serve.access import Open
from luban.serve.process import Settings, access
from luban.serve.unlocked import Unlocked, may_hold_keys


def test_where_no_registry_is_everybody_is_let_in_and_no_database_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from luban.serve.process import Settings, access\n"
        "access(Settings(models={}, registry=sys.argv[1])).close(); print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "none"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_what_knows_the_keys(tmp_path: Path) -> None:
    found = access(Settings(models={}, registry=str(tmp_path / "none")))
    assert isinstance(found, Unlocked)
    found.close()
    assert isinstance(access(Settings(models={})), Open)


def test_what_may_hold_keys(tmp_path: Path) -> None:
    assert may_hold_keys(str(tmp_path)) and may_hold_keys("postgresql://me@here/there")
    assert not may_hold_keys(str(tmp_path / "none"))
