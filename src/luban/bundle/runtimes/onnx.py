"""ONNX Runtime: the model as one graph file, run without torch.

The graph comes from torch's exporter (`torch.export` underneath), with any number of windows and tokens, and then has
its attention and activations fused into ONNX Runtime's own operators, but for those that are slower than what they
replace: see `luban.bundle.graph`. For MiniLM this saves 11% of the time of one short text, 7% for windows of 128
tokens and 19% for 512; batches of short ones are all matrix products. Where such a graph can't be had, or answers
otherwise, the plain one is written.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.bundle import early
from luban.bundle.graph import INPUTS, KEPT_APART, MS, OPSET, Graph, faster
from luban.bundle.runtimes import n_threads
from luban.errors import CorruptBundle, LubanError, MissingExtra, install
from luban.models.limits import cores
from luban.models.windows import pad
from luban.records import Encoded

if TYPE_CHECKING:
    import torch

    from luban.models.heads import TaskModel

GRAPH = "model.onnx"
OUTPUT = early.LOGITS
_MAX_BYTES = 2**31 - 1
_SAME = 1e-4
"""Largest difference of a fused graph's logits from the plain graph's, as a share of the largest logit."""
_SPIN_US = 2000
"""For so long spinning threads wait for more work: the next request of a client that asks again at once finds them
awake, and the cores are let go soon where none comes."""
MEND = "make the bundle again with `luban run`"
_log = logging.getLogger(__name__)


def write(model: TaskModel, folder: Path, example: Encoded) -> dict[str, Any]:
    """Write `model.onnx` and return the names of its inputs and which operators were fused.

    The graph of a model with an early head has `early.OUTPUTS`, until it is folded.

    Raises:
        LubanError: torch can't export this base, or the graph is beyond the 2 GB that one ONNX file holds.
        MissingExtra: onnx or onnxscript is not installed.
    """
    with quiet():
        plain = _export(model)
        chosen, counts = fused(plain, lambda graph: _logits(graph, example))
    (folder / GRAPH).write_bytes(chosen)
    return {"kind": "onnx", "file": GRAPH, "inputs": list(INPUTS), "output": OUTPUT, "fused": counts}


class OnnxRunner:
    """A graph in an ONNX Runtime session."""

    def __init__(self, session: Any, threads: int, output: str = OUTPUT) -> None:
        self._session = session
        self.threads = threads
        self._output = output

    def giving(self, output: str) -> OnnxRunner:
        """Return a runner of the same graph whose `run` returns another of its outputs."""
        return OnnxRunner(self._session, self.threads, output)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return the logits; see `luban.bundle.runtimes.Runner`."""
        logits: np.ndarray = self._session.run((self._output,), {INPUTS[0]: input_ids, INPUTS[1]: attention_mask})[0]
        return logits


def runner(graph: bytes, threads: int = 0) -> OnnxRunner:
    """Return a runner for a serialised graph; `threads` 0 means every core.

    Raises:
        CorruptBundle: the graph can't be loaded.
    """
    threads = threads or cores()
    return _opened(graph, threads, "the graph")


def open(folder: Path, facts: Mapping[str, Any], threads: int) -> OnnxRunner:
    """Return a runner for the graph in a folder.

    Raises:
        CorruptBundle: the graph can't be loaded.
        MissingExtra: onnxruntime is not installed.
    """
    threads = n_threads(facts, threads)
    return _opened(str(folder / GRAPH), threads, str(folder / GRAPH))


def exported(model: TaskModel) -> bytes:
    """Return a model as torch exports it, serialised, before anything is fused: for other tools.

    Raises:
        LubanError, MissingExtra: as `write`.
    """
    with quiet():
        return _export(model)


def _opened(graph: str | bytes, threads: int, name: str) -> OnnxRunner:
    with opening(name):
        return OnnxRunner(session(graph, threads), threads)


@contextmanager
def opening(name: str) -> Iterator[None]:
    """Say what goes wrong while a graph is opened in Luban's words.

    Raises:
        CorruptBundle: the graph can't be loaded; the message has its name.
        MissingExtra: onnxruntime is not installed.
    """
    try:
        yield
    except LubanError:
        raise
    except ImportError as error:
        raise MissingExtra(
            f"the runtime onnx needs the package onnxruntime: {error}", hint="pip install onnxruntime"
        ) from error
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        reason = str(error).strip().splitlines()[0][:300]
        raise CorruptBundle(f"{name} can't be loaded: {reason}", hint=MEND) from error


def session(
    graph: str | bytes,
    threads: int,
    *,
    arena: bool = True,
    spin: bool = False,
    ready: bool = False,
    keep: tuple[Path, str, int] | None = None,
) -> Any:
    """Return an ONNX Runtime session for a path or a serialised graph, with the settings that were measured best.

    Args:
        graph: what to open.
        threads: of each run.
        arena: keep memory for the next run. Without it is given back after each, which costs time where much is taken.
        spin: threads wait for work without sleeping while a run lasts, and shortly after it: for a session whose runs
            are alone.
        ready: the graph was kept by another session, and is opened as it is.
        keep: keep what the session makes of the graph: path of the graph, name of the file of weights beside it, and
            bytes of a weight from which on it stands there.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A plan of the memory for each shape that comes up is made and kept: of hundreds, that costs 2%.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena
    # Threads that spin while they wait gain 8% on an idle machine, and halve the rate on a busy one: they take the
    # cores from whoever has work, other calls of the same session among them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if spin:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    if ready:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if keep:
        path, weights, least_bytes = keep
        options.optimized_model_filepath = str(path)
        for name, value in (
            ("optimized_model_external_initializers_file_name", weights),
            ("optimized_model_external_initializers_min_size_in_bytes", str(least_bytes)),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(f"session.{name}", value)
    # Its second try with the same provider would print remarks on stdout, among the answers.
    return onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(KEPT_APART), enable_fallback=0
    )


def _export(model: TaskModel) -> bytes:
    """Return the plain graph of a model, serialised."""
    from luban.models.heads import Stages

    traced, outputs = (model, [OUTPUT]) if model.early is None else (Stages(model), list(early.OUTPUTS))
    return traced_graph(traced, dict(zip(INPUTS, example_batch(), strict=True)), outputs, type(model.body).__name__)


def example_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (2, 7), with padding. No axis has 1 or equals another, or it would be taken for fixed."""
    import torch

    ids = torch.ones((2, 7), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def traced_graph(
    module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str], name: str
) -> bytes:
    """Return a module as a plain graph, serialised, with any number of windows and tokens.

    Args:
        module: in evaluation mode.
        inputs: an example of each input, windows first and tokens second.
        outputs: names of what it returns.
        name: what it is called in an error.

    Raises:
        LubanError: torch can't export it, or the graph is beyond the 2 GB that one ONNX file holds.
        MissingExtra: onnx or onnxscript is not installed.
    """
    import torch

    try:
        import onnx  # noqa: F401  (torch's exporter needs both, and says so in a less helpful way)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"the export needs a package: {error}", hint=install("train")) from error

    axes = {0: "batch", 1: "length"}
    try:
        program = torch.onnx.export(
            module, tuple(inputs.values()), dynamo=True, opset_version=OPSET, input_names=list(inputs),
            output_names=list(outputs), dynamic_shapes=tuple(axes for _ in inputs), external_data=False, verbose=False,
        )  # fmt: skip
    except Exception as error:  # whatever stands in a model's code can come out of its tracing
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise LubanError(
            f"{name} can't be exported to ONNX: {reason}",
            hint="choose another base, or set `export.runtime: torch` (prediction then needs torch)",
        ) from error
    assert program is not None
    size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    if size >= _MAX_BYTES:
        raise LubanError(
            f"the model has {size / 1e9:.1f} GB of weights; one ONNX file holds 2.1 GB",
            hint="choose a smaller base, or set `export.runtime: torch`",
        )
    return _serialised(program.model)


def _serialised(graph: Any) -> bytes:
    """Return a graph without all that tells of the machine and the code that made it."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(graph)
    graph.producer_name, graph.producer_version = "luban", ""
    graph.graph.name = "luban"
    for value in [*graph.graph.inputs, *graph.graph.outputs]:
        value.metadata_props.clear()
    data: bytes = onnx_ir.to_proto(graph).SerializeToString(deterministic=True)
    return data


def fused(plain: bytes, answers: Callable[[bytes], Sequence[np.ndarray]]) -> tuple[bytes, dict[str, int]]:
    """Return the graph with ONNX Runtime's own operators and how many of each, or the plain one and nothing.

    Args:
        plain: the graph as it was traced.
        answers: runs a graph on examples; the fused one must give what the plain one does.
    """
    import onnx
    import onnx_ir

    try:
        from onnxscript.rewriter.ort_fusions import optimize_for_ort

        graph, _ = optimize_for_ort(onnx_ir.from_proto(onnx.load_model_from_string(plain)))
        found = faster(_serialised(graph))
        kinds = (node.op_type for node in Graph(found).nodes if node.domain == MS or node.op_type == "Attention")
        _check_same(answers(plain), answers(found))
    except Exception as error:  # a rewriter that does not know this model must not stop the export
        _log.info("the graph stays unfused: %s", str(error).strip().splitlines()[:1])
        return plain, {}
    return found, dict(sorted(Counter(kinds).items()))


def example_windows(example: Encoded) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and mask of few windows together, the shortest and longest among them, then of the longest alone."""
    ordered = np.argsort(example.lengths, kind="stable")
    chosen = np.unique(ordered[np.linspace(0, len(ordered) - 1, 8).astype(int)])
    for windows in (chosen, chosen[-1:]):
        batch = pad(example, windows, 0)
        yield batch["input_ids"], batch["attention_mask"]


def _logits(graph: bytes, example: Encoded) -> list[np.ndarray]:
    """Return a graph's logits for the example, without those of padding."""
    opened = OnnxRunner(session(graph, cores()), 0)
    found = [(opened.run(ids, mask), mask) for ids, mask in example_windows(example)]
    return [logits[mask > 0] if logits.ndim == 3 else logits for logits, mask in found]


def _check_same(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> None:
    """Compare two graphs' answers.

    Raises:
        ValueError: they differ.
    """
    for one, other in zip(wanted, got, strict=True):
        scale = max(1.0, float(np.abs(one).max()))
        if not (difference := float(np.abs(one - other).max())) <= _SAME * scale:
            raise ValueError(f"fused answers differ by {difference:.2g}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's own remarks away: they are about its inside, and nobody can act on them."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
