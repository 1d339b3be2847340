"""OpenVINO IR: `model.xml` and `model.bin`, in the version folder that OpenVINO Model Server looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from luban.bundle import answering
from luban.bundle.packages import Source
from luban.bundle.plain import own_operators, plain
from luban.bundle.runtimes.openvino import OpenVinoRunner, imported
from luban.errors import LubanError

MODEL = "model/1/model.xml"
_OTHERWISE = frozenset({"DynamicQuantizeMatMul"})
"""Operators that OpenVINO takes and computes otherwise, by a hundredth of a logit; as standard ones it does not."""


def write(source: Source, folder: Path) -> None:
    """Write the IR with the graph's weights as they are, and what it takes to answer with it.

    Raises:
        LubanError: the graph has operators that OpenVINO lacks.
        MissingExtra: openvino is not installed.
    """
    openvino, data = imported(), source.graph()
    if _OTHERWISE.intersection(own_operators(data)):
        data = plain(data)
    (folder / MODEL).parent.mkdir(parents=True)
    try:
        model = _read(openvino, data)
    except RuntimeError:  # an operator of ONNX Runtime's own that OpenVINO lacks, or one that it wants otherwise
        model = _read_plain(openvino, data)
    # Half of the bytes would be saved by 16-bit weights, and answers would change: that is `luban compress`'s to judge.
    openvino.save_model(model, str(folder / MODEL), compress_to_fp16=False)
    answering.write(source, folder, "openvino")


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Compile the IR for the CPU in fp32, and compare."""
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = imported().Core().compile_model(str(folder / MODEL), "CPU", hints)
    return answering.prove(source, folder, OpenVinoRunner(compiled, 0), rows, max_difference)


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to run it with OpenVINO and its model server."""
    return answering.readme(source, "openvino", proof)


def _read(openvino: Any, data: bytes) -> Any:
    """Return the model; from a file, whose name is in what is made of it no longer."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        model = openvino.Core().read_model(str(path))
        model.set_friendly_name("luban")
        return model.clone()


def _read_plain(openvino: Any, data: bytes) -> Any:
    try:
        return _read(openvino, plain(data))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise LubanError(f"OpenVINO can't take this graph: {reason}", hint="package it `--for onnx`") from error
