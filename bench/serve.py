"""How many requests a second does `luban serve` answer, and how soon? Beside other servers of the same base.

    python bench/serve.py --bundle runs/NAME/bundle --rows test.jsonl                  # all peers, twice
    python bench/serve.py --bundle runs/NAME/bundle --rows test.jsonl --peers bentoml litserve --rounds 1
    python bench/serve.py --smoke                                                      # Luban alone, a made-up bundle

Every peer is asked for in two ways: with transformers' `pipeline` as its documentation shows (a classifier of the same
base with as many labels and an untrained head: as much work), and with Luban's own graph in ONNX Runtime. Batching is
on where a peer has it. Requests hold one text each, come from wrk (Debian's package) over connections that are kept,
1, 16 and 64 at once, and each connection waits for its answer before it asks again. Servers are started, measured and
stopped one after the other, in rounds, so that all see the same machine; of rounds the median counts. A rate stands
in brackets where its 99th percentile is above 50 ms, or where an answer was no success.

Peers are installed from PyPI into environments of their own below `~/.cache/luban/bench`, beside the running one's
torch, transformers and ONNX Runtime. Their files are in
`bench/servers`. Also measured: from start to first answer, where Luban has made nothing ready yet and then once more,
memory (PSS of all processes after the load), and the rate of the engine without a server (`in process`). Prints ratios,
writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress import LUBAN
from predict import made_up, make_models, own_python

SERVERS = Path(__file__).parent / "servers"
LOADS = (1, 16, 64)
SECONDS, WARM_SECONDS = 6, 2
WITHIN_MS = 50.0
PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # name: script, path of a request, packages
    "fastapi": ("plain.py", "/predict", ("fastapi", "uvicorn[standard]")),
    "bentoml": ("bento.py", "/predict", ("bentoml",)),
    "litserve": ("lit.py", "/predict", ("litserve",)),
    "ray": ("rayserve.py", "/predict", ("ray[serve]",)),
    "mlflow": ("mlf.py", "/invocations", ("mlflow",)),
}
KINDS = ("pipeline", "graph")
LUA = """\
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local at = math.random(#bodies)
request = function()
  at = at % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "status": %d, "lost": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--rows", type=Path, help="JSON lines with `text`")
    parser.add_argument("--base", default="minilm-l6", help="what the peers' classifier is made of")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/serve.json"))
    args = parser.parse_args()
    want_wrk()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.smoke:
            args.peers, args.rounds = [], 1
            args.bundle, args.rows = made_up_bundle(folder)
        found = measure(args, folder)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def want_wrk() -> None:
    """End here where nothing could make the load."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk makes the load: install it, e.g. apt-get install wrk")


def made_up_bundle(folder: Path) -> tuple[Path, Path]:
    """Make a bundle and rows for a quick pass, and return where they are."""
    rows = made_up(folder / "rows.jsonl", 256)
    make_models(folder, "tiny", rows)
    return folder / "bundle", rows


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure every side in rounds, print the tables and return all."""
    texts = [json.loads(line)["text"] for line in args.rows.read_text("utf-8").splitlines()]
    (folder / "post.lua").write_text(LUA)
    model = folder / "classifier"
    if args.peers and "pipeline" in args.kinds:
        classifier(args.base, args.bundle, model)
    sides: list[tuple[str, str]] = [("luban", ""), *((peer, kind) for kind in args.kinds for peer in args.peers)]
    for peer in args.peers:
        python_of(peer)
    rounds: dict[str, list[dict[str, Any]]] = {named(*side): [] for side in sides}
    inside = [in_process(args.bundle, args.rows)]
    for number in range(args.rounds):
        for side in sides:
            given = model if side[1] == "pipeline" else args.bundle
            found = one(side, given, texts, folder)
            rounds[named(*side)].append(found)
            rates = "  ".join(f"{load}: {found['loads'][load]['rate']:7.1f}/s" for load in map(str, LOADS))
            starts = f"{found['first_s']:6.2f} s, {found['again_s']:6.2f} s"
            print(f"round {number + 1}  {named(*side):18s} first answer {starts}  {rates}", flush=True)
        inside.append(in_process(args.bundle, args.rows))
    table(rounds, statistics.median(inside))
    return {"rounds": rounds, "in_process": inside}


def named(peer: str, kind: str) -> str:
    """Return a side's name."""
    return f"{peer} {kind}".strip()


def one(side: tuple[str, str], given: Path, texts: list[str], folder: Path) -> dict[str, Any]:
    """Start one server, measure it, and stop it; then start it again for its first answer."""
    peer, _ = side
    bodies = folder / f"{peer}.jsonl"
    bodies.write_text("".join(json.dumps(body(peer, text)) + "\n" for text in texts), "utf-8")
    home = Path(tempfile.mkdtemp(dir=folder))
    with started(side, given, bodies, home) as (process, url, first_s):
        loads = {}
        for load in LOADS:
            wrk(url, load, WARM_SECONDS, bodies, folder)
            loads[str(load)] = wrk(url, load, SECONDS, bodies, folder)
        memory = memory_mb(process.pid)
    with started(side, given, bodies, home) as (_, _, again_s):
        return {"first_s": first_s, "again_s": again_s, "memory_mb": memory, "loads": loads}


@contextmanager
def started(
    side: tuple[str, str], given: Path, bodies: Path, home: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    """Run a server; give its process, where it is asked, and the seconds to its first answer.

    Args:
        side: peer and kind.
        given: the bundle, or a transformers model.
        bodies: a request a line.
        home: where Luban keeps what it makes ready for this machine: nothing at first.
    """
    peer, kind = side
    port = free_port()
    environment = {
        **os.environ, "PEER_KIND": kind, "PEER_MODEL": str(given.resolve()), "BENTOML_DO_NOT_TRACK": "true",
        "LUBAN_HOME": str(home),
    }  # fmt: skip
    if peer == "luban":
        command = [*LUBAN, "serve", f"bench={given}", "--port", str(port), "--admin-port", "0"]
        path = "/v1/models/bench/predict"
    else:
        script, path, _ = PEERS[peer]
        python = python_of(peer)
        command = [str(python), str(SERVERS / script), str(port)]
        environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # they start commands by name
    url = f"http://127.0.0.1:{port}{path}"
    with running(command, url, bodies, home / "log", environment) as (process, first_s):
        yield process, url, first_s


@contextmanager
def running(
    command: list[str], url: str, bodies: Path, log: Path, environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run a command until it has answered the first request at an address; give it, and the seconds that this took."""
    begun = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        first(url, bodies.read_text("utf-8").split("\n", 1)[0], process, log)
        yield process, time.perf_counter() - begun
    finally:
        stop(process)


def body(peer: str, text: str) -> dict[str, Any]:
    """Return a request as a side wants it."""
    if peer == "bentoml":
        return {"texts": [text]}
    return {"inputs": [text]} if peer == "mlflow" else {"text": text}


def first(url: str, body: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the first answer."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the server ended:\n{log.read_text('utf-8', 'replace')[-3000:]}")
        try:
            with urllib.request.urlopen(request, timeout=60):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)


def wrk(url: str, load: int, seconds: int, bodies: Path, folder: Path) -> dict[str, float]:
    """Put a load on a server; return the rate of answers, their times in milliseconds, and how many were none."""
    command = ["wrk", "-t", "1", "-c", str(load), "-d", f"{seconds}s", "--timeout", "20s", "-s"]
    done = subprocess.run(
        [*command, str(folder / "post.lua"), url], env={**os.environ, "BODIES": str(bodies)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    good = found["requests"] - found["status"]
    return {
        "rate": good / (found["us"] / 1e6), "p50_ms": found["p50_us"] / 1e3, "p99_ms": found["p99_us"] / 1e3,
        "refused": found["status"], "lost": found["lost"], "seconds": found["us"] / 1e6,
    }  # fmt: skip


def memory_mb(pid: int) -> float:
    """Return the memory of a process and all below it, shared pages counted in parts, in millions of bytes."""
    import psutil

    family = {pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))}
    family |= {one.pid for one in psutil.process_iter() if same_session(one.pid, pid)}
    return sum(psutil.Process(one).memory_full_info().pss for one in family) / 1e6


def same_session(pid: int, leader: int) -> bool:
    """Tell whether a process belongs to a server that was started as leader of a session."""
    try:
        return os.getsid(pid) == leader
    except ProcessLookupError:
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started."""
    import psutil

    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in family:
        try:
            left.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


def in_process(bundle: Path, rows: Path) -> float:
    """Return the rate of texts a second of the engine without a server, in calls of 64 texts as they come."""
    code = (
        "import sys, time, json, luban\n"
        "texts = [json.loads(line)['text'] for line in open(sys.argv[2], encoding='utf-8')]\n"
        "engine = luban.load(sys.argv[1])\n"
        "calls = [texts[at:at + 64] for at in range(0, len(texts), 64)]\n"
        "engine.predict(calls[0])\n"
        "done, began = 0, time.perf_counter()\n"
        f"while time.perf_counter() - began < {SECONDS}:\n"
        "    for call in calls[:8]:\n"
        "        engine.predict(call); done += len(call)\n"
        "    calls = calls[8:] + calls[:8]\n"
        "print(done / (time.perf_counter() - began))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(rows)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def table(rounds: dict[str, list[dict[str, Any]]], inside: float) -> None:
    """Print medians over rounds, and Luban's ratios."""

    def middle(name: str, load: int, fact: str) -> float:
        return statistics.median(found["loads"][str(load)][fact] for found in rounds[name])

    print(f"\nthe engine without a server, calls of 64 texts: {inside:.1f} texts/s\n")
    head = "".join(f"{f'{load} at once':>22s} {'luban':>7s}" for load in LOADS)
    print(f"{'requests/s (p99 ms)':20s}{head}{'first answer':>14s}{'again':>9s}{'memory MB':>11s}")
    for name, found in rounds.items():
        cells = ""
        for load in LOADS:
            rate, p99 = middle(name, load, "rate"), middle(name, load, "p99_ms")
            bad = p99 > WITHIN_MS or middle(name, load, "refused") or middle(name, load, "lost")
            shown = f"[{rate:.1f}]" if bad else f"{rate:.1f}"
            cells += f"{f'{shown} ({p99:.1f})':>22s} {middle('luban', load, 'rate') / max(rate, 1e-9):6.2f}x"
        first_s = statistics.median(one["first_s"] for one in found)
        memory = statistics.median(one["memory_mb"] for one in found)
        again_s = statistics.median(one["again_s"] for one in found)
        print(f"{name:20s}{cells}{first_s:12.2f} s{again_s:7.2f} s{memory:11.0f}")
    share = middle("luban", LOADS[-1], "rate") / inside
    print(f"\n{LOADS[-1]} requests at once, against the engine without a server: {share:.0%}")


def classifier(base: str, bundle: Path, folder: Path) -> None:
    """Write a transformers classifier of the base, with as many labels as the bundle and an untrained head."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

    from luban.models.base import find

    logging.set_verbosity_error()
    torch.manual_seed(0)
    n_labels = len(json.loads((bundle / "bundle.json").read_text("utf-8"))["task"]["labels"])
    source = find(base, Path()).folder
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=n_labels).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def python_of(peer: str) -> Path:
    """Return the Python of a peer's own environment; torch, transformers and ONNX Runtime are the same for all."""
    return own_python(f"serve-{peer}", PEERS[peer][2], shared=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
