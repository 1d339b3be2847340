"""How good is what `luban init` advises? Whole runs over several seeds, beside `Trainer` on the same base and rows.

    python bench/quality.py --train train.jsonl --test test.jsonl                       # classify, three seeds
    python bench/quality.py --train train.jsonl --test test.jsonl --text tokens --label tags
    python bench/quality.py --smoke

Luban's settings are those of `luban init`, untouched. `Trainer` is set as its examples are (rate 5e-5, 3 epochs, steps
of 32 texts or of 8 rows of tags), grouped by length; --peer-epochs gives it more. Every figure is of the test file
alone, which neither side sees before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IGNORED = -100


def main() -> None:
    """Parse, run every seed of both sides, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--base", help="without it, what `luban init` chooses")
    parser.add_argument("--peer-epochs", type=float, default=3.0)
    parser.add_argument("--only-peer", action="store_true", help="where Luban's side was measured before")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality.json"))
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        print(json.dumps(peer(args)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.smoke:
            args.train, args.test = made_up(folder)
            args.seeds, args.peer_epochs, args.base = [13], 1.0, str(folder / "tiny")
        measure(args, folder)


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Run both sides seed by seed."""
    found: dict[str, list[dict[str, Any]]] = {"luban": [], "trainer": []}
    for seed in args.seeds:
        if not args.only_peer:
            found["luban"].append(ours(args, folder, seed))
        if not args.no_peer:
            args.base = args.base or found["luban"][-1]["base"]  # with --only-peer, --base says it
            found["trainer"].append(call_peer(args, seed))
        for side, runs in found.items():
            if runs:
                print(f"seed {seed} {side:8s} {runs[-1]['score']:.4f} in {runs[-1]['seconds']:.0f} s", flush=True)
    if found["luban"]:
        first = found["luban"][0]
        interval = f"{first['low']:.4f} to {first['high']:.4f}"
        print(f"\n{first['main']} on {first['n']} test rows; 95% interval of the first run {interval}")
    for side, runs in found.items():
        if runs:
            scores = [run["score"] for run in runs]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            print(f"{side:8s} mean {statistics.mean(scores):.4f}  standard deviation {spread:.4f}")
    probes = [run["probe"] for run in found["luban"] if run["probe"] is not None]
    if probes:
        print(f"linear probe {statistics.mean(probes):.4f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def ours(args: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Run `luban init` and `luban run` as a user would."""
    luban = [sys.executable, "-m", "luban.cli.main"]
    project = folder / f"seed-{seed}"
    project.mkdir()
    data = {name: project / f"{name}{path.suffix}" for name, path in (("train", args.train), ("test", args.test))}
    for name, path in data.items():
        path.write_bytes(getattr(args, name).read_bytes())
    chosen = ["--base", args.base] if args.base else []
    columns = ["--text", args.text, "--label", args.label]
    started = time.monotonic()
    init = [
        *luban,
        "init",
        "train" + data["train"].suffix,
        "--test",
        data["test"].name,
        "--name",
        "bench",
        *columns,
        *chosen,
    ]
    for command in (init, [*luban, "run", f"train.seed={seed}"]):
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    run = project / "runs/bench"
    report = json.loads((run / "report.json").read_text("utf-8"))
    lock = json.loads((run / "project.lock.json").read_text("utf-8"))["project"]
    main = report["details"]["main_score"]
    score = report["scores"][main]
    probe = report["baselines"].get("probe", {}).get(main, {}).get("value")
    return {
        "main": main, "score": score["value"], "low": score["low"], "high": score["high"], "n": score["n"],
        "probe": probe, "base": lock["base"], "seconds": time.monotonic() - started, "train": lock["train"],
    }  # fmt: skip


def call_peer(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run the peer in a process of its own."""
    command = [
        sys.executable, __file__, "--worker", str(seed), "--train", str(args.train), "--test", str(args.test),
        "--text", args.text, "--label", args.label, "--base", args.base, "--peer-epochs", str(args.peer_epochs),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"}, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peer(args: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune with `Trainer` and score it on the test rows."""
    import transformers
    from transformers import (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from luban.models import base as bases

    transformers.logging.set_verbosity_error()
    train, test = read(args.train), read(args.test)
    tags = isinstance(train[0][args.label], list)
    names = {label for row in train for label in (row[args.label] if tags else [row[args.label]])}
    labels = sorted(names)
    folder = bases.find(args.base, Path()).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, num_labels=len(labels))
    encode = encode_tags if tags else encode_texts
    collator = DataCollatorForTokenClassification(tokenizer) if tags else DataCollatorWithPadding(tokenizer)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as aside:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=aside, per_device_train_batch_size=8 if tags else 32, per_device_eval_batch_size=64,
                num_train_epochs=args.peer_epochs, learning_rate=5e-5, seed=args.worker, report_to=[], use_cpu=True,
                save_strategy="no", logging_strategy="no", disable_tqdm=True, train_sampling_strategy="group_by_length",
            ),
            train_dataset=encode(tokenizer, train, labels, args),
            data_collator=collator,
        )  # fmt: skip
        trainer.train()
        seconds = time.monotonic() - started
        rows = encode(tokenizer, test, labels, args)
        guessed = in_order(trainer, rows).argmax(-1)
    if not tags:
        right = [labels.index(row[args.label]) if row[args.label] in labels else -1 for row in test]
        score = sum(int(a == b) for a, b in zip(guessed, right, strict=True)) / len(right)
    else:
        score = entity_f1(guessed, rows, test, labels, args)
    return {"score": score, "seconds": seconds}


def in_order(trainer: Any, rows: list[dict[str, Any]]) -> Any:
    """Return `Trainer`'s logits in the order of the rows: one that groups by length would group these too."""
    trainer.args.train_sampling_strategy = "sequential"
    found = trainer.predict(rows)
    for row, given in zip(rows, found.label_ids, strict=True):
        wanted = row["labels"]
        assert given == wanted if isinstance(wanted, int) else list(given[: len(wanted)]) == wanted
    return found.predictions


def encode_texts(tokenizer: Any, rows: list[Any], labels: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokenise texts with the index of their label."""
    batch = tokenizer([row[args.text] for row in rows], max_length=128, truncation=True)
    known = {label: index for index, label in enumerate(labels)}
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": known.get(row[args.label], 0)}
        for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], rows, strict=True)
    ]


def encode_tags(tokenizer: Any, rows: list[Any], labels: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokenise token lists with a label on each token's first piece, as the token-classification example does."""
    # The example's window for tags is the base's own; a shorter one would cut entities off.
    batch = tokenizer([row[args.text] for row in rows], max_length=512, truncation=True, is_split_into_words=True)
    known = {label: index for index, label in enumerate(labels)}
    found = []
    for number, row in enumerate(rows):
        words = batch.word_ids(number)
        first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
        targets = [
            known.get(row[args.label][word], 0) if is_first else IGNORED
            for word, is_first in zip(words, first, strict=True)
        ]
        found.append(
            {
                "input_ids": batch["input_ids"][number],
                "attention_mask": batch["attention_mask"][number],
                "labels": targets,
            }
        )
    return found


def entity_f1(guessed: Any, rows: list[Any], test: list[Any], labels: list[str], args: argparse.Namespace) -> float:
    """Return seqeval's F1 over all tokens; those cut off by the window are answered with O."""
    from seqeval.metrics import f1_score

    told = []
    for number, row in enumerate(test):
        answers = [
            labels[guessed[number][place]] for place, target in enumerate(rows[number]["labels"]) if target != IGNORED
        ]
        told.append(answers + ["O"] * (len(row[args.label]) - len(answers)))
    right = [row[args.label] for row in test]
    if any(tag[0] in "MES" for row in right for tag in row if tag != "O"):
        right, told = [list(map(to_bio, row)) for row in right], [list(map(to_bio, row)) for row in told]
    return float(f1_score(right, told))


def to_bio(tag: str) -> str:
    """Return a BMES tag as a BIO tag."""
    return f"{'B' if tag[0] in 'BS' else 'I'}{tag[1:]}" if tag != "O" else tag


def read(path: Path) -> list[Any]:
    """Return the rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def made_up(folder: Path) -> tuple[Path, Path]:
    """Write rows and a base that are quick to make, for a pass that only shows that everything runs."""
    from luban.models import tiny

    chance = random.Random(0)
    words = [f"{first}{last}" for first in ("ba", "ke", "lo", "mi", "su") for last in ("rn", "st", "ld", "nk", "mp")]
    for name in ("train", "test"):
        rows = [
            {"text": f"{('bad', 'good')[number % 2]} {' '.join(chance.choices(words, k=8))}", "label": "ab"[number % 2]}
            for number in range(300)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny.make(folder / "tiny", [row["text"] for row in rows])
    return folder / "train.jsonl", folder / "test.jsonl"


if __name__ == "__main__":
    main()
