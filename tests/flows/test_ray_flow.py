"""`luban serve --ray`: a real Ray on this machine, started and ended by the command."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import package_tools
import pytest
from unit.bundle.made import made, texts

from luban.bundle.engine import Engine

N_CLIENTS = 8
OPENED = '"event": "model.opened"'
"""A replica logs it once."""


@pytest.fixture
def ray() -> None:
    """Skip where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'luban[ray]'")


def test_replicas_answer_as_the_engine_grow_under_load_and_lose_nobody(
    ray: None, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    it, port = made(tmp_path_factory, "classify", "onnx"), package_tools.free_port()
    address = f"http://127.0.0.1:{port}"
    arguments = ["--ray", "--port", str(port), "--max-replicas", "2", "--target", "1", "--request-s", "60"]
    command = [sys.executable, "-m", "luban.cli.main", "serve", f"bank={it.folder}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    ask = f"{address}/v1/models/bank/predict"
    with package_tools.running(command, f"{address}/readyz", tmp_path, environment, 400) as process:
        rows = texts(30, seed=11)
        status, answer = package_tools.post(ask, {"texts": rows})
        assert status == 200
        predictions = Engine.open(it.folder).predict(rows)
        assert answer["predictions"] == [{"label": one.label, "score": round(one.score, 6)} for one in predictions]
        assert answer["digest"] == it.bundle.digest
        assert package_tools.post(ask, {"texts": [3]})[0] == 400
        assert package_tools.post(f"{address}/v1/models/other/predict", {"text": "a"})[0] == 404

        grown, stopped = threading.Event(), threading.Event()

        def keep_asking(client: int) -> list[int]:
            found = []
            while not stopped.is_set():
                found.append(package_tools.post(ask, {"texts": rows[client:]})[0])
                if (tmp_path / "server.log").read_text("utf-8", "replace").count(OPENED) == 2:
                    grown.set()
            return found

        with ThreadPoolExecutor(N_CLIENTS) as clients:
            asking = [clients.submit(keep_asking, client) for client in range(N_CLIENTS)]
            try:
                assert grown.wait(120), (tmp_path / "server.log").read_text("utf-8", "replace")[-3000:]
            finally:
                stopped.set()
            statuses = [status for client in asking for status in client.result()]
        assert set(statuses) == {200}

        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
    log = (tmp_path / "server.log").read_text("utf-8")
    assert log.index('"event": "draining"') < log.index('"event": "drained"')
