"""A graph of standard ONNX operators run by TensorFlow: one function an operator, each by TensorFlow's own.

Shapes stay open: whatever the graph computes of them is computed at each call, so that batches of any size and texts
of any length are taken. The converters on PyPI do not keep that: onnx2tf 1.29 writes a SavedModel of a BERT whose batch
and length are both open, and it fails at its first call; onnx-tf was given up in 2022.

Names are ONNX's; see "ONNX Operators" of its documentation for what each computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from luban.bundle.graph import Graph, attributes
from luban.errors import LubanError

Operator = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]
"""TensorFlow itself, the inputs (None where one is left out), the attributes -> one output, or all in a list."""
_STORED_FROM = 1024
"""Values of so many elements are variables of the SavedModel; smaller ones stand in its graph."""


class Translated:
    """A graph that runs in TensorFlow."""

    def __init__(self, tf: Any, data: bytes) -> None:
        """Store what is computed, and make variables of the weights.

        Args:
            tf: the module tensorflow.
            data: the serialised graph, without ONNX Runtime's own operators.

        Raises:
            LubanError: an operator is not among those known here; the message names all such.
        """
        graph = Graph(data)
        self._tf = tf
        self._inputs, self._outputs = graph.inputs, graph.outputs
        self._steps = [(node.op_type, list(node.input), list(node.output), attributes(node)) for node in graph.nodes]
        if missing := sorted({node.op_type for node in graph.nodes if node.domain or node.op_type not in OPERATORS}):
            raise LubanError(
                f"the graph has operators that can't be written for TensorFlow: {', '.join(missing)}",
                hint="package it `--for onnx`; please report the base that has them",
            )
        floats = {step[1][1] for step in self._steps if step[0] == "MatMulInteger"}
        self._small: dict[str, np.ndarray] = {}
        self.variables: dict[str, Any] = {}
        for name in graph.constants():
            value = graph.constant(name)
            # TensorFlow has no product of bytes worth its time: their sums are exact in floats, too, up to 2^24.
            value = value.astype(np.float32) if name in floats else value
            if value.size < _STORED_FROM:
                self._small[name] = value
            else:
                self.variables[name] = tf.Variable(value, trainable=False, name=f"weight_{len(self.variables)}")

    def __call__(self, **given: Any) -> dict[str, Any]:
        """Return the graph's outputs by name, for its inputs by name; to be traced by `tf.function`."""
        tf = self._tf
        values: dict[str, Any] = {name: tf.constant(value) for name, value in self._small.items()}
        values |= {name: tf.convert_to_tensor(variable) for name, variable in self.variables.items()}
        values |= {name: given[name] for name in self._inputs}
        for kind, inputs, outputs, attributes_ in self._steps:
            found = OPERATORS[kind](tf, [values[name] if name else None for name in inputs], attributes_)
            made = found if isinstance(found, list) else [found]
            values.update((name, value) for name, value in zip(outputs, made, strict=False) if name)
        return {name: values[name] for name in self._outputs}


def _plain(name: str) -> Operator:
    """Return an operator that is one function of TensorFlow's over its inputs; dots lead to its modules."""

    def run(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
        function = tf
        for part in name.split("."):
            function = getattr(function, part)
        return function(*inputs)

    return run


def _folded(name: str) -> Operator:
    """Return an operator over any number of inputs, taken two at a time."""
    two = _plain(name)

    def run(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
        total = inputs[0]
        for other in inputs[1:]:
            total = two(tf, [total, other], given)
        return total

    return run


def _reduced(name: str) -> Operator:
    def run(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
        axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else given.get("axes")
        if axes is None and given.get("noop_with_empty_axes"):
            return inputs[0]
        return getattr(tf, name)(inputs[0], axis=axes, keepdims=bool(given.get("keepdims", 1)))

    return run


def _shape(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.shape(inputs[0], out_type=tf.int64)[given.get("start", 0) : given.get("end")]


def _reshape(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """A 0 keeps the length that the axis has."""
    x, shape = inputs[0], tf.cast(inputs[1], tf.int64)
    known = tf.get_static_value(shape)
    if given.get("allowzero") or (known is not None and 0 not in known):
        return tf.reshape(x, shape)
    lengths = tf.shape(x, out_type=tf.int64)
    if known is not None:
        return tf.reshape(x, tf.stack([lengths[at] if size == 0 else size for at, size in enumerate(known)]))
    size = tf.shape(shape)[0]
    kept = tf.concat([lengths, tf.ones([tf.maximum(size - tf.rank(x), 0)], tf.int64)], 0)[:size]
    return tf.reshape(x, tf.where(shape == 0, kept, shape))


def _expand(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    shape = tf.cast(inputs[1], tf.int64)
    return tf.broadcast_to(inputs[0], tf.broadcast_dynamic_shape(tf.shape(inputs[0], out_type=tf.int64), shape))


def _slice(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, starts, ends, axes, steps = [*inputs, None, None][:5]
    rank = x.shape.rank
    known = range(starts.shape[0]) if axes is None else tf.get_static_value(axes).tolist()
    begin, end, stride = [0] * rank, [0] * rank, [1] * rank
    untouched = (1 << rank) - 1
    for place, axis in enumerate(axis % rank for axis in known):
        begin[axis], end[axis] = tf.cast(starts[place], tf.int64), tf.cast(ends[place], tf.int64)
        stride[axis] = 1 if steps is None else tf.cast(steps[place], tf.int64)
        untouched &= ~(1 << axis)
    bounds = [tf.stack([tf.cast(value, tf.int64) for value in values]) for values in (begin, end, stride)]
    return tf.strided_slice(x, *bounds, begin_mask=untouched, end_mask=untouched)


def _split(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    axis = given.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        known = tf.get_static_value(inputs[1])
        return tf.split(inputs[0], inputs[1] if known is None else known.tolist(), axis=axis)
    return tf.split(inputs[0], given["num_outputs"], axis=axis)


def _squeeze(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    axes = tf.get_static_value(inputs[1]).tolist() if len(inputs) > 1 else given.get("axes")
    return tf.squeeze(inputs[0], axis=axes)


def _unsqueeze(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, axes = inputs[0], tf.get_static_value(inputs[1]).reshape(-1).tolist()
    rank = x.shape.rank + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = tf.expand_dims(x, axis)
    return x


def _counted(tf: Any, places: Any, length: Any) -> Any:
    """Return indices in which those from the end are counted from the start."""
    return tf.where(places < 0, places + tf.cast(length, places.dtype), places)


def _gather(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    axis = given.get("axis", 0)
    return tf.gather(inputs[0], _counted(tf, inputs[1], tf.shape(inputs[0])[axis]), axis=axis)


def _gather_elements(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, places = inputs
    rank, axis = x.shape.rank, given.get("axis", 0) % x.shape.rank
    shape = tf.shape(places)
    grid = [
        tf.broadcast_to(tf.reshape(tf.range(shape[at]), [-1 if other == at else 1 for other in range(rank)]), shape)
        for at in range(rank)
    ]
    grid[axis] = tf.cast(_counted(tf, places, tf.shape(x)[axis]), tf.int32)
    return tf.gather_nd(x, tf.stack(grid, -1))


def _gather_nd(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.gather_nd(inputs[0], inputs[1], batch_dims=given.get("batch_dims", 0))


def _clip(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, low, high = [*inputs, None, None][:3]
    x = x if low is None else tf.maximum(x, low)
    return x if high is None else tf.minimum(x, high)


def _divide(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """Whole numbers are divided towards zero."""
    return tf.truncatediv(*inputs) if inputs[0].dtype.is_integer else tf.divide(*inputs)


def _mod(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.truncatemod(*inputs) if given.get("fmod") else tf.math.floormod(*inputs)


def _power(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.pow(inputs[0], tf.cast(inputs[1], inputs[0].dtype))


def _cast(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    from onnx import TensorProto, helper

    brain = given["to"] == TensorProto.BFLOAT16
    return tf.cast(inputs[0], tf.bfloat16 if brain else tf.as_dtype(helper.tensor_dtype_to_np_dtype(given["to"])))


def _constant(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    from onnx import numpy_helper

    ((name, value),) = given.items()
    types = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return tf.constant(numpy_helper.to_array(value) if name == "value" else np.array(value, types[name]))


def _filled(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    from onnx import numpy_helper

    value = numpy_helper.to_array(given["value"]) if "value" in given else np.zeros(1, np.float32)
    return tf.fill(inputs[0], tf.constant(value.reshape(-1)[0]))


def _cumsum(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    axis = int(tf.get_static_value(inputs[1]).reshape(-1)[0])
    told = {name: bool(given.get(name, 0)) for name in ("exclusive", "reverse")}
    return tf.cumsum(inputs[0], axis=axis, **told)


def _triangle(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """Keep what is on one side of a diagonal, as a mask, since the diagonal may lie outside."""
    x, diagonal = inputs[0], inputs[1] if len(inputs) > 1 and inputs[1] is not None else tf.constant(0, tf.int64)
    rows, columns = (tf.cast(tf.range(tf.shape(x)[at]), tf.int64) for at in (-2, -1))
    apart = columns[None, :] - rows[:, None] - tf.reshape(diagonal, [])
    return tf.where(apart >= 0 if given.get("upper", 1) else apart <= 0, x, tf.zeros([], x.dtype))


def _gemm(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    product = tf.matmul(
        inputs[0], inputs[1], transpose_a=bool(given.get("transA", 0)), transpose_b=bool(given.get("transB", 0))
    )
    product = product * given.get("alpha", 1.0)
    return product if len(inputs) < 3 or inputs[2] is None else product + inputs[2] * given.get("beta", 1.0)


def _matmul(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, y = inputs
    if x.shape.rank == 1 or y.shape.rank == 1:
        return tf.linalg.matvec(x, y) if y.shape.rank == 1 else tf.linalg.matvec(y, x, transpose_a=True)
    return tf.matmul(x, y)


def _einsum(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.einsum(_text(given["equation"]), *inputs)


def _norm(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, scale, shift = [*inputs, None][:3]
    axes = list(range(given.get("axis", -1) % x.shape.rank, x.shape.rank))
    apart = x - tf.reduce_mean(x, axes, keepdims=True)
    spread = tf.reduce_mean(tf.square(apart), axes, keepdims=True)
    normal = apart * tf.math.rsqrt(spread + given.get("epsilon", 1e-5)) * scale
    return normal if shift is None else normal + shift


def _softmax(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.nn.softmax(inputs[0], axis=given.get("axis", -1))


def _gelu(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    return tf.nn.gelu(inputs[0], approximate=_text(given.get("approximate", "none")) == "tanh")


def _along(tf: Any, x: Any, value: Any, axis: int) -> Any:
    """Return a scale or zero point (C,) in a shape that goes along an axis of `x`."""
    if value.shape.rank != 1:
        return value
    return tf.reshape(value, [-1 if at == axis % x.shape.rank else 1 for at in range(x.shape.rank)])


def _quantised(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, scale, zero = [*inputs, None][:3]
    axis, kind = given.get("axis", 1), tf.uint8 if zero is None else zero.dtype
    moved = tf.round(x / _along(tf, x, scale, axis))
    if zero is not None:
        moved += _along(tf, x, tf.cast(zero, x.dtype), axis)
    return tf.cast(tf.clip_by_value(moved, kind.min, kind.max), kind)


def _restored(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, scale, zero = [*inputs, None][:3]
    axis, moved = given.get("axis", 1), tf.cast(x, scale.dtype)
    if zero is not None:
        moved -= _along(tf, x, tf.cast(zero, scale.dtype), axis)
    return moved * _along(tf, x, scale, axis)


def _quantised_as_it_comes(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """Over the range that the values have, 0 within it; a range of nothing has a scale of 1."""
    x = inputs[0]
    low, high = tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)
    scale = (high - low) / 255.0
    scale = tf.where(scale == 0.0, tf.ones([]), scale)
    zero = tf.round(tf.clip_by_value(-low / scale, 0.0, 255.0))
    values = tf.clip_by_value(tf.round(x / scale) + zero, 0.0, 255.0)
    return [tf.cast(values, tf.uint8), scale, tf.cast(zero, tf.uint8)]


def _integer_product(tf: Any, inputs: Sequence[Any], given: Mapping[str, Any]) -> Any:
    x, y, zero, other = [*inputs, None, None][:4]
    x, y = tf.cast(x, tf.float32), tf.cast(y, tf.float32)
    x = x if zero is None else x - tf.cast(zero, tf.float32)
    y = y if other is None else y - tf.cast(other, tf.float32)
    return tf.cast(tf.round(tf.matmul(x, y)), tf.int32)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


OPERATORS: dict[str, Operator] = {
    **{
        name: _plain(function)
        for name, function in {
            "Abs": "abs", "Add": "add", "And": "logical_and", "Ceil": "math.ceil", "Cos": "cos", "Equal": "equal",
            "Erf": "math.erf", "Exp": "exp", "Floor": "floor", "Greater": "greater",
            "GreaterOrEqual": "greater_equal", "Identity": "identity", "IsNaN": "math.is_nan", "Less": "less",
            "LessOrEqual": "less_equal", "Log": "math.log", "Mul": "multiply", "Neg": "negative",
            "Not": "logical_not", "Or": "logical_or", "Range": "range", "Reciprocal": "math.reciprocal",
            "Relu": "nn.relu", "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin",
            "Softplus": "math.softplus", "Sqrt": "sqrt", "Sub": "subtract", "Tanh": "tanh", "Tile": "tile",
            "Where": "where", "Xor": "math.logical_xor",
        }.items()
    },
    **{name: _folded(function) for name, function in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items()},
    **{
        name: _reduced(function)
        for name, function in {
            "ReduceMax": "reduce_max", "ReduceMean": "reduce_mean", "ReduceMin": "reduce_min",
            "ReduceProd": "reduce_prod", "ReduceSum": "reduce_sum",
        }.items()
    },
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda tf, inputs, given: tf.concat(list(inputs), given["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "CumSum": _cumsum,
    "DequantizeLinear": _restored,
    "Div": _divide,
    "DynamicQuantizeLinear": _quantised_as_it_comes,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _norm,
    "MatMul": _matmul,
    "MatMulInteger": _integer_product,
    "Mod": _mod,
    "Pow": _power,
    "QuantizeLinear": _quantised,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": lambda tf, inputs, given: tf.transpose(inputs[0], given.get("perm")),
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}  # fmt: skip
