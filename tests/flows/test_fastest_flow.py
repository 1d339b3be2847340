"""`luban export --fastest`: all ways are tried, the best is written down, and the run goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flows import small

from luban.bundle.measure import Latency, Throughput, Timing
from luban.cli.main import main
from luban.errors import LubanError
from luban.models.limits import cores
from luban.project.load import load
from luban.stages import fastest, run
from luban.stages.fastest import Way, _allowed

PROJECT = """\
name: small
task: {kind: classify}
base: base
max_length: 32
data: {train: rows.jsonl, split: {validation: 0.2, test: 0.3}}
train: {epochs: 4, learning_rate: 3.0e-3, batch_size: 16, threads: 1}  # quick
evaluate: {baselines: [majority]}
export:
  max_difference: 0.001  # exact
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a project that nothing was done for yet."""
    folder = tmp_path_factory.mktemp("small")
    return small.write(folder, PROJECT, n_rows=100, words=lambda rng: rng.randint(2, 9))


def test_every_way_is_measured_and_the_best_written_down(project: Path) -> None:
    found = fastest(load(project), lose=1.0)
    assert {way.name for way in found.tried} == {"onnx fp32", "openvino fp32", "openvino bf16"}
    timed = [way for way in found.tried if way.timing is not None]
    assert found.chosen in timed
    assert {way.threads for way in timed if way.name == found.chosen.name} >= {1, cores()}
    plain = next(way for way in found.tried if way.name == "onnx fp32")
    assert plain.max_difference < 1e-3 and plain.lost is not None and plain.lost.value == 0.0

    export = load(project).project.export
    assert (export.runtime, export.precision) == (found.chosen.runtime, found.chosen.precision)
    assert export.threads in (found.chosen.threads, 0)
    text = project.read_text("utf-8")
    assert "# quick" in text
    assert "measured here" in text or "the fastest here" in text
    done = run(load(project))
    assert done.bundle is not None
    told = json.loads((done.folder / "bundle/bundle.json").read_text("utf-8"))["runtime"]
    assert told["kind"] == found.chosen.runtime


def test_what_loses_more_than_it_may_is_not_taken(project: Path) -> None:
    found = fastest(load(project), lose=-1.0)  # nothing but the plain way keeps this
    assert found.chosen.name == "onnx fp32"
    refused = [way for way in found.tried if way.refused]
    assert {way.name for way in refused} == {"openvino fp32", "openvino bf16"}
    assert all("on validation rows, allowed is -1" in way.refused and way.timing is None for way in refused)
    assert load(project).project.export.runtime == "onnx"


def test_the_command_tells_people_and_programs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "-p", str(project), "--fastest", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = next(line for line in told if line["event"] == "export" and "tried" in line)
    assert found["chosen"]["timing"]["throughput"]["windows_per_s"] > 0
    assert main(["export", "-p", str(project), "--fastest"]) == 0
    drawn = capsys.readouterr().out
    assert "● " in drawn and "wrote" in drawn


def test_a_shared_base_has_no_other_way(project: Path) -> None:
    with pytest.raises(LubanError, match="onnx-shared alone"):
        fastest(load(project, ["export.runtime=onnx-shared", "export.precision=fp32", "train.freeze=base"]))


def test_how_far_fewer_bits_may_be_off_is_twice_what_was_seen() -> None:
    timing = Timing(Latency(1.0, 1.0, 9), Throughput(1.0, 1.0))
    for seen, wanted in ((0.034, 0.07), (0.6, 2.0), (0.0, 0.001)):
        assert _allowed(Way("openvino", "bf16", 1, timing, "", seen), 0.001) == wanted
    assert _allowed(Way("onnx", "fp32", 1, timing, "", 1e-6), 0.001) == 0.001
