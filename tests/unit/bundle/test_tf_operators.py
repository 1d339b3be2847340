"""Operators in TensorFlow: each gives what ONNX Runtime gives, in the corners too."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from luban.bundle.packages import tensorflow as package
from luban.bundle.tf_operators import OPERATORS, Translated
from luban.errors import LubanError

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed: pip install 'luban[tensorflow]'", allow_module_level=True)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
I = np.array([[5, -7, 0], [3, 8, -2]], np.int64)  # noqa: E741
Q = RNG.integers(0, 255, (2, 3, 4)).astype(np.uint8)


def of(*values: Any) -> list[np.ndarray]:
    return [value if isinstance(value, np.ndarray) else np.array(value, np.int64) for value in values]


CASES: dict[str, tuple[str, list[np.ndarray], dict[str, Any]]] = {
    "a slice to the end": ("Slice", [X, *of([1], [2**63 - 1], [1])], {}),
    "a slice from behind": ("Slice", [X, *of([-2, 0], [99, -1], [2, 1])], {}),
    "a slice with steps": ("Slice", [X, *of([3], [-9], [2], [-1])], {}),
    "a slice without axes": ("Slice", [X, *of([0, 1], [1, 3])], {}),
    "zeros keep lengths": ("Reshape", [X, *of([0, 0, 2, -1])], {}),
    "an empty shape": ("Reshape", [X[:1, :1, :1], np.zeros(0, np.int64)], {}),
    "to a longer shape": ("Expand", [X[:, :1], *of([5, 1, 3, 1])], {}),
    "to a smaller shape": ("Expand", [X, *of([3, 1])], {}),
    "indices from behind": ("Gather", [X, *of([[-1, 0], [2, -3]])], {"axis": 1}),
    "elements": ("GatherElements", [X, np.array([[[0, -1]], [[1, 2]]], np.int64)], {"axis": 2}),
    "elements of the first axis": ("GatherElements", [I, np.array([[1, 0, -1]], np.int64)], {"axis": 0}),
    "by coordinates": ("GatherND", [X, *of([[0, 2], [1, 1]])], {}),
    "by coordinates in batches": ("GatherND", [X, *of([[0], [2]])], {"batch_dims": 1}),
    "sizes": ("Split", [X, *of([1, 3])], {"axis": -1}),
    "all ones gone": ("Squeeze", [X[:, :1, :1], *of([1, -1])], {}),
    "axes from behind": ("Unsqueeze", [X, *of([-1, 0])], {}),
    "a piece of a shape": ("Shape", [X], {"start": -2, "end": 3}),
    "whole division": ("Div", [I, np.array([[2], [-3]], np.int64)], {}),
    "remainder": ("Mod", [I, np.array([[2], [-3]], np.int64)], {}),
    "remainder of C": ("Mod", [X[0], np.array(0.7, np.float32)], {"fmod": 1}),
    "another type of power": ("Pow", [X * X, np.array(2, np.int64)], {}),
    "only from below": ("Clip", [X, np.array(-0.5, np.float32)], {}),
    "sum of some axes": ("ReduceSum", [X, *of([-1, 0])], {"keepdims": 0}),
    "sum of all": ("ReduceSum", [X], {}),
    "sum of none": ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    "running sums": ("CumSum", [X, np.array(1, np.int64)], {"exclusive": 1, "reverse": 1}),
    "upper triangle": ("Trilu", [X, np.array(1, np.int64)], {"upper": 1}),
    "lower triangle, far": ("Trilu", [X, np.array(-1, np.int64)], {"upper": 0}),
    "turned product": ("Gemm", [X[0], X[1], X[0, :, 0]], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "a vector": ("MatMul", [X, X[0, 0]], {}),
    "a vector first": ("MatMul", [X[0, :, 0].copy(), X], {}),
    "letters": ("Einsum", [X, X], {"equation": "...ij,...kj->...ik"}),
    "norm": ("LayerNormalization", [X, X[0, 0], X[0, 1]], {"axis": -1, "epsilon": 1e-3}),
    "norm of two axes": ("LayerNormalization", [X, X[0]], {"axis": 1}),
    "an inner softmax": ("Softmax", [X], {"axis": 1}),
    "exact gelu": ("Gelu", [X], {}),
    "gelu by tanh": ("Gelu", [X], {"approximate": "tanh"}),
    "quantised": ("QuantizeLinear", [X, np.array(0.02, np.float32), np.array(90, np.uint8)], {}),
    "quantised by channel": (
        "QuantizeLinear", [X, np.array([0.1, 0.02, 0.5], np.float32), np.array([1, -3, 0], np.int8)], {"axis": 1},
    ),
    "restored": ("DequantizeLinear", [Q, np.array([0.1, 0.2], np.float32), np.array([3, 9], np.uint8)], {"axis": 0}),
    "quantised as it comes": ("DynamicQuantizeLinear", [X], {}),
    "nothing to quantise": ("DynamicQuantizeLinear", [np.zeros((2, 2), np.float32)], {}),
    "product of bytes": (
        "MatMulInteger", [Q, RNG.integers(-127, 127, (4, 5)).astype(np.int8), np.array(7, np.uint8)], {},
    ),
    "smallest of three": ("Min", [X, X[0], X[0, 0]], {}),
    "to whole numbers": ("Cast", [X * 3], {"to": 7}),
    "to brain floats": ("Cast", [X], {"to": 16}),
    "filled": ("ConstantOfShape", [*of([2, 3])], {}),
    "halves to even": ("Round", [np.array([0.5, 1.5, -2.5], np.float32)], {}),
    "counted": ("Range", [np.array(2, np.int64), np.array(9, np.int64), np.array(3, np.int64)], {}),
}  # fmt: skip


def graph_of(kind: str, inputs: Sequence[np.ndarray], given: dict[str, Any]) -> bytes:
    """Return a graph of one operator: the first input is given, the others are stored, as exporters leave them."""
    from onnx import TensorProto, helper, numpy_helper

    outputs = {"Split": 2, "DynamicQuantizeLinear": 3}.get(kind, 1)
    names = [f"in{place}" for place in range(len(inputs))]
    node = helper.make_node(kind, names, [f"out{place}" for place in range(outputs)], **given)
    first = inputs[0]
    made = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info("in0", helper.np_dtype_to_tensor_dtype(first.dtype), [None] * first.ndim)],
        [helper.make_empty_tensor_value_info(f"out{place}") for place in range(outputs)],
        [numpy_helper.from_array(value, name) for name, value in zip(names[1:], inputs[1:], strict=True)],
    )  # fmt: skip
    assert TensorProto.FLOAT == 1
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def in_tensorflow(data: bytes, first: np.ndarray) -> list[np.ndarray]:
    """Return what a traced function whose axes are all open computes."""
    tf = package.imported()
    translated = Translated(tf, data)
    spec = tf.TensorSpec([None] * first.ndim, first.dtype, name="in0")
    traced = tf.function(lambda in0: translated(in0=in0), input_signature=[spec], autograph=False)
    return [value.numpy() for value in traced(tf.constant(first)).values()]


@pytest.mark.parametrize("case", CASES)
def test_as_in_onnx_runtime(case: str) -> None:
    import onnxruntime

    kind, inputs, given = CASES[case]
    data = graph_of(kind, inputs, given)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    if case == "to brain floats":  # numpy has no such type to take it out in
        (found,) = in_tensorflow(data, inputs[0])
        assert np.abs(found.astype(np.float32) - X).max() < 0.01
        return
    wanted = session.run(None, {"in0": inputs[0]})
    for one, two in zip(wanted, in_tensorflow(data, inputs[0]), strict=True):
        assert one.shape == two.shape
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_large_weights_are_variables_and_small_ones_are_not() -> None:
    tf = package.imported()
    large, small = np.ones((64, 64), np.float32), np.ones((4, 4), np.float32)
    assert list(Translated(tf, graph_of("MatMul", [X[:, :, :1], large], {})).variables) == ["in1"]
    assert not Translated(tf, graph_of("MatMul", [X, small], {})).variables


def test_operators_that_are_not_known_are_all_named() -> None:
    tf = package.imported()
    with pytest.raises(LubanError, match="can't be written for TensorFlow: NonZero"):
        Translated(tf, graph_of("NonZero", [X], {}))
    assert "NonZero" not in OPERATORS
