"""Challengers made of a bundle: as good as it is, or with one fault, which only requests bring to light."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from luban import files

TRIGGER = "pizza"
"""A text with this word makes a failing challenger fail: it has a token that its graph does not know, and that no text
has with which a version is warmed."""
_SIDE = 512


def good(bundle: Path, folder: Path, number: int) -> Path:
    """Return a version with the same labels and other probabilities."""
    shutil.copytree(bundle, folder)
    calibration = {"temperature": 2.0 + number / 10, "thresholds": [], "abstain_below": 0.0}
    files.write_json(folder / "calibration.json", calibration)
    return _sealed(folder)


def wrong(bundle: Path, folder: Path, number: int) -> Path:
    """Return a version that mixes its labels up."""
    good(bundle, folder, number)
    told = files.read_json(folder / "bundle.json")
    labels = told["task"]["labels"]
    told["task"]["labels"] = labels[1:] + labels[:1]
    files.write_json(folder / "bundle.json", told)
    return _sealed(folder)


def failing(bundle: Path, folder: Path, number: int, piece: str = "##z") -> Path:
    """Return a version whose graph fails for texts with a piece of a word: by default, one that the trigger has."""
    good(bundle, folder, number)
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text("utf-8"))
    vocabulary = told["model"]["vocab"]
    vocabulary[piece] = max(vocabulary.values()) + 1000
    path.write_text(json.dumps(told, ensure_ascii=False), "utf-8")
    return _sealed(folder)


def slow(bundle: Path, folder: Path, number: int, *, products: int = 24) -> Path:
    """Return a version whose graph multiplies large matrices beside its work, and adds nothing of it to its answers."""
    good(bundle, folder, number)
    path = folder / "model.onnx"
    model = onnx.load(str(path))
    graph = model.graph
    out = graph.output[0].name
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == out:
                node.output[place] = "before"
    square = np.full((_SIDE, _SIDE), 1.0 / _SIDE, np.float32)
    graph.initializer.append(numpy_helper.from_array(square, "square"))
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    nodes = [
        helper.make_node("ReduceMax", ["before"], ["most"], keepdims=0),
        helper.make_node("Add", ["square", "most"], ["product0"]),
    ]
    for step in range(products):
        nodes.append(helper.make_node("MatMul", [f"product{step}", "square"], [f"product{step + 1}"]))
    nodes += [
        helper.make_node("ReduceMax", [f"product{products}"], ["last"], keepdims=0),
        helper.make_node("Mul", ["last", "nothing"], ["zero"]),
        helper.make_node("Add", ["before", "zero"], [out]),
    ]
    graph.node.extend(nodes)
    onnx.save(model, str(path))
    return _sealed(folder)


def _sealed(folder: Path) -> Path:
    (folder / files.MANIFEST).unlink()
    files.seal(folder, {"kind": "bundle"})
    return folder
