"""What do ten tasks on one base cost? Memory and latency of ten bundles that share it, beside ten that do not.

    python bench/many.py               # minilm-l6: five classifiers (77 labels), five taggers (4), adapters of rank 8
    python bench/many.py --smoke       # a quick pass with a tiny base

One classifier and one tagger are exported, for the runtimes `onnx-shared` and `onnx`; the other tasks are these with an
adapter of their own. Weights are random, which changes neither memory nor speed. Every case is a process of its own
that opens its bundles, answers 20 texts with each, and then tells what is resident: PSS, where pages that processes
share are divided among them. Then short texts are answered one by one, each by the next bundle.

Reach: ten that share a base are resident in at most 1.3x of one. Prints ratios, writes JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEXTS = ["Where is my new card?", "I want to pay a late bill again", "我的卡丢了，什么时候能到北京？", "refund"] * 5
CLASSES, TAGS = [f"label {number}" for number in range(77)], ["person", "place", "time", "sum"]
RANK, N_TASKS = 8, 10
RUNTIMES = ("onnx-shared", "onnx")


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=200, help="texts whose time is taken in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/many.json"))
    parser.add_argument("--worker", nargs="+", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.n, args.threads)
        return
    if args.smoke:
        args.rounds, args.n = 1, 20
    with tempfile.TemporaryDirectory() as folder:
        bundles = make_bundles(Path(folder), "tiny" if args.smoke else args.base)
        found = measure(bundles, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(bundles: dict[str, list[Path]], args: argparse.Namespace) -> dict[str, Any]:
    """Run every case in turn, print the table and return it."""
    shared, alone = bundles["onnx-shared"], bundles["onnx"]
    cases = {
        "one, merged": [alone[:1]],
        "one, shared": [shared[:1]],
        "ten, shared": [shared],
        "ten, merged": [alone],
        "ten processes": [[bundle] for bundle in alone],
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(args.rounds):  # in turn, so that what else the machine does strikes all alike
        for name, groups in cases.items():
            rounds[name].append(run(groups, args.n, args.threads))
    found: dict[str, Any] = {"base": args.base, "threads": args.threads, "tasks": N_TASKS, "cases": {}}
    clocks = ("opened_s", "p50_ms", "cpu_ms")
    middle = {
        name: {key: statistics.median(one[key] for one in told) for key in ("pss_mb", "rss_mb", *clocks)}
        for name, told in rounds.items()
    }
    one = middle["one, merged"]
    heads = f"{'PSS MB':>8s} {'of one':>7s} {'RSS MB':>8s} {'of one':>7s}   {'open s':>7s}"
    print(f"{'':14s} {heads}   {'ms a text':>9s} {'CPU ms':>7s} {'of one':>7s}")
    for name, row in middle.items():
        ratios = {key: row[key] / one[key] for key in row}
        found["cases"][name] = {**row, "of_one": ratios, "rounds": rounds[name]}
        print(
            f"{name:14s} {row['pss_mb']:8.1f} {ratios['pss_mb']:6.2f}x {row['rss_mb']:8.1f} {ratios['rss_mb']:6.2f}x   "
            f"{row['opened_s']:7.2f}   {row['p50_ms']:9.2f} {row['cpu_ms']:7.2f} {ratios['cpu_ms']:6.2f}x"
        )
    return found


def run(groups: list[list[Path]], n: int, threads: int) -> dict[str, float]:
    """Start a process a group, all resident together, and return their sums of memory and means of time."""
    command = [sys.executable, __file__, "--n", str(n), "--threads", str(threads), "--worker"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    going = [subprocess.Popen([*command, *map(str, group)], **pipes) for group in groups]

    def ask(what: str) -> list[dict[str, float]]:
        answers = []
        for process in going:  # one after the other: they would take the cores from each other
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit("a worker ended early; its error stands above")
            answers.append(json.loads(line))
        return answers

    opened, memory, times = ask("open"), ask("memory"), ask("times")
    for process in going:
        process.communicate()
    return {
        **{key: sum(one[key] for one in (*memory, *opened) if key in one) for key in ("pss_mb", "rss_mb", "opened_s")},
        **{key: statistics.mean(one[key] for one in times) for key in times[0]},
    }


def work(bundles: list[Path], n: int, threads: int) -> None:
    """Be one process: open the bundles, answer with each, and tell what is asked."""
    import psutil

    import luban

    sys.stdin.readline()
    started = time.perf_counter()
    engines = [luban.load(bundle, threads=threads) for bundle in bundles]
    tell(opened_s=time.perf_counter() - started)
    for engine in engines:
        engine.predict(TEXTS)
    gc.collect()
    sys.stdin.readline()
    memory = psutil.Process().memory_full_info()
    tell(pss_mb=memory.pss / 1e6, rss_mb=memory.rss / 1e6)
    sys.stdin.readline()
    times, processor = [], []
    for number in range(n):
        engine, text = engines[number % len(engines)], TEXTS[number % len(TEXTS)]
        wall, cpu = time.perf_counter(), time.process_time()
        engine.predict([text])
        times.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    tell(p50_ms=statistics.median(times) * 1e3, cpu_ms=statistics.median(processor) * 1e3)


def tell(**numbers: float) -> None:
    """Write numbers as one JSON line."""
    print(json.dumps(numbers), flush=True)


def make_bundles(folder: Path, base: str) -> dict[str, list[Path]]:
    """Return runtime -> ten sealed bundles: a classifier and a tagger, and others with random adapters of their own."""
    made: dict[str, list[Path]] = {runtime: [] for runtime in RUNTIMES}
    for runtime in RUNTIMES:
        first = [export(folder / f"{runtime}-{kind}", base, kind, runtime) for kind in ("classify", "tag")]
        made[runtime] = [*first, *(vary(first[n % 2], folder / f"{runtime}-{n}", n) for n in range(2, N_TASKS))]
    return made


def export(folder: Path, base: str, kind: str, runtime: str) -> Path:
    """Return a sealed bundle of a base with a random adapter and a random head."""
    import torch

    from luban import files
    from luban.adapters import attach, low_rank, merge
    from luban.bundle import runtimes, seal
    from luban.bundle.engine import Engine
    from luban.models import base as bases
    from luban.models import tiny
    from luban.models.heads import TaskModel
    from luban.models.processor import Processor, ProcessorSettings
    from luban.project import lock
    from luban.project.schema import DataSection, Plugin, Project
    from luban.records import Calibration, Report
    from luban.tasks import make

    found = tiny.make(folder.with_name(f"{folder.name}-base"), TEXTS) if base == "tiny" else bases.find(base, Path())
    facts, labels = found.facts, CLASSES if kind == "classify" else TAGS
    task, options = make(kind, {}, labels), {"rank": RANK}
    settings = ProcessorSettings(max_length=min(128, facts.max_length), prefix=facts.prefix, clean=("unicode",))
    processor = Processor(settings, (found.folder / "tokenizer.json").read_text("utf-8"))
    torch.manual_seed(0)
    plain: Any = bases.load_body(found)
    body = attach(copy.deepcopy(plain), "lora", options)
    with torch.no_grad():
        for part in body.parameters():
            if part.requires_grad:
                part.copy_(torch.randn_like(part) * 0.02)
    head = task.head(plain.config.hidden_size, dropout=0.0, pooling=facts.pooling)
    model = TaskModel(merge(body, "lora"), head).eval()
    rows = task.encode(TEXTS, processor)
    origin = runtimes.Origin(plain, low_rank(plain, "lora", options))
    with files.new_folder(folder.with_name(f"{folder.name}-graph")) as aside:
        told = runtimes.write(runtime, model, aside, rows, origin=origin)
        runner = runtimes.open(runtime, aside, told)
        files.seal(aside, {"kind": "graph"})
    engine = Engine(name="bench", task=task, processor=processor, runner=runner, calibration=Calibration())
    project = Project(name="bench", task=Plugin(kind=kind), base=base, data=DataSection(train="rows.jsonl"))
    seal.seal(
        folder, name="bench", task={"kind": kind, "options": {}, "labels": labels, "facts": {}}, base=facts,
        runtime=told, graph=folder.with_name(f"{folder.name}-graph"), processor=processor, calibration=Calibration(),
        report=Report("bench", kind, {}, {}, {}, {}), reference=engine.reference(TEXTS), project=lock.resolved(project),
    )  # fmt: skip
    return folder


def vary(bundle: Path, folder: Path, seed: int) -> Path:
    """Return a copy of a bundle, sealed anew, whose adapter is another where it stands apart."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from luban import files
    from luban.bundle.runtimes.onnx_shared import ADAPTER

    shutil.copytree(bundle, folder)
    if (folder / ADAPTER).exists():
        chance = np.random.default_rng(seed)
        save_file(
            {name: chance.permutation(part) for name, part in load_file(folder / ADAPTER).items()}, folder / ADAPTER
        )
    (folder / files.MANIFEST).unlink()
    files.seal(folder, {"kind": "bundle"})
    return folder


if __name__ == "__main__":
    main()
