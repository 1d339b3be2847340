"""ONNX: the graph, for ONNX Runtime in any language, Triton, or whatever else takes ONNX.

The graph is the bundle's own, with the operators of ONNX Runtime that make it fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luban.bundle import answering
from luban.bundle.packages import Source
from luban.bundle.plain import own_operators
from luban.bundle.runtimes.onnx import GRAPH, OnnxRunner


def write(source: Source, folder: Path) -> None:
    """Write `model.onnx`, and what it takes to answer with it; see `luban.bundle.packages.Package`."""
    (folder / GRAPH).write_bytes(source.graph())
    answering.write(source, folder, "onnx")


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Open the graph as ONNX Runtime does by itself, with none of Luban's settings, and compare."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
    return answering.prove(source, folder, OnnxRunner(session, 0), rows, max_difference)


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to run it with ONNX Runtime."""
    return answering.readme(source, "onnx", proof, own=own_operators(source.graph()))
