"""How fast is fine-tuning, and is it as good? Luban's loop beside transformers' `Trainer`, all else equal.

    python bench/train.py --train train.jsonl --test test.jsonl      # speed: alternating segments
    python bench/train.py ... --accuracy                             # accuracy too: whole trainings, takes long
    python bench/train.py --smoke                                    # a quick pass on made-up rows

Rows are JSON lines with `text` and `label`. The peers are `Trainer` as its text-classification example uses it (padded
to the longest window, 128 tokens), and `Trainer` with batches grouped by length. Prints ratios, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = ("luban", "trainer", "trainer-grouped")
WINDOW = 128


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--steps", type=int, default=24, help="steps in one segment of the speed measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/train.json"))
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke or args.train is None:
            args.train, args.test = made_up(Path(folder))
            args.steps, args.rounds, args.base = 4, 1, str(Path(folder) / "tiny") if args.smoke else args.base
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Alternate the methods, then print the table and write it as JSON."""
    speeds: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(args.rounds):
        for method in METHODS:
            speeds[method].append(call(args, method)["examples_per_s"])
            print(f"round {turn + 1} {method:16s} {speeds[method][-1]:8.1f} examples/s", flush=True)
    found: dict[str, Any] = {"speed": {}, "peak": gemm_peak()}
    ours = statistics.median(speeds["luban"])
    print(f"\n{'':16s} {'examples/s':>12s} {'spread':>16s} {'luban is':>10s}")
    for method, values in speeds.items():
        middle = statistics.median(values)
        ratios = [a / b for a, b in zip(speeds["luban"], values, strict=True)]
        found["speed"][method] = {"examples_per_s": values, "median": middle, "ratio": statistics.median(ratios)}
        print(f"{method:16s} {middle:12.1f} {min(values):7.1f}..{max(values):7.1f} {statistics.median(ratios):9.2f}x")
    shares = call(args, "luban")
    for precision, peak in found["peak"].items():
        share = shares["gflop_per_example"] * ours / peak
        found[f"share_of_{precision}_peak"] = share
        print(f"share of this machine's {precision} GEMM peak ({peak:.0f} GFLOP/s): {share:.0%}")
    if args.accuracy:
        found["accuracy"] = {method: call(args, method, whole=True) for method in ("luban", "trainer-grouped")}
        for method, facts in found["accuracy"].items():
            print(f"{method:16s} test accuracy {facts['accuracy']:.4f} in {facts['seconds']:.0f} s")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def call(args: argparse.Namespace, method: str, *, whole: bool = False) -> dict[str, Any]:
    """Run one method in a process of its own."""
    command = [
        sys.executable, __file__, "--worker", method, "--train", str(args.train), "--test", str(args.test),
        "--base", args.base, "--steps", str(args.steps), "--epochs", str(args.epochs), "--rate", str(args.rate),
        "--batch-size", str(args.batch_size), "--seed", str(args.seed), *(["--whole"] if whole else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"}, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Train by one method, for a segment or to the end."""
    import transformers

    transformers.logging.set_verbosity_error()
    train, test = read(args.train), read(args.test)
    labels = sorted({row["label"] for row in train})
    return (by_luban if args.worker == "luban" else by_trainer)(args, train, test, labels)


def by_luban(args: argparse.Namespace, train: list[Any], test: list[Any], labels: list[str]) -> dict[str, Any]:
    """Fine-tune with Luban's loop, at the precision that `luban init` would advise here."""
    import numpy as np
    import pyarrow as pa
    import torch

    from luban.models import base as bases
    from luban.models import body as bodies
    from luban.models.device import machine
    from luban.models.heads import TaskModel
    from luban.models.processor import Processor, ProcessorSettings
    from luban.project.schema import TrainSection
    from luban.records import Encoded
    from luban.tasks import make
    from luban.train.loop import Training, logits_of

    facts = machine()
    fast = facts.bf16_gflops > 1.3 * facts.fp32_gflops
    settings = TrainSection(
        precision="bf16" if fast else "fp32", epochs=args.epochs, learning_rate=args.rate, batch_size=args.batch_size,
        seed=args.seed, warmup=0.0, weight_decay=0.0,
    )  # fmt: skip
    base = bases.find(args.base, Path())
    processor = Processor(
        ProcessorSettings(max_length=WINDOW, prefix=base.facts.prefix),
        (base.folder / "tokenizer.json").read_text("utf-8"),
    )
    task = make("classify", {}, labels)
    rows, held = (
        task.encode(pa.table({"text": [r["text"] for r in part], "labels": [[r["label"]] for r in part]}), processor)
        for part in (train, test)
    )
    torch.manual_seed(args.seed)
    body = bodies.load_body(base)
    model = TaskModel(body, task.head(body.config.hidden_size, dropout=0.1, pooling=base.facts.pooling))
    body_size = sum(p.numel() for layer in bodies.layers(body) for p in layer.parameters())
    with tempfile.TemporaryDirectory() as folder:
        run = Training(
            model, task, rows, settings,
            layers=bodies.layers(body), embeddings=bodies.embeddings(body), pad_id=processor.pad_id,
            folder=Path(folder), plan="", measure=lambda trained: {"accuracy": 0.0}, keep=lambda trained: None,
        )  # fmt: skip
        started, done, warm = time.perf_counter(), 0, 3
        for step in run.steps():
            done = step.step
            if done == warm and not args.whole:
                started = time.perf_counter()
            if done == warm + args.steps and not args.whole:
                break
    seconds = time.perf_counter() - started
    gflop = 6 * body_size * float(rows.lengths.mean()) / 1e9
    if not args.whole:
        return {"examples_per_s": (done - warm) * args.batch_size / seconds, "gflop_per_example": gflop}
    plain = Encoded(held.ids, held.offsets, held.rows, held.n_rows)
    guessed = logits_of(model.eval(), plain, task, settings, processor.pad_id).argmax(1)
    return {"accuracy": float(np.mean(guessed == held.targets)), "seconds": seconds, "gflop_per_example": gflop}


def by_trainer(args: argparse.Namespace, train: list[Any], test: list[Any], labels: list[str]) -> dict[str, Any]:
    """Fine-tune with `Trainer`, padding as its example does or grouping by length."""
    import numpy as np
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
    )

    from luban.models import base as bases

    folder = bases.find(args.base, Path()).folder
    grouped = args.worker == "trainer-grouped"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))

    def encode(rows: list[Any]) -> list[dict[str, Any]]:
        texts = [row["text"] for row in rows]
        batch = tokenizer(texts, padding=False if grouped else "max_length", max_length=WINDOW, truncation=True)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": labels.index(row["label"])}
            for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], rows, strict=True)
        ]

    class Clock(TrainerCallback):
        """Times the steps after the first few, and ends a segment."""

        def __init__(self) -> None:
            self.started, self.seconds = time.perf_counter(), 0.0

        def on_step_end(self, _: Any, state: Any, control: Any, **unused: Any) -> None:
            """Start the clock after the third step."""
            if state.global_step == 3:
                self.started = time.perf_counter()
            if state.global_step == 3 + args.steps and not args.whole:
                self.seconds = time.perf_counter() - self.started
                control.should_training_stop = True

    clock = Clock()
    with tempfile.TemporaryDirectory() as aside:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=aside, per_device_train_batch_size=args.batch_size, per_device_eval_batch_size=64,
                num_train_epochs=args.epochs, learning_rate=args.rate, seed=args.seed, report_to=[], use_cpu=True,
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
                **({"train_sampling_strategy": "group_by_length"} if grouped else {}),
            ),
            train_dataset=encode(train),
            data_collator=DataCollatorWithPadding(tokenizer) if grouped else default_data_collator,
            callbacks=[clock],
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        if not args.whole:
            return {"examples_per_s": args.steps * args.batch_size / clock.seconds}
        trainer.args.train_sampling_strategy = "sequential"  # it would group these rows by length too
        found = trainer.predict(encode(test))
        guessed = found.predictions.argmax(1)
    right = np.array([labels.index(row["label"]) for row in test])
    assert (found.label_ids == right).all(), "answers in another order than the rows"
    return {"accuracy": float(np.mean(guessed == right)), "seconds": seconds}


def gemm_peak() -> dict[str, float]:
    """Return the best GFLOP/s of `torch.matmul` here, by precision."""
    import torch

    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(1024, 1024).to(dtype)
        best = 0.0
        for _ in range(30):
            started = time.perf_counter()
            torch.matmul(a, a)
            best = max(best, 2 * 1024**3 / (time.perf_counter() - started) / 1e9)
        peaks[name] = best
    return peaks


def read(path: Path) -> list[Any]:
    """Return the rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def made_up(folder: Path) -> tuple[Path, Path]:
    """Write rows and a base that are quick to make, for a pass that only shows that everything runs."""
    from luban.models import tiny

    for name in ("train", "test"):
        rows = [
            {"text": f"row {i} is {'good' if i % 2 else 'bad'} " + "word " * (i % 20), "label": "ab"[i % 2]}
            for i in range(400)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny.make(folder / "tiny", [row["text"] for row in rows], max_length=WINDOW)
    return folder / "train.jsonl", folder / "test.jsonl"


if __name__ == "__main__":
    main()
