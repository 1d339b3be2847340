"""How soon is the first answer? `luban predict --text` beside a script with transformers' `pipeline`.

    python bench/start.py              # minilm-l6, fetched where it isn't there yet
    python bench/start.py --smoke      # a quick pass with a tiny base

Every start is a new process, the two sides in turn, after one round that warms the disk's cache. Reach: 4x sooner than
the pipeline; `import luban` within 0.3 s and without torch. Prints ratios, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from predict import made_up, make_models

TEXT = "Where is my new card?"
PIPELINE = """
import sys
from transformers import logging, pipeline
logging.set_verbosity_error()
print(pipeline("text-classification", model=sys.argv[1], tokenizer=sys.argv[1], device="cpu")(sys.argv[2]))
"""
LOAD = "import luban, sys; print(luban.load(sys.argv[1]).predict(sys.argv[2:]))"
FRONT_DOOR = "import sys, luban; assert 'torch' not in sys.modules"


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/start.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), "tiny" if args.smoke else args.base, made_up(Path(folder) / "rows.jsonl", 256))
        found = measure(Path(folder), 1 if args.smoke else args.rounds)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Start each side in turn, print the table and return it."""
    python, bundle, peer = sys.executable, str(folder / "bundle"), str(folder / "peer")
    commands = {
        "luban predict": [python, "-m", "luban.cli.main", "predict", "--bundle", bundle, "--text", TEXT],
        "luban.load": [python, "-c", LOAD, bundle, TEXT],
        "pipeline": [python, "-c", PIPELINE, peer, TEXT],
        "import luban": [python, "-c", FRONT_DOOR],
        "python itself": [python, "-c", "pass"],
    }
    times: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            spent = run(command)
            if turn:
                times[name].append(spent)
    found: dict[str, Any] = {}
    print(f"{'':15s} {'seconds':>9s} {'pipeline takes':>15s}   {'CPU seconds':>11s} {'pipeline takes':>15s}")
    for name, spent in times.items():
        row: dict[str, Any] = {"starts": spent}
        for clock in ("wall_s", "cpu_s"):
            ratios = [peer[clock] / max(mine[clock], 1e-6) for mine, peer in zip(spent, times["pipeline"], strict=True)]
            middle = statistics.median(one[clock] for one in spent)
            row[clock] = {"median": middle, "ratio": statistics.median(ratios)}
        found[name] = row
        wall, cpu = row["wall_s"], row["cpu_s"]
        print(f"{name:15s} {wall['median']:9.3f} {wall['ratio']:14.1f}x   {cpu['median']:11.3f} {cpu['ratio']:14.1f}x")
    return found


def run(command: list[str]) -> dict[str, float]:
    """Run a command and return seconds by the clock and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall_s": wall, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


if __name__ == "__main__":
    main()
