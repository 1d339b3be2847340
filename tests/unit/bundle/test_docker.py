"""The folder that an image is built from: what its Dockerfile does, and that all it names is there and is taken."""

from __future__ import annotations

import json
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import package_tools
import pytest
from unit.bundle.made import Made, texts

from luban.bundle import own, packages, served
from luban.bundle.engine import Engine
from luban.bundle.packages import Source, docker
from luban.cli.serve import command
from luban.errors import LubanError
from luban.files import verify


@pytest.fixture
def it(classifier: Made) -> Source:
    """Return what is packaged."""
    return Source(folder=classifier.folder, engine=Engine.open(classifier.folder))


@pytest.fixture
def folder(it: Source, tmp_path: Path) -> Path:
    """Return what `docker build` is given, not proven."""
    docker.write(it, tmp_path)
    return tmp_path


def instructions(folder: Path) -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and what they are given, continued lines joined."""
    text = (folder / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def given(folder: Path, name: str) -> list[str]:
    return [value for instruction, value in instructions(folder) if instruction == name]


def test_all_that_is_copied_is_there_and_nothing_else_is_let_in(folder: Path) -> None:
    first, *let_in = (folder / ".dockerignore").read_text("utf-8").split()
    assert first == "*"
    copies = [shlex.split(value)[:-1] for value in given(folder, "COPY") if not value.startswith("--from")]
    sources = [source for copy in copies for source in copy]
    assert len(sources) == 3
    for source in sources:
        assert (folder / source).exists()
        assert any(fnmatch(f"!{source}", one) for one in let_in)
    assert {f"!{source}" for source in sources} == set(let_in)
    verify(folder / "bundle")


def test_pip_is_told_what_is_pinned_here(folder: Path) -> None:
    assert (folder / "requirements.txt").read_text("utf-8").split() == own.closure("onnx")
    install, own_wheel, check = (part for value in given(folder, "RUN")[1:] for part in value.split("&&"))
    assert "--requirement /build/requirements.txt" in install
    (wheel,) = folder.glob("*.whl")
    assert own_wheel.split()[-3:] == ["--no-index", "--no-deps", f"/build/{wheel.name}"]
    assert check.endswith("pip check")


def test_torch_is_the_build_for_cpus(it: Source, tmp_path: Path) -> None:
    runs_on_torch = Source(folder=it.folder, engine=it.engine)
    runs_on_torch.__dict__["facts"] = {**it.facts, "runtime": {"kind": "torch"}}
    docker.write(runs_on_torch, tmp_path)
    index, *pins = (tmp_path / "requirements.txt").read_text("utf-8").splitlines()
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert [pin for pin in pins if pin.startswith("torch==")] and not [pin for pin in pins if "+" in pin]


def test_the_server_is_process_one_and_nobody_is_root(folder: Path) -> None:
    (user,) = given(folder, "USER")
    assert user == f"{docker.USER}:{docker.USER}" and docker.USER > 0
    (entry,), (arguments,) = given(folder, "ENTRYPOINT"), given(folder, "CMD")
    assert json.loads(entry) == ["luban", "serve"]  # a list: no shell that would keep SIGTERM to itself
    assert given(folder, "STOPSIGNAL") == ["SIGTERM"]
    order = [instruction for instruction, _ in instructions(folder)]
    assert order.index("USER") < order.index("ENTRYPOINT")
    found = command.make_context("serve", json.loads(arguments)).params
    assert found["models"] == (f"made={docker.HOME}",)
    assert (found["host"], found["port"], found["drain_s"]) == ("0.0.0.0", docker.PORT, docker.DRAIN_S)
    assert f"bundle {docker.HOME}" in given(folder, "COPY")
    assert given(folder, "EXPOSE") == [str(docker.PORT)]


def test_the_health_check_asks_whether_it_is_ready(folder: Path) -> None:
    (check,) = given(folder, "HEALTHCHECK")
    python, option, code = json.loads(check[check.index("[") :])
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{docker.PORT}/readyz" in code


def test_another_bundle_is_another_image(it: Source) -> None:
    assert docker.image(it) == f"made:{it.engine.digest[:12]}"
    names = {"Bank_Intents.v2": "bank-intents-v2", "2024": "luban-2024", "a..b-": "a-b", "x" * 64: "x" * 50}
    assert {name: docker.plain_name(name) for name in names} == names


def test_memory_is_twice_what_was_measured() -> None:
    assert [docker.memory_mb(n << 20) for n in (1, 32, 33, 500)] == [64, 64, 128, 1024]


def test_a_server_that_does_not_start_is_told_with_its_last_line(folder: Path, tmp_path: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with pytest.raises(LubanError, match=r"ended with \d+ before it was ready; its last lines: .*is no bundle"):
        served.ask(wheel, ["serve", f"x={tmp_path}/nothing/"], "/v1/models/x/predict", "/readyz", ["a"])


def test_what_is_no_row_is_told(it: Source, folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    arguments = ["serve", *docker.arguments(it, str(folder / "bundle"))]
    with pytest.raises(LubanError, match=r"did not answer .*400"):
        served.ask(wheel, arguments, "/v1/models/made/predict", "/readyz", [3])


def test_the_proof_says_what_it_took(it: Source, tmp_path: Path) -> None:
    proof = packages.make("docker", it, tmp_path / "it", texts(40), "rows", 1e-3)
    assert 30 << 20 < proof["memory_bytes"] < 1 << 30
    assert 0 < proof["ready_s"] < 120
    told = (tmp_path / "it" / "README.md").read_text("utf-8")
    assert f"--memory {docker.memory_mb(proof['memory_bytes'])}m" in told
    assert docker.image(it) in told


def test_a_linter_of_dockerfiles_finds_nothing(folder: Path) -> None:
    program = package_tools.program("hadolint", "kubernetes_validate")
    ran = subprocess.run([program, str(folder / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
