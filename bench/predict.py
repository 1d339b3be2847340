"""How fast are answers? Luban's engine beside transformers' `pipeline` with batches of 32, same base, same rows.

    python bench/predict.py --rows texts.jsonl                       # speed: alternating segments
    python bench/predict.py --rows texts.jsonl --memory 1000000      # memory too: the rows again and again, takes long
    python bench/predict.py --smoke                                  # a quick pass on made-up rows and a tiny base

Rows are JSON lines with `text`. Both sides keep their model loaded and answer the same segments in turn, so that what
else the machine does strikes both alike. The head is not trained: that changes answers, not how long they take.
Reach: 3x the pipeline's rows a second; memory at 1,000,000 rows within 20% of that at 10,000. Prints ratios, writes
JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = ("luban", "pipeline")
WINDOW = 128
N_LABELS = 77


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--n", type=int, default=10_000, help="rows answered by each side")
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0, help="rows of the long file whose memory is measured")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/predict.json"))
    parser.add_argument("--worker", choices=(*METHODS, "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "memory":
        print(json.dumps(memory_of(args.folder, args.rows)))
    elif args.worker:
        work(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Make both models, let them answer in turn, then print the table and write it as JSON."""
    if args.smoke or args.rows is None:
        args.rows = made_up(folder / "rows.jsonl", 600)
        args.n, args.segments, args.memory = 600, 2, args.memory or 3000
    n_rows = min(args.n, sum(1 for _ in args.rows.open(encoding="utf-8")))
    make_bundle(folder, "tiny" if args.smoke else args.base, args.rows)
    workers = {method: Worker(args, method, folder) for method in METHODS}
    warm = min(200, n_rows)
    for worker in workers.values():
        worker.answer(0, warm)
    times: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    edges = [round(n_rows * part / args.segments) for part in range(args.segments + 1)]
    for begin, end in itertools.pairwise(edges):
        for method, worker in workers.items():
            times[method].append({**worker.answer(begin, end), "rows": end - begin})
            last = times[method][-1]
            print(f"rows {begin:6d}..{end:<6d} {method:9s} {last['rows'] / last['wall_s']:8.1f} rows/s", flush=True)
    for worker in workers.values():
        worker.close()
    found = told(times)
    if args.memory:
        found["memory"] = memory(folder, args.rows, args.memory, n_rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def told(times: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Print the table and return it: rates by the clock, and by processor time, which a busy machine changes less."""
    found: dict[str, Any] = {}
    print(f"\n{'':10s} {'rows/s':>9s} {'luban is':>9s}   {'rows per CPU second':>20s} {'luban is':>9s}")
    for method in METHODS:
        row: dict[str, Any] = {"segments": times[method]}
        for clock in ("wall_s", "cpu_s"):
            rates = [segment["rows"] / segment[clock] for segment in times[method]]
            ours = [segment["rows"] / segment[clock] for segment in times["luban"]]
            ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=True)]
            row[clock] = {"rows_per_s": statistics.median(rates), "ratio": statistics.median(ratios)}
        found[method] = row
        wall, cpu = row["wall_s"], row["cpu_s"]
        clocks = f"{wall['rows_per_s']:9.1f} {wall['ratio']:8.2f}x   {cpu['rows_per_s']:20.1f} {cpu['ratio']:8.2f}x"
        print(f"{method:10s} {clocks}")
    return found


class Worker:
    """One side, in a process of its own, that answers rows when it is told which."""

    def __init__(self, args: argparse.Namespace, method: str, folder: Path) -> None:
        command = [
            sys.executable, __file__, "--worker", method, "--folder", str(folder), "--rows", str(args.rows),
            "--threads", str(args.threads),
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()  # it says when the model is loaded

    def answer(self, begin: int, end: int) -> dict[str, float]:
        """Have rows answered and return seconds by the clock and of the processor."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{begin} {end}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        raise SystemExit("a worker ended early; its error stands above")


def work(args: argparse.Namespace) -> None:
    """Load one side, then answer what stdin asks for."""
    texts = [json.loads(line)["text"] for line in args.rows.open(encoding="utf-8")]
    if args.worker == "luban":
        import luban

        answer: Any = luban.load(args.folder / "bundle", threads=args.threads).predict
    else:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        if args.threads:
            torch.set_num_threads(args.threads)
        peer = str(args.folder / "peer")
        pipe = transformers.pipeline("text-classification", model=peer, tokenizer=peer, batch_size=32, device="cpu")

        def answer(rows: list[str]) -> Any:
            return pipe(rows, truncation=True, max_length=WINDOW)

    print("{}", flush=True)
    for line in sys.stdin:
        begin, end = map(int, line.split())
        rows = texts[begin:end]
        wall, cpu = time.perf_counter(), time.process_time()
        found = answer(rows)
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        assert len(found) == len(rows)
        print(json.dumps(seconds), flush=True)


def make_bundle(folder: Path, base: str, rows: Path) -> None:
    """Make `folder/bundle`, and `folder/peer` for transformers: the same body, an untrained head."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    from luban import files
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

    texts = [json.loads(line)["text"] for _, line in zip(range(256), rows.open(encoding="utf-8"), strict=False)]
    found = tiny.make(folder / "tiny", texts) if base == "tiny" else bases.find(base, Path())
    window = min(WINDOW, found.facts.max_length)
    labels = [f"label {number}" for number in range(N_LABELS)]
    task = make("classify", {}, labels)
    clean = ("unicode", "control", "whitespace")
    settings = ProcessorSettings(max_length=window, prefix=found.facts.prefix, clean=clean)
    processor = Processor(settings, (found.folder / "tokenizer.json").read_text("utf-8"))
    torch.manual_seed(0)
    body: Any = bases.load_body(found)
    model = TaskModel(body, task.head(body.config.hidden_size, dropout=0.0, pooling=found.facts.pooling)).eval()
    with files.new_folder(folder / "graph") as aside:
        facts = runtimes.write("onnx", model, aside, task.encode(texts, processor))
        runner = runtimes.open("onnx", aside, facts)
        files.seal(aside, {"kind": "graph"})
    engine = Engine(name="bench", task=task, processor=processor, runner=runner, calibration=Calibration())
    project = Project(name="bench", task=Plugin(kind="classify"), base=base, max_length=window,
                      data=DataSection(train="rows.jsonl"))  # fmt: skip
    seal.seal(
        folder / "bundle", name="bench", task={"kind": "classify", "options": {}, "labels": labels, "facts": {}},
        base=found.facts, runtime=facts, graph=folder / "graph", processor=processor, calibration=Calibration(),
        report=Report("bench", "classify", {}, {}, {}, {}), reference=engine.reference(texts),
        project=lock.resolved(project),
    )  # fmt: skip
    config = AutoConfig.from_pretrained(found.folder, num_labels=N_LABELS)
    AutoModelForSequenceClassification.from_pretrained(found.folder, config=config).save_pretrained(folder / "peer")
    rust = Tokenizer.from_file(str(found.folder / "tokenizer.json"))
    pad = rust.id_to_token(processor.pad_id)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust, pad_token=pad, model_max_length=window)
    tokenizer.save_pretrained(folder / "peer")


def made_up(path: Path, n_rows: int) -> Path:
    """Write short made-up texts."""
    chance = random.Random(0)
    words = ["where", "is", "my", "new", "card", "pay", "this", "bill", "late", "please", "转账", "退款", "什么时候"]
    texts = (" ".join(chance.choices(words, k=chance.randint(3, 25))) for _ in range(n_rows))
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    return path


def memory(folder: Path, rows: Path, n_long: int, n_short: int) -> dict[str, Any]:
    """Answer a short and a long file, each in a process of its own, and compare what they held at most."""
    lines = rows.read_text("utf-8").splitlines()
    found: dict[str, Any] = {}
    for name, n_rows in (("short", min(n_short, n_long)), ("long", n_long)):
        path = folder / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{lines[number % len(lines)]}\n" for number in range(n_rows))
        command = [sys.executable, __file__, "--worker", "memory", "--folder", str(folder), "--rows", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)
        facts = found[name]
        rate = f"{facts['rows_per_s']:.0f} rows/s"
        print(f"file of {facts['rows']:>9,} rows: {facts['peak_mb']:7.1f} MB at the peak, {rate}")
    found["ratio"] = found["long"]["peak_mb"] / found["short"]["peak_mb"]
    print(f"memory of the long file: {found['ratio']:.3f} of the short one's")
    return found


def memory_of(folder: Path, rows: Path) -> dict[str, float]:
    """Answer a file and return what that held at most."""
    import luban
    from luban.bundle.batch import predict_file

    done = predict_file(luban.load(folder / "bundle"), rows, rows.with_suffix(".answers.jsonl"))
    return {"rows": done.rows, "rows_per_s": done.rows_per_s, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the most memory that this process held since it began to run this script."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held at the fork, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
