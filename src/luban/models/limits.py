"""What this process may use of the machine: a container's share, not the host's."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED_BYTES = 2**60


def cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: by affinity, and by the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(allowed)]
    for folder in _groups("cpu", root):
        text = read_text(folder / "cpu.max").split()
        if len(text) == 2 and text[0] != "max":
            quotas.append(float(text[0]) / float(text[1]))
        quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
        if quota and period and float(quota) > 0:
            quotas.append(float(quota) / float(period))
    return max(1, int(min(quotas)))


def threads() -> int:
    """Return how many threads matrix products take where nobody says: one a physical core that may be used."""
    import psutil

    n_cores = cores()
    return max(1, min(n_cores, psutil.cpu_count(logical=False) or n_cores))


def cpu_name() -> str:
    """Return the processor's architecture and model, as `x86_64 Intel(R) Xeon(R) CPU @ 2.20GHz`."""
    lines = read_text(Path("/proc/cpuinfo")).splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {names[0] if names else platform.processor()}".strip()


def memory_limit(root: Path = Path("/")) -> tuple[int, int]:
    """Return the memory limit of this process's control group and what of it is in use, in bytes.

    Cached files count as free: the kernel gives them up first. Without a limit, the first is beyond any machine's.
    """
    tightest, used = _UNLIMITED_BYTES, 0
    for folder in _groups("memory", root):
        for limit_name, used_name, cached_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            text = read_text(folder / limit_name)
            if text.isdigit() and int(text) < tightest:
                tightest = int(text)
                cached = dict(
                    line.split()[:2] for line in read_text(folder / "memory.stat").splitlines() if " " in line
                )
                used = int(read_text(folder / used_name) or 0) - int(cached.get(cached_name, 0))
    return tightest, max(0, used)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups for a controller, from its own up to the root's."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts), -1, -1):
            yield mount.joinpath(*parts[:length])


def read_text(path: Path) -> str:
    """Return what stands in a file of the system, stripped; nothing where it can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
