"""`luban serve` as a process of its own: real clients, real registry, a new champion while it answers."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving
from serving import served
from unit.bundle.made import Made, made

import luban
from luban.stages import registering

TEXTS = ["where is my card", "我的卡还没到", "refund", "a " * 200]


@pytest.fixture(scope="module")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "tag", "onnx")


@pytest.fixture(scope="module")
def registry(classify: Made, tag: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry with two versions of `bank` and one of `names`."""
    place = tmp_path_factory.mktemp("served")
    other = serving.another(classify.folder, place / "other", 3.0)
    for folder, name in ((classify.folder, "bank"), (other, "bank"), (tag.folder, "names")):
        registering.register(folder, name=name, registry=str(place / "registry"), measure=False, who="test")
    for name in ("bank@1", "names@1"):
        registering.promote(name, registry=str(place / "registry"), force=True, why="a test", who="test")
    return place / "registry"


@pytest.fixture(scope="module")
def server(registry: Path) -> Iterator[serving.Server]:
    with served("bank=champion", "names", "fixed=bank@2", "--registry", str(registry)) as server:
        yield server


@pytest.fixture
def client(server: serving.Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def test_answers_are_the_engine_s(client: httpx.Client, classify: Made) -> None:
    wanted = luban.load(classify.folder).predict(TEXTS)
    found = client.post("/v1/models/bank/predict", json={"texts": TEXTS, "scores": True}).raise_for_status().json()
    assert (found["model"], found["version"], found["digest"]) == ("bank", 1, classify.bundle.digest)
    for one, prediction in zip(found["predictions"], wanted, strict=True):
        assert one["label"] == prediction.label
        assert one["scores"] == pytest.approx(dict(prediction.scores.items()), abs=1e-5)
    alone = client.post("/v1/models/bank/predict", json={"text": TEXTS[0]}).json()["predictions"]
    assert alone == [{"label": wanted[0].label, "score": pytest.approx(wanted[0].score, abs=1e-5)}]


def test_entities_of_texts_and_tokens(client: httpx.Client, tag: Made) -> None:
    rows: list[Any] = ["我的卡 where is it", ["where", "is", "北京"]]
    wanted = luban.load(tag.folder).predict(rows)
    found = client.post("/v1/models/names/predict", json={"texts": rows}).raise_for_status().json()["predictions"]
    spans = [[(span["start"], span["end"], span["label"], span["text"]) for span in one["spans"]] for one in found]
    assert spans == [[(span.start, span.end, span.label, span.text) for span in one.spans] for one in wanted]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "the body: got nothing, wanted JSON"),
        (b'{"text": "a', 400, "the body: the JSON ends too soon"),
        (b"[1]", 400, "the body: got a list, wanted an object"),
        (b"{}", 400, "`text` and `texts`"),
        (b'{"text": "a", "texts": ["b"]}', 400, "`text` and `texts`"),
        (b'{"texts": []}', 400, "got none"),
        (b'{"texts": ["a", 3]}', 400, "texts[1]: got a whole number, wanted a text or a list"),
        (b'{"text": ["a", "b"]}', 400, "row 0"),
        (b'{"text": "a", "txet": 1}', 400, "txet"),
        (b'{"text": "\xff"}', 400, "the body: got a byte that is not UTF-8, at position 10"),
        (json.dumps({"texts": ["a"] * 33}).encode(), 413, "33"),
        (b'{"text": "' + b"a" * (1 << 20) + b'"}', 413, "bytes"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "deep"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(client: httpx.Client, body: bytes, status: int, told: str) -> None:
    found = client.post("/v1/models/bank/predict", content=body)
    assert (found.status_code, found.headers["content-type"]) == (status, "application/problem+json")
    problem = found.json()
    assert told in problem["detail"] and problem["status"] == status and problem["hint"]


def test_a_stream_of_lines_comes_back_in_order(client: httpx.Client, classify: Made) -> None:
    rows = [f"{TEXTS[number % 3]} {number}" for number in range(150)]
    lines = [
        json.dumps(row) if number % 2 else json.dumps({"text": row, "id": f"r{number}"})
        for number, row in enumerate(rows)
    ]
    lines[7] = '{"text": 5}'
    found = client.post("/v1/models/bank/batch", content="\n".join(lines).encode(), params={"scores": "1"})
    answers = [json.loads(line) for line in found.text.splitlines()]
    wanted = luban.load(classify.folder).predict(rows)
    assert [answer["index"] for answer in answers] == list(range(150))
    assert answers[7]["error"]["status"] == 400
    for number, (answer, prediction) in enumerate(zip(answers, wanted, strict=True)):
        if number != 7:
            assert answer["label"] == prediction.label and answer["version"] == 1 and len(answer["scores"]) == 3
            assert answer.get("id") == (None if number % 2 else f"r{number}")


def test_the_server_tells_of_itself(client: httpx.Client, server: serving.Server) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    models = client.get("/v1/models").json()["models"]
    assert [(one["name"], one["version"], one["open"]) for one in models] == [
        ("bank", 1, True), ("names", 1, True), ("fixed", 2, True),
    ]  # fmt: skip
    about = client.get("/v1/models/names").json()
    assert about["task"] == "tag" and about["labels"] == ["person", "地点"]
    missing = client.get("/v1/models/bnak")
    assert missing.status_code == 404 and "bank" in missing.json()["hint"]
    assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert "predict" in client.get("/docs").text
    assert client.get("/metrics").status_code == 404, "numbers are for the admin port"
    client.post("/v1/models/fixed/predict", json={"text": "a"}).raise_for_status()
    numbers = httpx.get(f"{server.admin}/metrics").text
    assert 'luban_predictions_total{label="' in numbers and 'model="fixed",version="2"' in numbers
    assert 'luban_requests_total{route="/v1/models/{name}/predict",status="200"}' in numbers


def test_every_example_of_the_documentation_is_answered(registry: Path) -> None:
    n_asked = 0
    with served("bank=champion", "--registry", str(registry), "--embeddings") as server, httpx.Client() as client:
        paths = client.get(f"{server.url}/openapi.json").json()["paths"]
        page = client.get(f"{server.url}/docs").text
        label = client.get(f"{server.url}/v1/models/bank").json()["labels"][0]
        for path, methods in paths.items():
            if "post" not in methods:
                continue
            kind, about = next(iter(methods["post"]["requestBody"]["content"].items()))
            body = json.dumps(about["example"]).replace("NAME", "bank").replace("LABEL", label)
            filled = path.format(name="bank", version="1", label="champion")
            found = client.post(server.url + filled, content=body, headers={"content-type": kind})
            assert found.status_code == 200, (path, found.text)
            assert f"HOST:PORT{path.format(name='NAME', version='VERSION', label='LABEL')} -H" in page
            n_asked += 1
    assert n_asked > 8


def test_a_new_champion_takes_over_while_it_answers(server: serving.Server, registry: Path) -> None:
    def promote(crowd: serving.Crowd) -> None:
        for number in (2, 1, 2):
            n = sum(one["event"] == "model.swapped" for one in server.events)
            registering.promote(f"bank@{number}", registry=str(registry), force=True, why="a test", who="test")
            server.wait_for("model.swapped", n + 1)
        crowd.stopped = True

    got = serving.flood(server.port, serving.asking(TEXTS, 10**9), 8, keep=True, meanwhile=promote)
    assert set(got.statuses) == {200} and not got.lost
    assert {body["version"] for body in got.bodies} == {1, 2}
    by_version = {(body["version"], body["digest"]) for body in got.bodies}
    assert len(by_version) == 2


def test_it_stops_when_told_and_loses_nobody(registry: Path) -> None:
    with served("bank@2", "--registry", str(registry), "--drain-s", "4") as server:
        stop = threading.Timer(0.5, server.process.send_signal, [signal.SIGTERM])
        stop.start()
        got = serving.flood(server.port, serving.asking(TEXTS, 10**9), 16)
        stop.join()
        assert server.process.wait(30) == 0
        assert not got.lost and got.statuses[200] > 16
        assert set(got.statuses) <= {200, 503}, "those who come again and again are told that it stops"
        assert all(b"retry-after" in head and b"connection: close" in head for head in got.heads)
        server.wait_for("drained")


def test_it_speaks_tls(registry: Path, tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-days", "2", "-subj", "/CN=a", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out",
               "cert.pem"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    files = ["--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]
    with served("bank", "--registry", str(registry), *files) as server:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert server.url.startswith("https://127.0.0.1")
        with httpx.Client(base_url=server.url, verify=trusted) as client:
            assert client.post("/v1/models/bank/predict", json={"text": "a"}).status_code == 200


def test_several_processes_share_a_port(classify: Made) -> None:
    with served(f"bank={classify.folder}", "--workers", "2") as server:
        got = serving.flood(server.port, serving.asking(TEXTS, 400), 16)
        assert got.statuses == {200: 400}
        first = server.wait_for("worker.started")["pid"]
        subprocess.run(["kill", "-9", str(first)], check=True)
        server.wait_for("worker.died")
        server.wait_for("ready", 3, 60)
        assert serving.flood(server.port, serving.asking(TEXTS, 100), 8).statuses[200] == 100
        numbers = httpx.get(f"{server.admin}/metrics").text
        counted = [line for line in numbers.splitlines() if line.startswith("luban_requests_total")]
        assert sum(float(line.split()[-1]) for line in counted) >= 500, "of all processes, the dead one too"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0


@pytest.mark.parametrize(
    ("arguments", "told", "exit_code"),
    [
        (["nowhere/"], "names no version", 8),
        (["bank=a/b"], "fix: `luban run` makes one", 7),
        (["bank=champion", "bank@2"], "two models are called 'bank'", 8),
        (["bank@9"], "no version 9", 7),
        (["bank", "--host", "0.0.0.0"], "nobody would be kept out", 8),
        (["bank", "--cert", "CERT"], "--cert goes with --key", 2),
        (["bank", "--host", "203.0.113.7", "--everybody"], "can't listen on 203.0.113.7", 8),
    ],
)
def test_what_can_t_be_served_is_said_at_once(
    arguments: list[str], told: str, exit_code: int, registry: Path, tmp_path: Path
) -> None:
    (tmp_path / "CERT").write_text("")
    command = [sys.executable, "-m", "luban.cli.main", "serve", *arguments, "--registry", str(registry)]
    done = subprocess.run(
        [*command, "--port", "0", "--admin-port", "0"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == exit_code, done.stderr
    assert told in done.stderr


def test_the_newest_bundle_is_served_where_none_is_named(classify: Made, tmp_path: Path) -> None:
    shutil.copytree(classify.folder, tmp_path / "runs/made/bundle")
    with served(cwd=tmp_path) as server:
        assert httpx.get(f"{server.url}/v1/models").json()["models"][0]["name"] == "made"


def test_on_a_terminal_a_person_is_told_where_it_is_what_it_serves_and_whether_there_are_keys(
    classify: Made, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "luban.cli.main", "serve", f"bank={classify.folder}", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--admin-port", "0", "--threads", "1"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path
    )
    os.close(theirs)
    told = ""
    try:
        while "Ctrl-C stops" not in told:
            told += os.read(ours, 4096).decode()
        found = re.search(r"Luban serves at (http://\S+)", told)
        assert found is not None
        index = httpx.get(f"{found[1]}/").json()
        assert httpx.get(f"{found[1]}{index['docs']}").status_code == 200
        assert f"bank: {classify.folder}" in told and f"{found[1]}/docs" in told and "none: whoever" in told
        assert "{" not in told, "no line of JSON"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        os.close(ours)


def test_openai_s_client_finds_the_models_in_its_own_form(client: httpx.Client) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    assert [(one["id"], one["object"]) for one in found["data"]] == [(one["name"], "model") for one in found["models"]]
