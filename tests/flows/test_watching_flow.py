"""Dashboard and alert rules against the real Prometheus, which scrapes a real server with a canary on it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import challengers
import httpx
import pytest
import serving
import yaml
from serving import served
from unit.bundle.made import WORDS, Made, made

import luban
from luban.cli.main import main
from luban.serve import watching
from luban.stages import registering, trying

HERE = Path(__file__).resolve().parent
QUIET = {"Versions that could not be opened", "Trials that ended"}
"""Panels that have something to show only where something has happened within the hour."""

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus is not here: apt-get install prometheus"
)


@pytest.fixture
def classify(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "classify", "onnx")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    assert main(["dashboard", str(tmp_path / "watching"), "-q"]) == 0
    return tmp_path / "watching"


def test_files_are_written_and_not_written_over(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(watching.NAMES)
    assert main(["dashboard", str(written)]) == 0
    (written / "alerts.yml").write_text("mine")
    assert main(["dashboard", str(written)]) == 7
    assert "is there already" in capsys.readouterr().err
    assert main(["dashboard", str(written), "--force"]) == 0


@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]])
def test_promtool_finds_nothing_wrong(written: Path, arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=written, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_raised_by_what_it_is_for(written: Path) -> None:
    tests = yaml.safe_load((HERE / "alerts.yml").read_text("utf-8"))
    names = {
        rule["alert"] for group in yaml.safe_load(watching.read("alerts.yml"))["groups"] for rule in group["rules"]
    }
    assert {one["alertname"] for one in tests["tests"][0]["alert_rule_test"]} == names
    (written / "tests.yml").write_text(yaml.safe_dump(tests | {"rule_files": ["alerts.yml"]}), "utf-8")
    done = subprocess.run(["promtool", "test", "rules", "tests.yml"], cwd=written, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server(classify: Made, tmp_path: Path) -> Iterator[serving.Server]:
    registry = str(tmp_path / "registry")
    other = challengers.good(classify.folder, tmp_path / "other", 1)
    for folder in (classify.folder, other):
        registering.register(folder, name="bank", registry=registry, measure=False, who="test")
    registering.promote("bank@1", registry=registry, force=True, why="a test", who="test")
    trying.begin("bank@2", share=0.5, disagree_at_most=0.5, registry=registry, who="test")
    with served("bank", "--registry", registry) as server:
        server.wait_for("trial.begun")
        yield server


@pytest.fixture
def prometheus(server: serving.Server, written: Path) -> Iterator[httpx.Client]:
    """Run Prometheus on the configuration that is written, with the server's port and a scrape each 200 ms."""
    config = yaml.safe_load((written / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.admin.removeprefix("http://")]
    (written / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}",
         "--storage.tsdb.path=data"], cwd=written, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        assert any("Server is ready" in line for line in process.stderr), "it has ended"
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)
        rest.join()
        process.stderr.close()


def bodies(start: int) -> Iterator[bytes]:
    for number in itertools.count(start):
        yield json.dumps({"text": f"{WORDS[number % len(WORDS)]} {number}"}).encode()


def test_every_panel_shows_what_a_real_server_tells(prometheus: httpx.Client, server: serving.Server) -> None:
    board = json.loads(watching.read("grafana.json"))
    asked = {
        (panel["title"], target["refId"]): target["expr"].replace("$__rate_interval", "5s")
        .replace("$instance", ".*").replace("$model", "bank")
        for panel in board["panels"] if panel["type"] != "row" for target in panel["targets"]
    }  # fmt: skip
    assert len(asked) > 15 and not any("$" in expr for expr in asked.values())
    found: dict[tuple[str, str], Any] = {}
    end = time.monotonic() + 40
    for number in itertools.count():
        serving.flood(server.port, itertools.islice(bodies(100 * number), 100), 4)
        with luban.Client(server.url) as client:
            (id,) = client.predict("bank", ["where is my card"], ids=True).ids
            client.feedback("bank", luban.Feedback(id=id, right=number % 2 == 0))
        for key, expr in asked.items():
            told = prometheus.get("/query", params={"query": expr}).json()
            assert told["status"] == "success", (key, told)
            values = [one["value"][1] for one in told["data"]["result"]]
            if any(value != "NaN" for value in values):
                found[key] = values
        if {title for title, _ in found} >= {title for title, _ in asked} - QUIET or time.monotonic() > end:
            break
    assert {title for title, _ in asked} - {title for title, _ in found} <= QUIET
    for variable in board["templating"]["list"][1:]:
        metric = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        series = prometheus.get("/series", params={"match[]": metric[0][0]}).json()["data"]
        assert series and all(metric[0][1] in one for one in series)
    rules = prometheus.get("/rules").json()["data"]["groups"][0]["rules"]
    assert len(rules) == 7 and all(rule["health"] in ("ok", "unknown") for rule in rules)
