"""How much feedback does a server keep a second, each on the disk before it is acknowledged, and nothing lost?

    python bench/feedback.py --bundle runs/NAME/bundle --rows test.jsonl
    python bench/feedback.py --smoke                                        # a made-up bundle

wrk sends one item a request, a text and its label, over 1, 16 and 64 connections. Afterwards the registry is counted:
each item that was acknowledged must be there. Beside it stands what the disk can do: small writes a second, each
flushed, by one process. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from compress import LUBAN
from serve import LOADS, LUA, SECONDS, free_port, made_up_bundle, running, want_wrk, wrk


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--rows", type=Path, help="JSON lines with `text`")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/feedback.json"))
    args = parser.parse_args()
    want_wrk()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.smoke:
            args.bundle, args.rows = made_up_bundle(folder)
        found = measure(args.bundle, args.rows, folder, 1 if args.smoke else SECONDS)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(bundle: Path, rows: Path, folder: Path, seconds: int) -> dict[str, Any]:
    """Serve the bundle, send feedback, count what is kept, print and return all."""
    registry = folder / "registry"
    run("register", str(bundle), "--name", "bench", "--no-measure", registry=registry)
    run("promote", "bench@1", "--force", "--why", "a measurement", registry=registry)
    (folder / "post.lua").write_text(LUA)
    label = json.loads((bundle / "bundle.json").read_text("utf-8"))["task"]["labels"][0]
    texts = [json.loads(line)["text"] for line in rows.read_text("utf-8").splitlines()]
    bodies = folder / "bodies.jsonl"
    bodies.write_text(
        "".join(json.dumps({"items": [{"text": text, "label": label}]}) + "\n" for text in texts), "utf-8"
    )
    port = free_port()
    command = [*LUBAN, "serve", "bench@champion", "--registry", str(registry), "--port", str(port), "--admin-port", "0"]
    url = f"http://127.0.0.1:{port}/v1/models/bench/feedback"
    with running(command, url, bodies, folder / "log"):
        loads = {str(load): wrk(url, load, seconds, bodies, folder) for load in LOADS}
    kept = json.loads(run("feedback", "list", "bench", "--last", "0", "--json", registry=registry))
    acknowledged = 1 + round(sum(one["rate"] * one["seconds"] for one in loads.values()))
    flushes = flushes_per_s(folder, seconds)
    for load, one in loads.items():
        print(
            f"{load:>3s} at once: {one['rate']:7.1f} a second, p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms"
        )
    print(f"acknowledged {acknowledged}, kept {len(kept['feedback'])}; the disk flushes {flushes:.0f} times a second")
    if len(kept["feedback"]) < acknowledged:
        raise SystemExit("feedback was lost")
    return {"loads": loads, "acknowledged": acknowledged, "kept": len(kept["feedback"]), "flushes_per_s": flushes}


def run(*arguments: str, registry: Path) -> str:
    """Run a command of Luban on a registry, and return the last line of what it says."""
    environment = {**os.environ, "LUBAN_REGISTRY": str(registry)}
    done = subprocess.run([*LUBAN, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout.splitlines()[-1]


def flushes_per_s(folder: Path, seconds: int) -> float:
    """Return how often a second a page at the end of a file reaches the disk."""
    n, begun = 0, time.perf_counter()
    with (folder / "pages").open("wb", buffering=0) as file:
        while time.perf_counter() - begun < seconds:
            file.write(bytes(4096))
            os.fsync(file.fileno())
            n += 1
    return n / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
