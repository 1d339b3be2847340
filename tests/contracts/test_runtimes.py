"""What every runtime promises: the logits of the model it was given, from a folder that holds nothing but the model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.bundle.made import MAX_LENGTH, Made, made

from luban.bundle import parity, runtimes, seal
from luban.bundle.runtimes import onnx
from luban.compress import make as make_method
from luban.errors import CorruptBundle, LubanError, UnknownPlugin
from luban.files import read_json
from luban.models.heads import PooledHead, TaskModel
from luban.models.windows import pad
from luban.project.schema import Plugin
from luban.records import Encoded

CLOSE = 1e-4
KINDS = ("classify", "tag")


@pytest.fixture(params=[(runtime, kind) for runtime in runtimes.catalogue for kind in KINDS], ids=str)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Made]:
    """Return every runtime with a bundle of every task."""
    runtime, kind = request.param
    there(runtime)
    return runtime, made(tmp_path_factory, kind, runtime)


def there(runtime: str) -> None:
    """Skip a test where what a runtime needs is not installed."""
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed: pip install 'luban[openvino]'")


def opened(runtime: str, folder: Path) -> Any:
    return runtimes.open(runtime, folder, read_json(folder / seal.BUNDLE)["runtime"])


def logits_of(model: TaskModel, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    return found


def batches(rows: Encoded, pad_id: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return batches of every awkward shape."""
    ordered = np.argsort(rows.lengths)
    chosen = {
        "ragged": np.array([ordered[0], ordered[-1], ordered[len(ordered) // 2]]),
        "one": ordered[3:4],
        "longest alone": ordered[-1:],
        "many": ordered,
    }
    found = {name: pad(rows, windows, pad_id) for name, windows in chosen.items()}
    shapes = {name: (batch["input_ids"], batch["attention_mask"]) for name, batch in found.items()}
    ids = np.random.default_rng(0).integers(5, 90, (3, MAX_LENGTH))
    return {**shapes, "full window": (ids, np.ones_like(ids)), "one token": (ids[:, :1], np.ones_like(ids[:, :1]))}


def test_logits_are_the_models(one: tuple[str, Made]) -> None:
    runtime, it = one
    runner = opened(runtime, it.folder)
    for name, (ids, mask) in batches(it.rows, it.processor.pad_id).items():
        wanted, got = logits_of(it.model, ids, mask), runner.run(ids, mask)
        assert got.dtype == np.float32 and got.shape == wanted.shape, name
        real = mask > 0 if it.task.per_token else slice(None)
        assert np.abs(wanted[real] - got[real]).max() < CLOSE, name


def test_padding_changes_no_answer(one: tuple[str, Made]) -> None:
    runtime, it = one
    runner = opened(runtime, it.folder)
    ids = np.random.default_rng(1).integers(5, 90, (1, 9))
    wide, mask = np.full((1, 30), it.processor.pad_id), np.zeros((1, 30), np.int64)
    wide[:, :9], mask[:, :9] = ids, 1
    alone, padded = runner.run(ids, np.ones_like(ids)), runner.run(wide, mask)
    assert np.abs(alone - (padded[:, :9] if it.task.per_token else padded)).max() < CLOSE


def test_many_threads_share_one_runner(one: tuple[str, Made]) -> None:
    runtime, it = one
    runner = opened(runtime, it.folder)
    shapes = list(batches(it.rows, it.processor.pad_id).values())
    wanted = [runner.run(*shape) for shape in shapes]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda shape: runner.run(*shape), shapes * 10))
    for number, logits in enumerate(found):
        assert np.allclose(logits, wanted[number % len(wanted)], atol=1e-5)


def test_bundle_holds_plain_files_with_no_trace_of_the_machine(one: tuple[str, Made]) -> None:
    _, it = one
    traces = [str(it.folder.parent).encode(), b"site-packages", os.fsencode(Path.cwd()), b'.py"']
    for file in it.folder.iterdir():
        assert file.suffix in seal.ENDINGS
        data = file.read_bytes()
        assert not [trace for trace in traces if trace in data], file.name


def test_another_process_seals_the_same_digest(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from luban.models import tiny\n"
        "from unit.bundle.made import make_bundle\n"
        "folder = Path(sys.argv[1])\n"
        "base = tiny.make(folder / 'tiny')\n"
        "for name in sys.argv[2:]:\n"
        "    runtime, kind = name.split('-')\n"
        "    print(make_bundle(folder / name, base, kind, runtime).bundle.digest)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONHASHSEED": "7"}
    names = ["onnx-classify", "onnx-tag", "torch-classify", "torch-tag"]
    command = [sys.executable, "-c", script, str(tmp_path), *names]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    mine = [made(tmp_path_factory, kind, runtime).bundle.digest for runtime, kind in (n.split("-") for n in names)]
    assert ran.stdout.split() == mine


def test_a_broken_model_file_is_named(one: tuple[str, Made], tmp_path: Path) -> None:
    runtime, it = one
    folder = tmp_path / "bundle"
    shutil.copytree(it.folder, folder)
    name = read_json(folder / seal.BUNDLE)["runtime"]["file"]
    (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    with pytest.raises(CorruptBundle, match=name):
        opened(runtime, folder)


def test_facts_are_json(one: tuple[str, Made]) -> None:
    _, it = one
    facts = read_json(it.folder / seal.BUNDLE)["runtime"]
    assert json.loads(json.dumps(facts)) == facts
    assert facts["kind"] in runtimes.catalogue


def test_unknown_runtime_offers_the_nearest() -> None:
    with pytest.raises(UnknownPlugin, match="onnx"):
        runtimes.open("onx", Path("."), {})


@pytest.mark.parametrize("family", ["distilbert", "mpnet", "deberta-v2", "modernbert", "albert"], indirect=True)
def test_families_of_encoders_export_and_fuse(family: str, random_body: Callable[[str], Any], tmp_path: Path) -> None:
    model = TaskModel(random_body(family), PooledHead(32, 5, dropout=0.1, pooling="mean")).eval()
    lengths = np.array([3, 5, 9, 17, 30, 38, 4, 22])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(0).integers(5, 60, offsets[-1]).astype(np.int32)
    rows = Encoded(ids, offsets, np.arange(8), 8)
    facts = runtimes.write("onnx", model, tmp_path, rows)
    assert facts["fused"]
    runner = runtimes.open("onnx", tmp_path, facts)
    found = parity.check(model, runner, rows, pad_id=0, per_token=False, max_difference=CLOSE)
    assert found["labels_agree"] == 1.0


def test_bf16_is_only_for_who_asks_for_it(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    there("openvino")
    it = made(tmp_path_factory, "classify", "onnx")
    facts = runtimes.write("openvino", it.model, tmp_path, it.rows, precision="bf16")
    assert facts["precision"] == "bf16"
    assert runtimes.write("openvino", it.model, tmp_path, it.rows)["precision"] == "fp32"
    for runtime in ("onnx", "torch"):
        with pytest.raises(LubanError, match=f"{runtime} multiplies in fp32"):
            runtimes.write(runtime, it.model, tmp_path, it.rows, precision="bf16")


def test_openvino_tells_nobody_that_it_is_used(tmp_path_factory: pytest.TempPathFactory) -> None:
    there("openvino")
    it = made(tmp_path_factory, "classify", "openvino")
    script = (
        "import sys, luban\n"
        "print(luban.load(sys.argv[1]).predict(['where is my card'])[0].label)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(it.folder)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_openvino_takes_a_quantised_graph(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    there("openvino")
    it = made(tmp_path_factory, "classify", "onnx")
    graph, name = (it.folder / onnx.GRAPH).read_bytes(), onnx.GRAPH
    small, _ = make_method(Plugin(kind="quantise")).apply(graph, it.rows, onnx.runner)
    (tmp_path / name).write_bytes(small)
    facts = read_json(it.folder / seal.BUNDLE)["runtime"]
    here, there_ = runtimes.open("onnx", tmp_path, facts), runtimes.open("openvino", tmp_path, facts)
    for what, (ids, mask) in batches(it.rows, it.processor.pad_id).items():
        wanted, got = here.run(ids, mask), there_.run(ids, mask)
        assert np.abs(wanted - got).max() < 0.02 * np.abs(wanted).max(), what
