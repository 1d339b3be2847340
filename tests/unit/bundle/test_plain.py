"""Graphs in standard operators: none of ONNX Runtime's own is left, and the answers stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from unit.bundle.made import Made

from luban.bundle import runtimes
from luban.bundle.graph import INPUTS, MS, OPSET, Graph, make_node, standard_attention
from luban.bundle.plain import own_operators, plain
from luban.bundle.runtimes import onnx
from luban.compress import make as make_method
from luban.errors import LubanError
from luban.models.heads import PooledHead, TaskModel
from luban.project.schema import Plugin
from luban.records import Encoded

LENGTHS = np.array([3, 5, 9, 17, 30, 38, 4, 22])


def difference(one: bytes, two: bytes) -> float:
    """Return how far two graphs' logits are apart, over batches of awkward shapes, as a share of the largest."""
    runners = [onnx.runner(graph, 1) for graph in (one, two)]
    rng, worst = np.random.default_rng(1), 0.0
    for shape in ((1, 1), (1, 8), (3, 7), (5, 38)):
        ids = rng.integers(5, 60, shape)
        mask = np.ones_like(ids)
        mask[-1, (shape[1] + 1) // 2 :] = 0
        wanted, got = (runner.run(ids, mask) for runner in runners)
        worst = max(worst, float(np.abs(wanted - got).max() / np.abs(wanted).max()))
    return worst


def fused_operators(data: bytes) -> set[str]:
    """Return the operators of a graph that other tools may lack."""
    return {node.op_type for node in Graph(data).nodes if node.domain == MS or node.op_type == "Attention"}


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert"], indirect=True)
def test_families_of_encoders(family: str, random_body: Callable[[str], Any], tmp_path: Path) -> None:
    model = TaskModel(random_body(family), PooledHead(32, 5, dropout=0.1, pooling="mean")).eval()
    ids = np.random.default_rng(0).integers(5, 60, LENGTHS.sum()).astype(np.int32)
    rows = Encoded(ids, np.concatenate([[0], np.cumsum(LENGTHS)]), np.arange(8), 8)
    runtimes.write("onnx", model, tmp_path, rows)
    fused = (tmp_path / onnx.GRAPH).read_bytes()
    assert fused_operators(fused)
    assert fused_operators(plain(fused)) == set()
    assert Graph(plain(fused)).opset == OPSET
    assert difference(fused, plain(fused)) < 1e-5


@pytest.mark.parametrize(
    ("how", "close"),
    # Weights in blocks are multiplied with activations that ONNX Runtime rounds, a block at a time.
    [({}, 1e-5), ({"how": "dynamic"}, 5e-3), ({"how": "weights"}, 0.02), ({"how": "fp16"}, 1e-5),
     ({"how": "weights", "bits": 4, "embeddings": 4}, 0.02)],
    ids=str,
)  # fmt: skip
def test_quantised_graphs(how: dict[str, Any], close: float, classifier: Made) -> None:
    whole = (classifier.folder / onnx.GRAPH).read_bytes()
    small, _ = make_method(Plugin(kind="quantise", options=how)).apply(whole, classifier.rows, onnx.runner)
    assert own_operators(small)
    assert fused_operators(plain(small)) == set()
    assert difference(small, plain(small)) < close


def test_a_plain_graph_stays_as_it_is(classifier: Made) -> None:
    once = plain((classifier.folder / onnx.GRAPH).read_bytes())
    assert plain(once) == once


def test_what_can_not_be_written_is_named(classifier: Made) -> None:
    graph = Graph((classifier.folder / onnx.GRAPH).read_bytes())
    node = next(node for node in graph.nodes if node.op_type == "Gemm")
    graph.replace(node, [make_node("FusedGemm", node.input, node.output, domain=MS)])
    with pytest.raises(LubanError, match="the operator FusedGemm of ONNX Runtime"):
        plain(graph.serialised())


def attending(*, bias: bool, mask: bool, added: bool, **given: Any) -> Graph:
    """Return a graph of nothing but ONNX Runtime's attention of two heads over made-up values (B, L, 8)."""
    rng = np.random.default_rng(0)
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "L"]) for name in INPUTS]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 8])
    model = helper.make_model(
        helper.make_graph([], "attending", values, [logits]),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MS, 1)], ir_version=10,
    )  # fmt: skip
    graph = Graph(model.SerializeToString())
    for name in ("query", "key", "value"):
        graph.store(f"{name}/table", rng.standard_normal((60, 8)).astype(np.float32))
        graph.nodes.append(make_node("Gather", [f"{name}/table", INPUTS[0]], [name], axis=0))
    graph.store("bias", rng.standard_normal(24).astype(np.float32))
    graph.nodes.append(make_node("Cast", [INPUTS[1]], ["mask"], to=TensorProto.INT32))
    graph.store("apart", np.array([2, 3]))
    graph.store("across", np.array([1]))
    graph.nodes.append(make_node("Cast", [INPUTS[0]], ["numbers"], to=TensorProto.FLOAT))
    graph.nodes.append(make_node("Unsqueeze", ["numbers", "across"], ["rows"]))  # (B, 1, L)
    graph.nodes.append(make_node("Unsqueeze", ["rows", "across"], ["wide"]))  # (B, 1, 1, L)
    graph.nodes.append(make_node("Transpose", ["wide"], ["high"], perm=[0, 1, 3, 2]))
    graph.nodes.append(make_node("Sub", ["wide", "high"], ["added"]))  # (B, 1, L, L)
    inputs = ["query", "key", "value", "bias" if bias else "", "mask" if mask else "", "added" if added else ""]
    graph.nodes.append(make_node("MultiHeadAttention", inputs, ["mixed"], domain=MS, num_heads=2, **given))
    graph.nodes.append(make_node("ReduceMean", ["mixed", "across"], ["logits"], keepdims=0))
    return Graph(graph.serialised())


@pytest.mark.parametrize("scale", [{}, {"scale": 0.2}], ids=str)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_attention_of_onnx_runtime(bias: bool, mask: bool, added: bool, scale: dict[str, float]) -> None:
    graph = attending(bias=bias, mask=mask, added=added, **scale)
    whole = graph.serialised()
    assert difference(whole, plain(whole)) < 1e-5
    standard_attention(graph)
    rewritten = graph.serialised()
    assert fused_operators(rewritten) == ({"MultiHeadAttention"} if bias or mask else {"Attention"})
    assert difference(whole, rewritten) < 1e-5
    assert difference(whole, plain(rewritten)) < 1e-5


def test_attention_with_a_past_is_refused() -> None:
    graph = attending(bias=False, mask=False, added=False)
    node = next(node for node in graph.nodes if node.op_type == "MultiHeadAttention")
    node.input.extend([""] * (6 - len(node.input)) + ["past"])
    with pytest.raises(LubanError, match="MultiHeadAttention with a past"):
        plain(graph.serialised())
