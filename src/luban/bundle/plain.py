"""ONNX graphs in old standard operators alone, for tools that know none of ONNX Runtime's own (`com.microsoft`).

Each of those is written as what its documentation says that it computes (ONNX Runtime, "Contrib Operators"). Weights in
blocks of 8 or 4 bits become floats, since no standard operator of the opset multiplies them: the graph grows, and the
rounding of activations that ONNX Runtime does beside them is left out. All else computes the same, to the last bits.

Legend: B windows, L tokens, H heads, D width of a head, I inputs and O outputs of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import Any

import numpy as np

from luban.bundle.graph import MS, OPSET, Graph, attributes, make_node, plain_norms, split_attention
from luban.errors import LubanError

_FLOAT, _INT32 = 1, 6
_HIDDEN = -10000.0
"""What ONNX Runtime adds to the score of a hidden key where a node says nothing else."""


def plain(data: bytes) -> bytes:
    """Return a graph of opset 20 without ONNX Runtime's own operators; one that is so already comes back equal.

    Raises:
        LubanError: the graph has one that can't be written otherwise; the message names it.
    """
    graph = Graph(data)
    split_attention(graph)
    plain_norms(graph)
    for node in [node for node in graph.nodes if node.domain == MS]:
        write = _WRITERS.get(node.op_type)
        if write is None:
            known = ", ".join(sorted(_WRITERS))
            raise LubanError(
                f"the graph has the operator {node.op_type} of ONNX Runtime, and no other tool has it",
                hint=f"package it `--for onnx`, or make the bundle without it; those that can be rewritten: {known}",
            )
        graph.replace(node, write(_Place(graph, node)))
    for node in [node for node in graph.nodes if node.op_type == "Attention"]:
        graph.replace(node, _standard_attention(_Place(graph, node)))
        graph.opset = OPSET
    return graph.serialised()


def own_operators(data: bytes) -> tuple[str, ...]:
    """Return the names of ONNX Runtime's own operators in a graph, sorted, each once."""
    return tuple(sorted({node.op_type for node in Graph(data).nodes if node.domain == MS}))


class _Place:
    """Where one node stood, and the nodes that take its place."""

    def __init__(self, graph: Graph, node: Any) -> None:
        self.graph = graph
        self.given = attributes(node)
        self.inputs = [*node.input, *[""] * 8]
        self.out = node.output[0]
        self.kind = node.op_type
        self.nodes: list[Any] = []

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **given: Any) -> str:
        """Add a node, and return the name of its output: the old node's own where no other is given."""
        output = f"{self.out}/plain/{name}" if name else self.out
        self.nodes.append(make_node(kind, inputs, [output], **given))
        return output

    def store(self, name: str, value: np.ndarray) -> str:
        """Store a value for these nodes."""
        return self.graph.store(f"{self.out}/plain/{name}", value)

    def number(self, name: str, value: float) -> str:
        """Store one float."""
        return self.store(name, np.array(value, np.float32))

    def refuse(self, what: str) -> LubanError:
        """Return the error of a form that isn't known."""
        return LubanError(
            f"{self.kind} with {what} can't be written in standard operators",
            hint="package the bundle `--for onnx`, where ONNX Runtime runs it as it is",
        )


def _attention(it: _Place) -> list[Any]:
    """Write attention of many heads over queries, keys and values (B, L, H x D)."""
    query, key, value, bias, hidden, added, *past = it.inputs[:8]
    if any(past) or it.given.get("unidirectional"):
        raise it.refuse("a past, or keys hidden from the left")
    if not key or not value:
        raise it.refuse("queries, keys and values packed into one")
    parts = [query, key, value]
    if bias:
        if not it.graph.is_constant(bias):
            raise it.refuse("a bias that is computed")
        biases = np.split(it.graph.constant(bias), 3)
        parts = [
            it.add("Add", [part, it.store(f"bias{number}", own)], f"biased{number}")
            for number, (part, own) in enumerate(zip(parts, biases, strict=True))
        ]
    scores = _scores(it, parts, it.given["num_heads"])
    if hidden:
        least = it.number("least", it.given.get("mask_filter_value", _HIDDEN))
        shown = it.add("Cast", [hidden], "shown", to=_FLOAT)
        lacking = it.add("Sub", [it.number("one", 1.0), shown], "lacking")
        axes = it.store("axes", np.array([1, 2], np.int64))
        wide = it.add("Unsqueeze", [it.add("Mul", [lacking, least], "lowered"), axes], "hidden")
        scores = it.add("Add", [scores, wide], "shown/scores")
    if added:
        scores = it.add("Add", [scores, added], "all/scores")
    return _mixed(it, scores, parts[2], it.given["num_heads"])


def _standard_attention(it: _Place) -> list[Any]:
    """Write the attention of opset 23 over queries, keys and values (B, L, H x D)."""
    *parts, mask = it.inputs[:4]
    if any(it.inputs[4:]) or it.given.get("is_causal") or it.given["q_num_heads"] != it.given["kv_num_heads"]:
        raise it.refuse("a past, keys hidden from the left, or heads that share keys")
    scores = _scores(it, parts, it.given["q_num_heads"])
    if mask and _is_boolean(it.graph, mask):
        scores = it.add("Where", [mask, scores, it.number("least", _HIDDEN)], "shown/scores")
    elif mask:
        scores = it.add("Add", [scores, mask], "all/scores")
    return _mixed(it, scores, parts[2], it.given["q_num_heads"])


def _is_boolean(graph: Graph, value: str) -> bool:
    """Return whether a value is made a boolean, and only shaped after that."""
    from onnx import TensorProto

    node = graph.maker(value)
    while node is not None and node.op_type in ("Expand", "Unsqueeze"):
        node = graph.maker(node.input[0])
    return node is not None and node.op_type == "Cast" and attributes(node)["to"] == TensorProto.BOOL


def _scores(it: _Place, parts: Sequence[str], n_heads: int) -> str:
    """Write the products of queries and keys (B, H, L, L), scaled."""
    heads = [_heads(it, parts[0], "query", n_heads), _heads(it, parts[1], "key", n_heads, turned=True)]
    scores = it.add("MatMul", heads, "products")
    if scale := it.given.get("scale"):
        return it.add("Mul", [scores, it.number("scale", scale)], "scores")
    width = it.add("Cast", [it.add("Shape", [heads[0]], "width/whole", start=3, end=4)], "width", to=_FLOAT)
    return it.add("Div", [scores, it.add("Sqrt", [width], "root")], "scores")


def _mixed(it: _Place, scores: str, value: str, n_heads: int) -> list[Any]:
    """Write the values mixed by the shares that scores give them, heads side by side again."""
    heads = _heads(it, value, "value", n_heads)
    mixed = it.add("MatMul", [it.add("Softmax", [scores], "shares", axis=-1), heads], "mixed")
    back = it.add("Transpose", [mixed], "back", perm=[0, 2, 1, 3])
    it.add("Reshape", [back, it.store("together", np.array([0, 0, -1], np.int64))])
    return it.nodes


def _heads(it: _Place, part: str, name: str, n_heads: int, *, turned: bool = False) -> str:
    """Write (B, L, H x D) as (B, H, L, D), or turned as (B, H, D, L)."""
    apart = it.store("apart", np.array([0, 0, n_heads, -1], np.int64))
    order = [0, 2, 3, 1] if turned else [0, 2, 1, 3]
    return it.add("Transpose", [it.add("Reshape", [part, apart], f"{name}/apart")], name, perm=order)


def _gelu(it: _Place) -> list[Any]:
    """Write x / 2 (1 + erf(x / sqrt 2)), of x with its bias if it has one."""
    x = _biased(it)
    inner = it.add("Erf", [it.add("Div", [x, it.number("root", sqrt(2))], "inner")], "erf")
    _halves(it, x, inner)
    return it.nodes


def _fast_gelu(it: _Place) -> list[Any]:
    """Write x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    x = _biased(it)
    cube = it.add("Mul", [it.add("Mul", [x, x], "square"), x], "cube")
    inner = it.add("Add", [x, it.add("Mul", [cube, it.number("cubic", 0.044715)], "more")], "sum")
    _halves(it, x, it.add("Tanh", [it.add("Mul", [inner, it.number("root", sqrt(2 / pi))], "inner")], "tanh"))
    return it.nodes


def _quick_gelu(it: _Place) -> list[Any]:
    """Write x sigmoid(alpha x)."""
    steep = it.add("Mul", [it.inputs[0], it.number("alpha", it.given.get("alpha", 1.702))], "steep")
    it.add("Mul", [it.inputs[0], it.add("Sigmoid", [steep], "share")])
    return it.nodes


def _biased(it: _Place) -> str:
    x, bias = it.inputs[:2]
    return it.add("Add", [x, bias], "biased") if bias else x


def _halves(it: _Place, x: str, inner: str) -> None:
    share = it.add("Add", [inner, it.number("one", 1.0)], "share")
    it.add("Mul", [it.add("Mul", [x, it.number("half", 0.5)], "half/x"), share])


def _matmul(it: _Place) -> list[Any]:
    """Write a product whose factors may be turned, and which may be multiplied by a number."""
    if it.given.get("transBatchA") or it.given.get("transBatchB"):
        raise it.refuse("batches turned")
    left = "ji" if it.given.get("transA") else "ij"
    right = "kj" if it.given.get("transB") else "jk"
    alpha = it.given.get("alpha", 1.0)
    turned = left != "ij" or right != "jk"
    given = {"equation": f"...{left},...{right}->...ik"} if turned else {}
    product = it.add("Einsum" if turned else "MatMul", it.inputs[:2], "product" if alpha != 1.0 else "", **given)
    if alpha != 1.0:
        it.add("Mul", [product, it.number("alpha", alpha)])
    return it.nodes


def _integer_product(it: _Place) -> list[Any]:
    """Write a product of integers (…, I) x (I, O) whose sums are multiplied by both scales."""
    values, weight, scale, weight_scale, zero, weight_zero, bias = it.inputs[:7]
    _summed(it, values, weight, zero, weight_zero, scale, weight_scale, bias)
    return it.nodes


def _dynamic_product(it: _Place) -> list[Any]:
    """Write the same of floats, which are made integers over the range that they have."""
    values, weight, weight_scale, weight_zero, bias = it.inputs[:5]
    names = [f"{it.out}/plain/{name}" for name in ("u8", "u8/scale", "u8/zero")]
    it.nodes.append(make_node("DynamicQuantizeLinear", [values], names))
    _summed(it, names[0], weight, names[2], weight_zero, names[1], weight_scale, bias)
    return it.nodes


def _summed(
    it: _Place, values: str, weight: str, zero: str, weight_zero: str, scale: str, weight_scale: str, bias: str
) -> None:
    inputs = [values, weight, *([zero, weight_zero] if weight_zero else [zero] if zero else [])]
    sums = it.add("Cast", [it.add("MatMulInteger", inputs, "sums")], "sums/wide", to=_FLOAT)
    both = it.add("Mul", [scale, weight_scale], "scales")
    product = it.add("Mul", [sums, both], "product" if bias else "")
    if bias:
        it.add("Add", [product, bias])


def _block_product(it: _Place) -> list[Any]:
    """Write a product with weights in blocks as one with floats."""
    if it.inputs[3] or it.inputs[4]:
        raise it.refuse("zero points or groups of its own")
    rows = _unpacked(it.graph.constant(it.inputs[1]), it.graph.constant(it.inputs[2]), it.given)
    weight = it.store("weight/float", rows[: it.given["N"], : it.given["K"]].T)
    bias = it.inputs[5]
    product = it.add("MatMul", [it.inputs[0], weight], "product" if bias else "")
    if bias:
        it.add("Add", [product, bias])
    return it.nodes


def _block_table(it: _Place) -> list[Any]:
    """Write a lookup in a table in blocks as one in floats."""
    packed, places, scale, zero = it.inputs[:4]
    if zero or it.given.get("gather_axis") or it.given.get("quantize_axis", 1) != 1:
        raise it.refuse("zero points, or along other axes")
    table = _unpacked(it.graph.constant(packed), it.graph.constant(scale), it.given)
    it.add("Gather", [it.store("table", table), places], axis=0)
    return it.nodes


def _unpacked(packed: np.ndarray, scale: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    """Return (O, I) floats of integers from 0 in blocks, two of 4 bits a byte, and their scales (O, blocks)."""
    bits, n_rows = given.get("bits", 4), len(packed)
    values = packed.reshape(n_rows, -1)
    if bits == 4:
        values = np.stack([values & 15, values >> 4], -1).reshape(n_rows, -1)
    blocks = values.reshape(n_rows, -1, given["block_size"]).astype(np.float32) - np.float32(2 ** (bits - 1))
    rows: np.ndarray = (blocks * scale.reshape(n_rows, -1, 1)).reshape(n_rows, -1)
    return rows


_WRITERS: dict[str, Callable[[_Place], list[Any]]] = {
    "BiasGelu": _gelu,
    "DynamicQuantizeMatMul": _dynamic_product,
    "FastGelu": _fast_gelu,
    "FusedMatMul": _matmul,
    "GatherBlockQuantized": _block_table,
    "Gelu": _gelu,
    "MatMulIntegerToFloat": _integer_product,
    "MatMulNBits": _block_product,
    "MultiHeadAttention": _attention,
    "QuickGelu": _quick_gelu,
}
