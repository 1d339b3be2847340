"""Memory and speed of reading rows one batch after another: 10,000 rows beside 1,000,000.

    python bench/stream.py
    python bench/stream.py --smoke        # a quick pass with few rows

Each file is made in a temporary folder and read by a process of its own, so
that its peak memory is that of reading alone. Reach: the peak at 1,000,000 rows within 20% of that at 10,000.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

READ = """
import resource, sys, time
from pathlib import Path
from luban.data.raw import Named
from luban.data.read import stream
started = time.perf_counter()
n_rows = sum(batch.num_rows for batch in stream(Path(sys.argv[1]), Named("text", "label"), "classify"))
print(n_rows, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def make(path: Path, n_rows: int) -> None:
    """Write rows in English and Chinese, each unlike the others."""
    rows = (
        {"id": number, "text": f"where is my card {number}" if number % 2 else f"我的第{number}张卡还没有到，怎么办",
         "label": str(number % 7)}
        for number in range(n_rows)
    )  # fmt: skip
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, ["id", "text", "label"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def measure(path: Path) -> tuple[int, float, float]:
    """Return rows, seconds and peak memory in MiB of reading a file."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True)
    n_rows, seconds, kib = done.stdout.split()
    return int(n_rows), float(seconds), int(kib) / 1024


def main() -> None:
    """Print a line for each form and size, and the ratio of the largest to the smallest; write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/stream.json"))
    args = parser.parse_args()
    sizes = [1_000, 5_000] if args.smoke else args.sizes
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".csv", ".jsonl"):
            found[suffix] = []
            for size in sizes:
                path = Path(folder) / f"rows{suffix}"
                make(path, size)
                n_rows, seconds, peak = measure(path)
                found[suffix].append({"rows": n_rows, "seconds": seconds, "peak_mib": peak})
                print(f"{suffix} {n_rows:>9,} rows  {n_rows / seconds:>9,.0f} rows/s  {peak:7.1f} MiB at the peak")
            print(f"{suffix} {found[suffix][-1]['peak_mib'] / found[suffix][0]['peak_mib']:.2f} times the memory")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
