"""Registries for tests: bundles made in milliseconds, and a PostgreSQL of its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from luban import files
from luban.evaluate import answers, score
from luban.evaluate.measure import Measure
from luban.project.schema import EvaluateSection
from luban.records import Prediction

LABELS = ("card", "退款", "late")
CARD = "# made\n\nGives a text one of its labels.\n\n## Limits\n\n- Knows its own labels only.\n"


def bundle(
    folder: Path,
    *,
    seed: int = 0,
    wrong: float = 0.1,
    rows: int = 300,
    gates: dict[str, float] | None = None,
    licence: str = "MIT",
    with_answers: bool = True,
    test_seed: int = 1,
    lose_at_most: float | None = None,
    kilobytes: int = 8,
) -> Path:
    """Seal what the registry takes for a bundle: real scores and answers, and random bytes for a graph."""
    chance = random.Random(test_seed)
    gold = [(chance.choice(LABELS),) for _ in range(rows)]
    texts = [f"row {number} {chance.random()}" for number in range(rows)]
    chance = random.Random(f"{seed} {wrong}")
    predicted = [Prediction(labels=(chance.choice(LABELS) if chance.random() < wrong else right[0],)) for right in gold]
    table = pa.table({"text": texts, "meta.shop": [("north", "south")[number % 2] for number in range(rows)]})
    report = score.report(
        name="made", task="classify", labels=LABELS, gold=gold, predictions=predicted, table=table, baselines={},
        digests={"data": f"{test_seed:064x}", "project": f"{seed:064x}"}, settings=EvaluateSection(),
    )  # fmt: skip
    project: dict[str, Any] = {"name": "made", "gates": gates or {}, "train": {"seed": seed}}
    if lose_at_most is not None:
        project |= {"plan": ["quantise"], "compress": {"lose_at_most": lose_at_most}}
    with files.new_folder(folder) as aside:
        task = {"kind": "classify", "options": {}, "labels": list(LABELS), "facts": {}}
        base = {"name": "tiny", "licence": licence}
        files.write_json(aside / "bundle.json", {
            "name": "made", "task": task, "base": base, "runtime": {"kind": "onnx"}, "languages": [], "text": "text",
        })  # fmt: skip
        files.write_json(aside / "calibration.json", {"temperature": 1.0, "thresholds": [], "abstain_below": 0.0})
        files.write_json(aside / "metrics.json", {
            "scores": {name: found.to_json() for name, found in report.scores.items()}, "baselines": {},
            "per_label": {}, "digests": dict(report.digests),
        })  # fmt: skip
        files.write_json(aside / "project.json", project)
        files.write_json(aside / "reference.json", {})
        files.write_text(aside / "card.md", CARD)
        if with_answers:
            packed = answers.pack(Measure("classify", LABELS), gold, predicted, table)
            files.write_bytes(aside / "answers.json", files.canonical_json(packed))
        files.write_bytes(aside / "model.onnx", random.Random(seed).randbytes(1024 * kilobytes))
        files.seal(aside, {"kind": "bundle"})
    return folder


def postgres_program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs; Debian keeps them beside each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL on a folder of its own, on a socket alone, and yield the folder of the socket."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="luban-pg-", dir="/tmp"))
    if user:
        shutil.chown(folder, user)
    programs = [str(postgres_program(name)) for name in ("initdb", "postgres")]
    data = str(folder / "data")
    server = None
    try:
        begin = [
            programs[0],
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "--locale=C.UTF-8",
            "-E",
            "UTF8",
        ]
        subprocess.run(begin, check=True, capture_output=True, user=user, cwd=folder)
        # Nobody pulls the plug while the tests last: what they ask of PostgreSQL needs no flush.
        settings = ["-c", "listen_addresses=", "-c", "max_connections=60", "-c", "fsync=off"]
        server = subprocess.Popen(
            [programs[1], "-D", data, "-k", str(folder), *settings],
            user=user, cwd=folder, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stderr is not None
        for line in server.stderr:
            if "ready to accept connections" in line:
                break
        yield str(folder)
    finally:
        if server is not None and server.stderr is not None:
            server.send_signal(signal.SIGQUIT)
            server.stderr.close()
            server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def execute(url: str, statements: Sequence[str]) -> None:
    """Execute statements one by one, each in a transaction of its own."""
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()
