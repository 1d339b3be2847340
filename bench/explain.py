"""Do explanations name the words that the model goes by? Words are taken away, or put back, in their order.

    python bench/explain.py --bundle runs/bank/bundle --test test.jsonl
    python bench/explain.py --smoke                        # a quick pass on made-up rows

Deletion: the label's probability as words are taken away, those that count most first, its mean over all steps; lower
is better. Insertion: as they are put back into an empty text; higher is better (Petsiuk et al. 2018). Each method
orders the same words of the same texts. `left-out` takes each word away alone; `permutations` is Shapley sampling with
each order and its reverse (Castro et al. 2009; Mitchell et al. 2022); `shapley` is Luban's own, with so many rows;
`random` is no method at all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from compress import LUBAN, PROJECT

import luban
from luban.bundle import cutting, explain, shapley

Values = Callable[[np.ndarray], np.ndarray]
"""(R, P) words that are there -> (R,) log-odds of the label."""


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--test", type=Path, help="jsonl or csv; its column `text` is explained")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/explain.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke:
            args.bundle, args.test, args.texts, args.rows = *made_up(Path(folder)), 4, [32]
        found = measure(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return deletion, insertion and seconds of each method: means over texts, paired."""
    engine = luban.load(args.bundle, threads=args.threads)
    scorer = explain.Scorer(engine)
    rng = np.random.default_rng(7)
    texts = read(args.test)
    texts = [texts[row] for row in rng.permutation(len(texts))]
    found: dict[str, dict[str, list[float]]] = {}
    n_words: list[int] = []
    for text in texts:
        places = cutting.cut(text, engine.processor.vocabulary)
        if not 4 <= len(places) <= 40:
            continue
        whole = scorer.answer([text])[0][0]
        label = int(whole.values.argmax())
        n_words.append(len(places))

        def values(
            masks: np.ndarray, text: str = text, label: int = label, places: list[cutting.Place] = places
        ) -> np.ndarray:
            rows = [cutting.left_out(text, places, mask) for mask in masks.tolist()]
            return np.array([one.values[label] for one in scorer.answer(rows)[0]])

        for name, weigh in methods(args.rows, rng).items():
            begun = time.perf_counter()
            weights = weigh(values, len(places))
            seconds = time.perf_counter() - begun
            away, back = faithful(values, weights)
            each = found.setdefault(name, {"deletion": [], "insertion": [], "seconds": []})
            for key, value in (("deletion", away), ("insertion", back), ("seconds", seconds)):
                each[key].append(value)
        if len(n_words) == args.texts:
            break
    print(f"{len(n_words)} texts of {statistics.median(n_words):.0f} words (median)")
    print(f"{'method':20s} {'deletion':>9s} {'insertion':>10s} {'seconds':>8s}   insertion - deletion against left-out")
    told: dict[str, dict[str, float]] = {}
    gap = {name: np.subtract(each["insertion"], each["deletion"]) for name, each in found.items()}
    for name, each in found.items():
        better = gap[name] - gap["left-out"]
        told[name] = {
            **{key: statistics.fmean(many) for key, many in each.items()},
            "better": float(better.mean()), "error": float(better.std() / len(better) ** 0.5), "texts": len(n_words),
        }  # fmt: skip
        one = told[name]
        print(f"{name:20s} {one['deletion']:9.4f} {one['insertion']:10.4f} {one['seconds']:8.3f}   "
              f"{one['better']:+.4f} +- {1.96 * one['error']:.4f}")  # fmt: skip
    return told


def methods(rows: list[int], rng: np.random.Generator) -> dict[str, Callable[[Values, int], np.ndarray]]:
    """Return what gives weights, by name."""
    found: dict[str, Callable[[Values, int], np.ndarray]] = {
        "random": lambda values, n: rng.random(n),
        "left-out": left_out,
    }
    for n_rows in rows:
        found[f"permutations {n_rows}"] = partial(permutations, n_rows=n_rows, rng=rng)
        found[f"shapley {n_rows}"] = partial(shared, n_rows=n_rows)
    return found


def left_out(values: Values, n: int) -> np.ndarray:
    """Take each word away alone."""
    found = values(np.concatenate([np.ones((1, n), bool), ~np.eye(n, dtype=bool)]))
    weights: np.ndarray = found[0] - found[1:]
    return weights


def shared(values: Values, n: int, *, n_rows: int) -> np.ndarray:
    """Shapley values as Luban estimates them."""
    masks, weights = shapley.company(n, n_rows - 2)
    found = values(np.concatenate([np.zeros((1, n), bool), np.ones((1, n), bool), masks]))
    return shapley.share(masks, weights, found[2:, None], found[:1], found[1:2])[:, 0]


def permutations(values: Values, n: int, *, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Shapley values out of random orders, each with its reverse."""
    orders = []
    for _ in range(max(1, (n_rows - 2) // (2 * (n - 1)))):
        order = rng.permutation(n)
        orders += [order, order[::-1]]
    masks = np.array([np.isin(np.arange(n), order[:many]) for order in orders for many in range(n + 1)])
    found = values(masks).reshape(len(orders), n + 1)
    weights = np.zeros(n)
    for order, steps in zip(orders, np.diff(found, axis=1), strict=True):
        weights[order] += steps / len(orders)
    return weights


def faithful(values: Values, weights: np.ndarray) -> tuple[float, float]:
    """Return deletion and insertion: mean probabilities as words go, and as they come back."""
    ranks = np.argsort(np.argsort(-weights, kind="stable"))
    steps = np.arange(len(weights) + 1)[:, None]
    shares = 1 / (1 + np.exp(-values(np.concatenate([ranks >= steps, ranks < steps]))))
    return float(shares[: len(steps)].mean()), float(shares[len(steps) :].mean())


def read(path: Path) -> list[str]:
    """Return the texts of a file."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def made_up(folder: Path) -> tuple[Path, Path]:
    """Return a bundle and rows that a tiny base learns in seconds."""
    from luban.models import tiny

    words = {"good": "lovely warm kind 喜欢", "bad": "cold rude late 讨厌"}
    rows = [{"text": f"{' '.join(many.split()[n % 4 :])} it was {n}", "label": label}
            for n in range(60) for label, many in words.items()]  # fmt: skip
    tiny.make(folder / "base", [row["text"] for row in rows])
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    (folder / "luban.yaml").write_text(PROJECT, "utf-8")
    subprocess.run([*LUBAN, "run", "-q"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "runs" / "bench" / "bundle", folder / "rows.jsonl"


if __name__ == "__main__":
    main()
