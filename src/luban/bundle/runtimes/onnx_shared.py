"""ONNX Runtime, for many tasks on one base: the base's graph is held once, however many bundles a process opens.

A bundle has the base as `base.onnx`, without anything that the task learned: all tasks that were trained from it with
an adapter on the same layers, of any rank, have the same file. What is the task's own stands beside it: in
`adapter.safetensors` matrices of low rank, fed to the base's graph as inputs, and `head.onnx`, which makes logits of
its hidden states. Each bundle is complete, and can be copied away and opened alone.

In one process, bundles whose `base.onnx` is the same, by its SHA-256, and that are opened with as many threads, run in
one session. It goes when the last of them is closed.

Legend: B windows in a batch, L tokens in the longest.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from luban import files
from luban.bundle.graph import INPUTS
from luban.bundle.runtimes import Origin, n_threads, onnx
from luban.errors import CorruptBundle, LubanError
from luban.records import Encoded

if TYPE_CHECKING:
    from luban.models.change import Factors
    from luban.models.heads import TaskModel

SHARES_BASE = True
BASE, HEAD, ADAPTER = "base.onnx", "head.onnx", "adapter.safetensors"
HIDDEN = "hidden"
_RANK = "rank"
_sessions: WeakValueDictionary[tuple[str, int], Any] = WeakValueDictionary()
"""SHA-256 of a base's graph and threads -> the session in which all bundles that are open run it."""
_opening = threading.Lock()


def write(model: TaskModel, folder: Path, example: Encoded, origin: Origin | None = None) -> dict[str, Any]:
    """Write `base.onnx`, `head.onnx` and, where layers of the base are changed, `adapter.safetensors`.

    Args:
        model: on the CPU, in evaluation mode.
        folder: is there.
        example: real windows.
        origin: what the model was trained from; None takes its body for the base.

    Raises:
        LubanError: training changed the base otherwise than by low rank, or torch can't export the base or the head.
        MissingExtra: onnx or onnxscript is not installed.
    """
    from safetensors.torch import save_file

    if model.early is not None:
        raise LubanError("a model that leaves early can't share its base", hint="set `export.runtime: onnx`")
    changes = _changes(model, origin)
    fed = {f"body.{path}.{name}": part for path, factors in changes.items() for name, part in _named(factors)}
    with onnx.quiet():
        base, fused = _base_graph(model if origin is None else origin, changes, fed, example)
        head = _head_graph(model)
    (folder / BASE).write_bytes(base)
    (folder / HEAD).write_bytes(head)
    if fed:
        save_file(fed, folder / ADAPTER)
    return {
        "kind": "onnx-shared", "file": BASE, "head": HEAD, "adapter": ADAPTER if fed else None,
        "inputs": list(INPUTS), "output": onnx.OUTPUT, "fused": fused,
    }  # fmt: skip


class SharedRunner:
    """A base's session, which others may use too, with the adapter and the head of one task."""

    def __init__(self, base: Any, head: Any, adapter: Mapping[str, np.ndarray], threads: int) -> None:
        self._base, self._head, self._adapter = base, head, adapter
        self._head_reads = [value.name for value in head.get_inputs()]
        self.threads = threads

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return the logits; see `luban.bundle.runtimes.Runner`."""
        given = {**self._adapter, INPUTS[0]: input_ids, INPUTS[1]: attention_mask}
        made = {INPUTS[1]: attention_mask, HIDDEN: self._base.run((HIDDEN,), given)[0]}
        logits: np.ndarray = self._head.run((onnx.OUTPUT,), {name: made[name] for name in self._head_reads})[0]
        return logits


def open(folder: Path, facts: Mapping[str, Any], threads: int) -> SharedRunner:
    """Return a runner for the files in a folder.

    Raises:
        CorruptBundle: a graph can't be loaded, or the adapter is damaged or another base's; the message names the file.
        MissingExtra: onnxruntime is not installed.
    """
    threads = n_threads(facts, threads)
    with onnx.opening(str(folder / BASE)):
        base = _session(folder / BASE, threads)
    with onnx.opening(str(folder / HEAD)):
        # It takes some hundredths of the time; threads of its own, and memory kept for the next call, would be waste.
        head = onnx.session(str(folder / HEAD), 1, arena=False)
    wanted = {value.name: value.shape for value in base.get_inputs() if value.name not in INPUTS}
    adapter = _read_adapter(folder / ADAPTER, wanted) if wanted or facts.get("adapter") else {}
    return SharedRunner(base, head, adapter, threads)


def _session(path: Path, threads: int) -> Any:
    """Return the session of a base's graph: one that is open, or a new one.

    The file's own bytes say which graph it is, not what a manifest tells of them: a damaged file is used by none but
    its own bundle.
    """
    key = files.digest_file(path), threads
    with _opening:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = onnx.session(str(path), threads)
        return session


def _read_adapter(path: Path, wanted: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Return the adapter's matrices by the names of the graph's inputs, whose shapes are `wanted`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CorruptBundle(f"{path} can't be read: {reason}", hint=onnx.MEND) from error
    known = [(found[name].shape, shape.index(_RANK)) for name, shape in wanted.items() if name in found]
    ranks = {shape[axis] for shape, axis in known if len(shape) > axis}
    rank = ranks.pop() if len(ranks) == 1 else 0
    for name in sorted({*wanted, *found}):
        shape = tuple(rank if size == _RANK else size for size in wanted.get(name, ()))
        got = found[name].shape if name in found else None
        if not shape or got != shape or found[name].dtype != np.float32:
            raise CorruptBundle(
                f"{path} is not this base's: {name} has the shape {got}, wanted {shape or None}", hint=onnx.MEND
            )
    return found


def _changes(model: TaskModel, origin: Origin | None) -> dict[str, Factors]:
    from luban.models.change import changes

    return {} if origin is None else changes(model.body, origin.body, origin.layers)


def _named(factors: Factors) -> list[tuple[str, Any]]:
    from luban.models.change import DOWN, UP

    return list(zip((DOWN, UP), factors, strict=True))


def _base_graph(
    source: TaskModel | Origin, changes: Mapping[str, Factors], fed: Mapping[str, Any], example: Encoded
) -> tuple[bytes, dict[str, int]]:
    """Return the graph from ids and mask, and the matrices of the adapter, to hidden states, and what was fused."""
    import torch

    from luban.models.change import Trunk, put

    # Two equal matrices would be stored once by the exporter, so that what is traced has others than the task's.
    chance = torch.Generator().manual_seed(0)
    stands_in = {
        path: (torch.randn(len(down), 3, generator=chance), torch.randn(3, up.shape[1], generator=chance))
        for path, (down, up) in changes.items()
    }
    trunk = Trunk(put(copy.deepcopy(source.body), stands_in)).eval()
    inputs = dict(zip(INPUTS, onnx.example_batch(), strict=True))
    plain = onnx.traced_graph(trunk, inputs, [HIDDEN], type(source.body).__name__)
    given = {name: part.numpy() for name, part in fed.items()}

    def answers(graph: bytes) -> list[np.ndarray]:
        session = onnx.session(graph, 1)
        return [
            session.run((HIDDEN,), {INPUTS[0]: ids, INPUTS[1]: mask, **given})[0][mask > 0]
            for ids, mask in onnx.example_windows(example)
        ]

    found, counts = onnx.fused(_fed(plain, list(fed)), answers)
    return (found if counts else _without_shapes(found)), counts


def _head_graph(model: TaskModel) -> bytes:
    """Return the graph from hidden states and mask to logits."""
    import torch

    config: Any = model.body.config
    _, mask = onnx.example_batch()
    hidden = torch.zeros(*mask.shape, int(config.hidden_size))
    return onnx.traced_graph(model.head, {HIDDEN: hidden, INPUTS[1]: mask}, [onnx.OUTPUT], "the head")


def _fed(data: bytes, names: list[str]) -> bytes:
    """Return a graph in which stored matrices are inputs, of any rank.

    Raises:
        LubanError: the exporter has made something else of one.
    """
    if not names:
        return data
    import onnx as onnx_package
    from onnx import TensorProto, helper

    model = onnx_package.load_model_from_string(data)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    if lost := [name for name in names if name not in stored]:
        raise LubanError(
            f"the exported base has no {lost[0]}, so that tasks can't share it", hint="set `export.runtime: onnx`"
        )
    for name in names:
        width, out = stored.pop(name).dims
        shape = [width, _RANK] if name.endswith(".down") else [_RANK, out]
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    kept = list(stored.values())
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _without_shapes(data: bytes) -> bytes:
    """Return a graph without the shapes of its inner values, which are those of the rank that it was traced with."""
    from onnx import load_model_from_string

    model = load_model_from_string(data)
    del model.graph.value_info[:]
    found: bytes = model.SerializeToString(deterministic=True)
    return found
