"""OpenVINO: the same graph file as the runtime `onnx` has, run by another engine.

For MiniLM, on one thread of a CPU with AVX-512 and VNNI, alternating: batches of 512 tokens are as fast as with ONNX
Runtime in fp32 and 1.1 times as fast in int8; one text of 16 tokens is as fast in fp32, and takes 1.2 times as long in
int8. Its bf16 products are twice as fast as fp32, where the processor has them.

On a processor with bf16 products OpenVINO takes these by itself, and then answers otherwise than the model that it was
given, by tenths of a logit. Here it multiplies in fp32 unless the project says `export.precision: bf16`, with an
`export.max_difference` to match.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.bundle.graph import INPUTS
from luban.bundle.runtimes import Precision, n_threads, onnx
from luban.errors import CorruptBundle, MissingExtra, install
from luban.records import Encoded

if TYPE_CHECKING:
    from luban.models.heads import TaskModel

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_TELLTALE = "openvino_telemetry"
_IMPORTING = threading.Lock()
_MEND = "make the bundle again with `luban run`"


def write(model: TaskModel, folder: Path, example: Encoded, precision: Precision = "fp32") -> dict[str, Any]:
    """Write `model.onnx` and return what the runtime `onnx` would, and the precision.

    Raises:
        LubanError: torch can't export this base, or the graph is beyond the 2 GB that one ONNX file holds.
        MissingExtra: openvino, onnx or onnxscript is not installed.
    """
    imported()
    return of_onnx(onnx.write(model, folder, example), precision)


def of_onnx(facts: Mapping[str, Any], precision: Precision = "fp32") -> dict[str, Any]:
    """Return what this runtime needs to open a graph that was written for the runtime `onnx`."""
    return {**facts, "kind": "openvino", "precision": precision}


class OpenVinoRunner:
    """A compiled graph; each thread has a request of its own, since one can't be shared."""

    def __init__(self, compiled: Any, threads: int) -> None:
        self._compiled = compiled
        self._own = threading.local()
        self.threads = threads

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return the logits; see `luban.bundle.runtimes.Runner`."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        request.infer(dict(zip(INPUTS, (input_ids, attention_mask), strict=True)), share_inputs=True)
        logits: np.ndarray = request.get_output_tensor(0).data.copy()  # the next run writes there
        return logits


def open(folder: Path, facts: Mapping[str, Any], threads: int) -> OpenVinoRunner:
    """Return a runner for the graph in a folder.

    Raises:
        CorruptBundle: the graph can't be loaded, or has operators that OpenVINO lacks.
        MissingExtra: openvino is not installed.
    """
    openvino = imported()
    threads = n_threads(facts, threads)
    # One stream a thread: calls at once do not wait for each other, and each has a core of its own.
    path = folder / onnx.GRAPH
    try:
        compiled = openvino.Core().compile_model(
            str(path), "CPU",
            {
                "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads,
                "INFERENCE_PRECISION_HINT": _HINTS[facts.get("precision", "fp32")],
            },
        )  # fmt: skip
    except Exception as error:  # openvino raises bare RuntimeErrors, and what its parsers raise
        reason = str(error).strip().splitlines()[-1][:300]
        raise CorruptBundle(f"{path} can't be loaded: {reason}", hint=_MEND) from error
    return OpenVinoRunner(compiled, threads)


def imported() -> Any:
    """Import openvino, without what would tell its maker of it over the network: without that package it stays quiet.

    Raises:
        MissingExtra: it is not installed.
    """
    with _IMPORTING:
        there = _TELLTALE in sys.modules
        if not there:
            sys.modules[_TELLTALE] = None  # type: ignore[assignment]
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra(
                f"the runtime openvino needs the package openvino: {error}", hint=install("openvino")
            ) from error
        finally:
            if not there:
                del sys.modules[_TELLTALE]
    return openvino
