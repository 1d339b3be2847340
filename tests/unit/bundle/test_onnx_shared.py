"""Many tasks on one base: one session for all that are open, each answering as it does alone, each complete."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from unit.bundle.made import Made, adapted, model_of, sealed, texts

from luban import files
from luban.bundle import runtimes, seal
from luban.bundle.engine import Engine
from luban.bundle.runtimes import onnx_shared
from luban.errors import CorruptBundle
from luban.models import tiny
from luban.models.base import load_body
from luban.tasks import make

LABELS = tuple(f"label {number}" for number in range(12))
TEXTS = texts(30, seed=5)
ALONE = """
import json, sys, luban
for folder in sys.argv[2:]:
    engine = luban.load(folder)
    print(json.dumps(engine.logits(engine.encode(json.loads(sys.argv[1]))).tolist()))
    del engine
"""


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Made]]:
    """Return ten bundles on one base: classify and tag, 2 to 11 labels, ranks 1 to 4; not to be changed.

    The base is exported for the first of each kind, and the graph of that export used for the others: it takes seconds.
    """
    folder = tmp_path_factory.mktemp("ten")
    base = tiny.make(folder / "tiny")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        for number in range(10):
            kind = ("tag", "classify")[number % 3 > 0]
            if number == 2:
                known = (made[0].folder / onnx_shared.BASE).read_bytes(), {"Attention": 2}
                patch.setattr(onnx_shared, "_base_graph", lambda *_, known=known: known)
            labels = LABELS[: 2 + number]
            made.append(adapted(folder / f"task-{number}", base, kind, labels, rank=1 + number % 4, seed=number))
    yield made


@pytest.fixture(autouse=True)
def nothing_open() -> None:
    """Begin with no session that another test left for the collector."""
    gc.collect()
    assert not onnx_shared._sessions


def digests(made: list[Made], name: str) -> set[str]:
    return {files.read_json(it.folder / files.MANIFEST)["files"][name]["sha256"] for it in made}


def logits(engine: Engine) -> np.ndarray:
    return engine.logits(engine.encode(TEXTS))


def test_the_base_is_the_same_file_and_all_else_the_tasks_own(ten: list[Made]) -> None:
    assert len(digests(ten[:2], onnx_shared.BASE)) == 1  # exported twice: a tagger's and a classifier's
    assert len(digests(ten, onnx_shared.HEAD)) == len(digests(ten, onnx_shared.ADAPTER)) == 10


def test_ten_in_one_session_answer_as_each_alone(ten: list[Made], tmp_path: Path) -> None:
    folders = []
    for number, it in enumerate(ten):
        folders.append(tmp_path / f"copy-{number}")
        shutil.copytree(it.folder, folders[-1])
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(TEXTS), *map(str, folders)], capture_output=True, text=True, check=True
    )
    engines = [Engine.open(it.folder) for it in ten]
    assert len(onnx_shared._sessions) == 1
    assert len({id(engine.processor.vocabulary) for engine in engines}) == 1
    for engine, alone, it in zip(engines, ran.stdout.splitlines(), ten, strict=True):
        found = logits(engine)
        assert np.array_equal(found, np.array(json.loads(alone), np.float32)), it.folder.name
        assert found.shape[1] == it.task.n_outputs
    answers = [str(engine.predict(TEXTS)) for engine in engines]
    assert len(set(answers)) == 10


def test_closing_all_frees_the_session(ten: list[Made]) -> None:
    first, second = Engine.open(ten[0].folder), Engine.open(ten[1].folder)
    wanted = logits(second)
    del first
    gc.collect()
    assert len(onnx_shared._sessions) == 1 and np.array_equal(logits(second), wanted)
    del second
    gc.collect()
    assert not onnx_shared._sessions


def test_other_threads_make_another_session(ten: list[Made]) -> None:
    engines = [Engine.open(it.folder, threads=threads) for threads in (1, 2) for it in ten[:2]]
    assert len(onnx_shared._sessions) == 2
    assert [engine.runner.threads for engine in engines] == [1, 1, 2, 2]


def test_opened_and_asked_by_many_threads_at_once(ten: list[Made]) -> None:
    wanted = [logits(Engine.open(it.folder)) for it in ten]
    gc.collect()
    together = threading.Barrier(10)

    def open_and_ask(it: Made) -> tuple[Engine, list[np.ndarray]]:
        together.wait()
        engine = Engine.open(it.folder)
        return engine, [logits(engine) for _ in range(5)]

    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(open_and_ask, ten))
    assert len(onnx_shared._sessions) == 1
    for (_, times), right in zip(found, wanted, strict=True):
        assert all(np.allclose(one, right, atol=1e-5) for one in times)


def test_a_damaged_adapter_is_refused(ten: list[Made], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(ten[0].folder, folder)
    path = folder / onnx_shared.ADAPTER
    whole, facts = path.read_bytes(), files.read_json(folder / seal.BUNDLE)["runtime"]
    path.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(CorruptBundle, match=onnx_shared.ADAPTER):
        Engine.open(folder)
    path.write_bytes(whole[:-40])
    with pytest.raises(CorruptBundle, match=f"{onnx_shared.ADAPTER} can't be read"):
        runtimes.open("onnx-shared", folder, facts)
    tensors = load_file(ten[0].folder / onnx_shared.ADAPTER)
    name = min(tensors)
    lost = {key: part for key, part in tensors.items() if key != name}
    for wrong in ({**tensors, name: tensors[name][:-1]}, lost, {**tensors, "more": tensors[name]}, {}):
        save_file(wrong, path)
        with pytest.raises(CorruptBundle, match="is not this base's"):
            runtimes.open("onnx-shared", folder, facts)
    path.unlink()
    with pytest.raises(CorruptBundle, match=onnx_shared.ADAPTER):
        runtimes.open("onnx-shared", folder, facts)


def test_a_damaged_base_is_its_own_bundles_alone(ten: list[Made], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(ten[0].folder, folder)
    wanted = logits(Engine.open(ten[1].folder))
    path = folder / onnx_shared.BASE
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    path.write_bytes(data)
    unchecked = Engine.open(folder, check=False)
    good = Engine.open(ten[1].folder)
    assert len(onnx_shared._sessions) == 2 and unchecked.runner is not good.runner
    assert np.array_equal(logits(good), wanted)
    with pytest.raises(CorruptBundle, match=onnx_shared.BASE):
        Engine.open(folder)


def test_a_head_on_a_frozen_base_has_no_adapter(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "tiny")
    task = make("classify", {}, LABELS[:3])
    model = model_of(task, base)
    it = sealed(tmp_path / "head", base, model, task, "onnx-shared", {}, runtimes.Origin(load_body(base)))
    assert not (it.folder / onnx_shared.ADAPTER).exists()
    engine = Engine.open(it.folder)
    assert len(onnx_shared._sessions) == 1
    encoded = engine.encode(TEXTS[:1])
    with torch.inference_mode():
        ids = torch.from_numpy(encoded.ids).long()[None]
        wanted = model(ids, torch.ones_like(ids)).numpy()
    assert np.allclose(engine.logits(encoded), wanted, atol=1e-4)
