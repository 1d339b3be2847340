"""Where does the time of a whole-file run go, and how near is it to what this machine can do?

    python bench/engine.py --rows texts.jsonl --bundle runs/bank/bundle     # or runs/bank/compressed
    python bench/engine.py --smoke                                          # a quick pass on made-up rows

The bundle answers the file through a runtime that notes when its passes begin and end. `inside` is the share of all
callers' time that they spend in the runtime: what is missing went into reading, tokenising, padding, decoding, writing
and waiting. The peak is what the same runtime reaches in one large product of the kind that the graph is made of, and
the share of it is of products with weights, counted over real tokens: padding and attention's own products are not
counted as work. Reach: 80% inside. Prints the shares, writes JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ("MatMul", "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul")
SIDE = 2048
"""Rows, columns and depth of the product whose rate is the peak."""


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of the matrix products; 0 uses every core")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/engine.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.smoke:
            args.bundle, args.rows = made_up(folder)
            args.rounds = 1
        elif not args.bundle or not args.rows:
            parser.error("give --rows and --bundle, or --smoke")
        found = measure(args, folder)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Answer the file again and again, the peak measured between, and return medians."""
    import luban
    from luban.bundle.batch import predict_file
    from luban.bundle.runtimes import n_callers

    opened = luban.load(args.bundle, threads=args.threads)
    watched = Watched(opened.runner)
    engine = dataclasses.replace(opened, runner=watched)
    n_weights, integers = products(args.bundle / "model.onnx")
    peak = Peak(integers, engine.runner.threads)
    rounds = []
    predict_file(engine, args.rows, folder / "warm.jsonl", resume=False)
    for _ in range(args.rounds):
        watched.reset()
        started = time.perf_counter()
        done = predict_file(engine, args.rows, folder / "answers.jsonl", resume=False)
        wall = time.perf_counter() - started
        reached = 2 * n_weights * watched.tokens / wall / 1e9
        rounds.append(
            {
                "rows_per_s": done.rows / wall,
                "inside": watched.seconds / wall / n_callers(engine.runner.threads),
                "giga_operations_per_s": reached,
                "of_peak": reached / peak(),
                "padding": 1 - watched.tokens / watched.places,
            }
        )
    found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(f"{done.rows} rows, {engine.runner.threads} threads, products in {'int8' if integers else 'float'}:")
    print(f"{found['rows_per_s']:.0f} rows/s, {found['inside']:.0%} of the callers' time inside the runtime")
    print(f"{found['giga_operations_per_s']:.0f} billion operations/s, {found['of_peak']:.0%} of the peak")
    print(f"{found['padding']:.1%} of what passes hold is padding")
    return {**found, "rounds": rounds, "int8": integers}


class Watched:
    """A runtime that notes how long its passes take, and what they hold."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.reset()

    def reset(self) -> None:
        """Forget what was noted."""
        self.passes: list[tuple[float, int, int]] = []

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Run a pass; several threads may do so at once."""
        begin = time.perf_counter()
        found: np.ndarray = self._runner.run(input_ids, attention_mask)
        self.passes.append((time.perf_counter() - begin, int(attention_mask.sum()), attention_mask.size))
        return found

    @property
    def seconds(self) -> float:
        """Time in the runtime, all callers' together."""
        return sum(seconds for seconds, _, _ in self.passes)

    @property
    def tokens(self) -> int:
        """Tokens of all passes."""
        return sum(tokens for _, tokens, _ in self.passes)

    @property
    def places(self) -> int:
        """Tokens and padding of all passes."""
        return sum(places for _, _, places in self.passes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def products(path: Path) -> tuple[int, bool]:
    """Return how many weights each token is multiplied with, and whether most of them are int8."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = [
        constants[name]
        for node in graph.node if node.op_type in PRODUCTS
        for name in node.input if name in constants and len(constants[name].dims) == 2
    ]  # fmt: skip
    sizes = [int(np.prod(tensor.dims)) for tensor in weights]
    in_int8 = [tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for tensor in weights]
    return sum(sizes), sum(size for size, small in zip(sizes, in_int8, strict=True) if small) > sum(sizes) / 2


class Peak:
    """The rate of one large product in ONNX Runtime."""

    def __init__(self, integers: bool, threads: int) -> None:
        import onnxruntime
        from onnx import TensorProto, helper

        kind, made = (TensorProto.INT8, TensorProto.INT32) if integers else (TensorProto.FLOAT, TensorProto.FLOAT)
        node = helper.make_node("MatMulInteger" if integers else "MatMul", ["a", "b"], ["c"])
        shape = [SIDE, SIDE]
        number = np.int8 if integers else np.float32
        weight = np.random.default_rng(0).integers(-100, 100, shape).astype(number)
        graph = helper.make_graph(
            [node], "peak",
            [helper.make_tensor_value_info("a", TensorProto.UINT8 if integers else kind, shape)],
            [helper.make_tensor_value_info("c", made, shape)],
            [helper.make_tensor("b", kind, shape, weight.tobytes(), raw=True)],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self._given = {"a": np.abs(weight).astype(np.uint8 if integers else np.float32)}
        self()

    def __call__(self) -> float:
        """Return billions of operations a second, a multiplication and an addition counted as two."""
        times = []
        for _ in range(5):
            started = time.perf_counter()
            self._session.run(None, self._given)
            times.append(time.perf_counter() - started)
        return 2 * SIDE**3 / min(times) / 1e9


def made_up(folder: Path) -> tuple[Path, Path]:
    """Run a small project; return its bundle, and rows."""
    from luban.models import tiny
    from luban.project.load import load
    from luban.stages import run

    chance = random.Random(0)
    words = {"good": ["lovely", "warm", "喜欢"], "bad": ["cold", "rude", "讨厌"]}
    rows = [
        {"text": " ".join(chance.choices(words[label], k=chance.randint(2, 12))) + f" {number}", "label": label}
        for number in range(300)
        for label in words
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    tiny.make(folder / "base", [row["text"] for row in rows])
    (folder / "luban.yaml").write_text(
        "name: bench\ntask: {kind: classify}\nbase: base\nmax_length: 32\ndata: {train: rows.jsonl}\n"
        "train: {epochs: 1}\nevaluate: {baselines: []}\n"
    )
    run(load(folder / "luban.yaml"))
    return folder / "runs/bench/bundle", path


if __name__ == "__main__":
    main()
