"""How small and fast does a model get, and what does it lose? Every plan on the frontier, judged on the test rows.

    python bench/compress.py --project luban.yaml          # a project that `luban run` has finished
    python bench/compress.py --smoke                       # a quick pass on made-up rows

Size and speed are measured in turn with the uncompressed model, the loss is paired on the test rows. The peer is ONNX
Runtime's own dynamic int8 quantiser, which is what optimum calls, on the same uncompressed graph.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LUBAN = [sys.executable, "-m", "luban.cli.main"]
PROJECT = """\
name: bench
task: {kind: classify}
base: base
max_length: 32
data: {train: rows.jsonl, split: {validation: 0.2, test: 0.3}}
train: {epochs: 4, learning_rate: 3.0e-3, batch_size: 16}
evaluate: {baselines: [majority]}
"""


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--project", type=Path, default=Path("luban.yaml"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--set", nargs="*", default=[], help="settings for every command, e.g. train.seed=14")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/compress.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke:
            args.project, args.minutes = made_up(Path(folder)), 0.2
        found = measure(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Find the frontier, judge each of its plans on the test rows, and the peer beside them."""
    call(args, "run", *args.set)
    tried = call(args, "compress", "--frontier", "--minutes", str(args.minutes), *args.set)
    print(
        f"{'plan':58s} {'MB':>7s} {'smaller':>8s} {'ms':>7s} {'sooner':>7s} {'rows/s':>7s}   points lost on test rows"
    )
    rows = []
    for point in tried["points"]:
        if not point["on_frontier"] or not point["plan"]:
            continue
        plan = f"compress.plan={json.dumps(point['plan'])}"
        judged = call(args, "compress", plan, "compress.lose_at_most=0.99", *args.set)
        rows.append({**point, "lost_on_test": judged["lost_on_test"]})
        tell(" + ".join(step["kind"] + "".join(f" {k}={v}" for k, v in step.items() if k != "kind")
                        for step in point["plan"]), rows[-1])  # fmt: skip
    run = Path(tried["folder"]).parent
    rows.append({"plan": "onnxruntime.quantization.quantize_dynamic", **peer(run)})
    tell("peer: onnxruntime's dynamic int8", rows[-1])
    return {"plans": rows}


def tell(name: str, row: dict[str, Any]) -> None:
    """Print one row of the table."""
    lost = row["lost_on_test"]
    ends = f"{lost['value'] * 100:+.2f} [{lost['low'] * 100:+.2f}, {lost['high'] * 100:+.2f}]" if lost else "-"
    print(
        f"{name[:58]:58s} {row['size_mb']:7.1f} {row['smaller']:7.1f}x {row['latency_ms']:7.2f} {row['faster']:6.1f}x "
        f"{row['throughput']:6.1f}x   {ends}",
        flush=True,
    )


def call(args: argparse.Namespace, command: str, *more: str) -> dict[str, Any]:
    """Run a command of Luban's and return what it says to programs."""
    line = [*LUBAN, command, "--json", "--project", str(args.project), *more]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peer(run: Path) -> dict[str, Any]:
    """Quantise the uncompressed graph with ONNX Runtime's own tool, and measure it in turn with the uncompressed."""
    import onnx as onnx_format
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from luban.bundle.engine import Engine
    from luban.bundle.runtimes import onnx
    from luban.data.write import open_dataset
    from luban.evaluate.compare import compare
    from luban.evaluate.measure import Measure

    whole = Engine.open(run / "bundle")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "int8.onnx"
        plain = {"DefaultTensorType": 1}  # FLOAT: it can't tell the types behind ONNX Runtime's own operators
        source = run / "bundle" / onnx.GRAPH
        # It takes the standard's Attention for an older one of ONNX Runtime's, and would write what can't be opened.
        nodes = onnx_format.load(source).graph.node
        standard = [node.name for node in nodes if node.op_type == "Attention"]
        # It writes a Gemm, the head, as a MatMul of this name, whose answers are wrong when it is quantised.
        heads = [f"{node.name}_MatMul" for node in nodes if node.op_type == "Gemm"]
        quantize_dynamic(
            source, graph, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=[*standard, *heads],
            extra_options=plain,
        )  # fmt: skip
        small = dataclasses.replace(whole, runner=onnx.runner(graph.read_bytes()))
        saved = (run / "bundle" / onnx.GRAPH).stat().st_size - graph.stat().st_size
    table = open_dataset(run / "data" / "test.arrow").table
    rows, gold = whole.task.inputs(table), whole.task.gold(table)
    size = sum(file.stat().st_size for file in (run / "bundle").iterdir())
    measure = Measure(whole.task.kind, whole.labels, bool(whole.calibration.thresholds))
    lost = compare(measure, gold, whole.predict(rows), small.predict(rows)).differences[measure.main]
    alone: dict[str, list[float]] = {"whole": [], "small": []}
    together: dict[str, list[float]] = {"whole": [], "small": []}
    for _ in range(5):
        for name, engine in (("whole", whole), ("small", small)):
            alone[name] += [took(engine, [row]) for row in rows[:60]]
            together[name].append(took(engine, rows[:512]))
    middle = {name: statistics.median(times) for name, times in alone.items()}
    return {
        "size_mb": (size - saved) / 1e6, "smaller": size / (size - saved), "latency_ms": middle["small"] * 1e3,
        "faster": middle["whole"] / middle["small"],
        "throughput": statistics.median(together["whole"]) / statistics.median(together["small"]),
        "lost_on_test": lost.to_json(),
    }  # fmt: skip


def took(engine: Any, rows: list[Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    engine.predict(rows)
    return time.perf_counter() - started


def made_up(folder: Path) -> Path:
    """Write a project with a tiny base and rows that are quick to make."""
    from luban.models import tiny

    rows = [{"text": f"a {'good' if i % 2 else 'bad'} thing, number {i}", "label": "ab"[i % 2]} for i in range(200)]
    tiny.make(folder / "base", [row["text"] for row in rows])
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "luban.yaml").write_text(PROJECT)
    return folder / "luban.yaml"


if __name__ == "__main__":
    main()
