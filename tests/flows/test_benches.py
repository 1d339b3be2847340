"""Every script of `bench/` still measures: a quick pass on made-up rows, with no peer that has to be installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SCRIPTS = sorted(path.name for path in BENCH.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_pass_measures_and_writes_what_it_found(script: str, tmp_path: Path) -> None:
    if script in ("serve.py", "feedback.py") and not shutil.which("wrk"):
        pytest.skip("wrk is not installed: apt-get install wrk")
    out = tmp_path / "found.json"
    command = [sys.executable, str(BENCH / script), "--smoke", "--out", str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert json.loads(out.read_text())
