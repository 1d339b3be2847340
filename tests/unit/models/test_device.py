"""The machine as this process may use it, and what `luban doctor` finds."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from luban.errors import install
from luban.models import device
from luban.models.device import Machine
from luban.records import Finding

GIB = 2**30
Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return what writes files beneath a root of its own."""

    def write(files: dict[str, str]) -> Path:
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000",
          "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "400000",
          "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000"}, 4),
        ({"proc/self/cgroup": "4:cpu:/x\n", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000"}, 8),
        ({"proc/self/cgroup": "nonsense\n0::/../..\n", "sys/fs/cgroup/cpu.max": "odd"}, 8),
    ],
)  # fmt: skip
def test_cores_of_a_container(tree: Tree, files: dict[str, str], wanted: int) -> None:
    assert device.cores(tree(files)) == wanted


@pytest.mark.parametrize(
    ("files", "limit", "used"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max"}, None, 0),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": str(2 * GIB),
          "sys/fs/cgroup/a/memory.current": str(GIB), "sys/fs/cgroup/memory.max": str(4 * GIB),
          "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GIB // 4}\n"},
         2 * GIB, GIB * 3 // 4),
        ({"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(GIB),
          "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "1000",
          "sys/fs/cgroup/memory/a/memory.stat": "total_inactive_file 400\n"},
         GIB, 600),
        ({"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**62}"}, None, 0),
    ],
)  # fmt: skip
def test_memory_of_a_container(tree: Tree, files: dict[str, str], limit: int | None, used: int) -> None:
    found = device.memory_limit(tree(files))
    assert found == (2**60 if limit is None else limit, used)


def test_machine_is_measured_once_and_leaves_threads_alone() -> None:
    before = torch.get_num_threads()
    found = device.machine()
    assert device.machine() is found
    assert torch.get_num_threads() == before
    assert 1 <= found.threads <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.free_bytes < found.memory_bytes
    assert found.fp32_gflops and found.fp32_gflops > 1
    assert json.loads(json.dumps(found.to_json()))["cores"] == found.cores


@pytest.mark.parametrize(("fp32", "bf16", "pays"), [(100.0, 250.0, True), (100.0, 110.0, False), (None, None, False)])
def test_bf16_pays_where_it_is_clearly_faster(fp32: float | None, bf16: float | None, pays: bool) -> None:
    assert dataclasses.replace(device.machine(), fp32_gflops=fp32, bf16_gflops=bf16).bf16_pays is pays


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """Return findings by what they looked at."""
    return {finding.what: finding for finding in findings}


def test_findings_on_this_machine() -> None:
    found = by_name(device.findings())
    assert {"python", "disk", "memory", "cores", "speed", "accelerator", "bases", "trial"} <= set(found)
    assert "sqlite" not in found, "a warning about what Luban does not use helps nobody"
    assert found["trial"].verdict == "PASS"
    assert "GFLOP/s in fp32" in found["speed"].message
    for finding in found.values():
        assert finding.verdict in ("PASS", "WARN", "FAIL")
        assert bool(finding.mend) is (finding.verdict != "PASS"), finding
        json.dumps(dict(finding.facts))


def test_scarce_memory_and_hobbled_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    poor = Machine("a CPU", 8, 4, 2 * GIB, GIB // 2, None, None, (), False)
    found = by_name(list(device._hardware(poor)))
    assert (found["memory"].verdict, found["cores"].verdict) == ("FAIL", "WARN")
    assert "OMP_NUM_THREADS=1" in found["cores"].message
    assert found["speed"].mend == install("train")
    monkeypatch.delenv("OMP_NUM_THREADS")
    rich = Machine("a CPU", 8, 4, 64 * GIB, 32 * GIB, 100.0, 300.0, ("A100",), True)
    found = by_name(list(device._hardware(rich)))
    assert {finding.verdict for finding in found.values()} == {"PASS"}
    assert "bf16 pays" in found["speed"].message
    assert found["accelerator"].message == "torch can use A100, an Apple GPU (train.device: mps)"


def test_packages_as_the_metadata_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "numpy>=1",
        "no-such-package>=2",
        "torch>=999; extra == 'train'",
        "pytest; extra == 'train'",
        "other; extra == 'dev'",
    ]
    monkeypatch.setattr(device.metadata, "requires", lambda name: wanted)

    class Metadata:
        @staticmethod
        def get_all(key: str) -> list[str]:
            return ["train", "dev"]

    monkeypatch.setattr(device.metadata, "metadata", lambda name: Metadata)
    found = by_name(list(device._packages()))
    assert set(found) == {"packages", "extra train"}
    assert (found["packages"].verdict, found["packages"].mend) == ("FAIL", install(upgrade=True))
    assert "1 of 2 packages: no-such-package is missing" in found["packages"].message
    assert (found["extra train"].verdict, found["extra train"].mend) == ("WARN", install("train", upgrade=True))
    assert "wanted >=999" in found["extra train"].message


def test_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = device.shutil.disk_usage(tmp_path)
    for free, verdict in ((10 * GIB, "PASS"), (2 * GIB, "WARN"), (GIB // 2, "FAIL")):
        monkeypatch.setattr(device.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        assert device._disk(tmp_path / "not" / "there").verdict == verdict


def test_usable_without_torch() -> None:
    script = """
import importlib.util, json, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ("torch", "transformers") else find(name, package)
from luban.models import device
found = {finding.what: finding.verdict for finding in device.findings()}
print(json.dumps([found, "torch" in sys.modules, "transformers" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found, *imported = json.loads(done.stdout)
    assert imported == [False, False]
    assert (found["speed"], found["trial"], found["memory"]) == ("WARN", "WARN", found["memory"])
