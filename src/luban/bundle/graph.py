"""ONNX graphs that are rewritten, and what makes one faster on ONNX Runtime's CPU kernels without other answers.

ONNX Runtime's fused operators are not all faster than what they replace. Measured for MiniLM in batches of 512 tokens,
alternating, on one thread of a CPU with AVX-512:

- `SkipLayerNormalization` is a plain loop, `LayerNormalization` is vectorised: two `Add` and the latter take a quarter
  of the time, which makes a float graph 1.1 times as fast, and an int8 graph 1.2 times.
- Its own `Attention` multiplies its weights a head and a row at a time. A `MatMul` for all of them, and attention on
  its parts, is as fast in float, and 1.3 times in int8, since the product can be quantised.
- `MultiHeadAttention` takes up to twice as long as the standard's `Attention` where texts are short: 0.75 ms and
  0.39 ms for 32 windows of 16 tokens, 1.09 ms and 0.77 ms for 8 of 64; from 256 tokens on they are alike.
- A mask that is made of two dozen small nodes costs a twentieth of one short text's time; few nodes make one that
  says which keys are seen.

Legend: B windows, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

INPUTS = ("input_ids", "attention_mask")
"""What every exported graph reads, both (B, L)."""
MS = "com.microsoft"
OPSET = 20
"""Standard operators that torch's exporter writes."""
_OPSET_OF_ATTENTION = 23
KEPT_APART = ("SkipLayerNormFusion",)
"""Passes of ONNX Runtime that would undo it: a session is opened without them."""
_MASK_LENGTHS = (1, 5, 2304)
"""Lengths at which a mask is looked at: beyond the local attention of any encoder."""


class Graph:
    """An ONNX graph while it is rewritten."""

    def __init__(self, data: bytes) -> None:
        """Parse a serialised graph.

        Raises:
            ValueError: it is none.
        """
        import onnx

        try:
            self.model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own class is of no public module
            raise ValueError(f"this is no ONNX graph: {error}") from error
        self.nodes: list[Any] = list(self.model.graph.node)
        self._constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def opset(self) -> int:
        """Version of the standard operators that the graph is written in."""
        return int(next(entry.version for entry in self.model.opset_import if not entry.domain))

    @opset.setter
    def opset(self, version: int) -> None:
        from onnx import helper

        for entry in self.model.opset_import:
            if not entry.domain:
                entry.version = version
        least = helper.find_min_ir_version_for([helper.make_opsetid("", version)])
        self.model.ir_version = max(self.model.ir_version, least)

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [value.name for value in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in self.model.graph.output]

    def is_constant(self, name: str) -> bool:
        """Return whether a value is stored in the graph."""
        return name in self._constants

    def constant(self, name: str) -> np.ndarray:
        """Return a stored value."""
        from onnx import numpy_helper

        found: np.ndarray = numpy_helper.to_array(self._constants[name])
        return found

    def constants(self) -> list[str]:
        """Return the names of all stored values."""
        return list(self._constants)

    def store(self, name: str, value: np.ndarray) -> str:
        """Store a value, in place of one of that name, and return its name."""
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def drop(self, name: str) -> None:
        """Store a value no longer."""
        del self._constants[name]

    def maker(self, value: str) -> Any | None:
        """Return the node that computes a value."""
        return next((node for node in self.nodes if value in node.output), None)

    def readers(self, value: str) -> list[Any]:
        """Return the nodes that read a value."""
        return [node for node in self.nodes if value in node.input]

    def replace(self, node: Any, by: Sequence[Any]) -> None:
        """Put other nodes where a node stands."""
        place = next(index for index, other in enumerate(self.nodes) if other is node)
        self.nodes[place : place + 1] = by

    def before(self, node: Any, *others: Any) -> None:
        """Put nodes in front of one."""
        self.replace(node, [*others, node])

    def fold_concats(self) -> None:
        """Store what is put together of stored values alone."""
        for node in [node for node in self.nodes if node.op_type == "Concat"]:
            if all(map(self.is_constant, node.input)):
                axis = attributes(node)["axis"]
                self.store(node.output[0], np.concatenate([self.constant(name) for name in node.input], axis))
                self.nodes.remove(node)

    def cut_to(self, outputs: Sequence[str]) -> bytes:
        """Return the part of the graph that computes some values, which become its outputs; this graph stays."""
        import onnx
        from onnx import helper

        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        del part.graph.output[:]
        part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
        return _serialised(part, self.nodes, self._constants.values(), all_inputs=False)

    def serialised(self) -> bytes:
        """Return the graph without what nothing reads; equal graphs give equal bytes."""
        return _serialised(self.model, self.nodes, self._constants.values())


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def make_node(kind: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **given: Any) -> Any:
    """Return a node, named for its first output."""
    from onnx import helper

    node = helper.make_node(kind, list(inputs), list(outputs), name=f"{outputs[0]}/{kind}", domain=domain)
    # In the order of their names, so that equal graphs have equal bytes.
    node.attribute.extend(helper.make_attribute(name, given[name]) for name in sorted(given))
    return node


def faster(data: bytes) -> bytes:
    """Return a graph that gives the same logits sooner; one without the operators above comes back as it is."""
    graph = Graph(data)
    graph.fold_concats()
    split_attention(graph)
    plain_norms(graph)
    standard_attention(graph)
    return graph.serialised()


def split_attention(graph: Graph) -> None:
    """Write each `Attention` as one `MatMul`, and `MultiHeadAttention` on its parts."""
    for node in [node for node in graph.nodes if node.op_type == "Attention" and node.domain == MS]:
        x, weight, bias, mask, past, attention_bias = [*node.input, "", "", "", ""][:6]
        given, out = attributes(node), node.output[0]
        if mask or past or not graph.is_constant(weight) or given.get("unidirectional") or len(node.output) > 1:
            continue
        width = graph.constant(weight).shape[1]
        sizes = given.get("qkv_hidden_sizes") or [width // 3] * 3
        parts = [f"{out}/{name}" for name in ("query", "key", "value")]
        cut = graph.store(f"{out}/sizes", np.array(sizes, np.int64))
        nodes, value = [make_node("MatMul", [x, weight], [f"{out}/product"])], f"{out}/product"
        if bias:
            nodes.append(make_node("Add", [value, bias], [f"{out}/projected"]))
            value = f"{out}/projected"
        kept = {name: given[name] for name in ("num_heads", "scale", "mask_filter_value") if name in given}
        inputs = [*parts, "", "", attention_bias] if attention_bias else parts
        nodes.append(make_node("Split", [value, cut], parts, axis=-1))
        nodes.append(make_node("MultiHeadAttention", inputs, [out], domain=MS, **kept))
        graph.replace(node, nodes)


def plain_norms(graph: Graph) -> None:
    """Write each `SkipLayerNormalization` as two sums and a norm."""
    read = {name for node in graph.nodes for name in node.input} | set(graph.outputs)
    for node in [node for node in graph.nodes if node.op_type == "SkipLayerNormalization"]:
        x, skip, scale, shift, bias = [*node.input, "", ""][:5]
        out, *others = node.output
        total = others[2] if len(others) > 2 and others[2] else f"{out}/sum"
        if any(name in read for name in others[:2] if name):
            continue
        nodes = []
        if bias:
            nodes.append(make_node("Add", [x, bias], [f"{out}/biased"]))
            x = f"{out}/biased"
        nodes.append(make_node("Add", [x, skip], [total]))
        inputs = [total, scale, shift] if shift else [total, scale]
        nodes.append(
            make_node("LayerNormalization", inputs, [out], axis=-1, epsilon=attributes(node).get("epsilon", 1e-12))
        )
        graph.replace(node, nodes)


def standard_attention(graph: Graph) -> None:
    """Write `MultiHeadAttention` as the standard's `Attention`; where a mask hides padding alone, of few nodes."""
    nodes = [node for node in graph.nodes if node.op_type == "MultiHeadAttention" and node.domain == MS]
    biases = {node.input[5] for node in nodes if len(node.input) == 6}
    only = {name: _hides_padding_only(graph, name) for name in sorted(biases)}
    for node in nodes:
        query, key, value, bias, hidden, added, *past = [*node.input, *[""] * 5][:8]
        given = attributes(node)
        if bias or hidden or any(past) or not (key and value) or given.get("unidirectional") or len(node.output) > 1:
            continue
        mask = _shown_keys(graph) if only.get(added) else added
        heads = given["num_heads"]
        kept = {"q_num_heads": heads, "kv_num_heads": heads, **{name: given[name] for name in given if name == "scale"}}
        inputs = [query, key, value, *([mask] if mask else [])]
        graph.replace(node, [make_node("Attention", inputs, list(node.output), **kept)])
        graph.opset = max(graph.opset, _OPSET_OF_ATTENTION)


def _shown_keys(graph: Graph) -> str:
    """Return the name of the mask (B, 1, L, L) that is true where a query sees a key; it is made once."""
    from onnx import TensorProto

    name = "shown/keys"
    if graph.maker(name) is None:
        one, axes = graph.store("shown/one", np.array([1])), graph.store("shown/axes", np.array([1, 2]))
        graph.nodes[:0] = [
            make_node("Cast", [INPUTS[1]], ["shown/tokens"], to=TensorProto.BOOL),
            make_node("Unsqueeze", ["shown/tokens", axes], ["shown/wide"]),
            make_node("Shape", [INPUTS[1]], ["shown/length"], start=1),
            make_node("Concat", [one, one, "shown/length", one], ["shown/shape"], axis=0),
            make_node("Expand", ["shown/wide", "shown/shape"], [name]),
        ]
    return name


def _hides_padding_only(graph: Graph, bias: str) -> bool:
    """Compute what is added to the scores at several lengths, and compare it with what padding alone would give."""
    import onnxruntime

    if graph.is_constant(bias) or bias not in {name for node in graph.nodes for name in node.output}:
        return False
    try:
        session = onnxruntime.InferenceSession(graph.cut_to([bias]), providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        if not {INPUTS[1]} <= names <= {*INPUTS}:
            return False
        for length in _MASK_LENGTHS:
            mask = np.ones((2, length), np.int64)
            mask[1, (length + 1) // 2 :] = 0
            hidden = np.broadcast_to(mask[:, None, None, :] == 0, (2, 1, length, length))
            for ids in (np.zeros_like(mask), np.ones_like(mask)):  # their shape may be read, but not what they are
                given = dict(zip(INPUTS, (ids, mask), strict=True))
                found = session.run(None, {name: given[name] for name in names})[0]
                if found.shape != hidden.shape or np.any(found[~hidden] != 0) or np.any(found[hidden] > -1e4):
                    return False
    except Exception:  # onnxruntime's exceptions have no common class; whatever fails here is left as it is
        return False
    return True


def _serialised(model: Any, nodes: Sequence[Any], constants: Iterable[Any], *, all_inputs: bool = True) -> bytes:
    import onnx
    from onnx import helper

    outputs = {value.name for value in model.graph.output}
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= {name for name in node.input if name} | _inner(node)
    made = onnx.ModelProto()
    made.ir_version = model.ir_version
    made.producer_name = "luban"
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if any(node.domain == MS for node in kept):
        opsets.setdefault(MS, 1)
    made.opset_import.extend(helper.make_opsetid(name, opsets[name]) for name in sorted(opsets))
    made.functions.extend(model.functions)
    made.graph.name = "luban"
    made.graph.input.extend(value for value in model.graph.input if all_inputs or value.name in wanted)
    made.graph.output.extend(model.graph.output)
    made.graph.initializer.extend(tensor for tensor in constants if tensor.name in wanted)
    for node in reversed(kept):
        names = [name if name in wanted else "" for name in node.output]
        while not names[-1]:
            names.pop()
        added = made.graph.node.add()
        added.CopyFrom(node)
        del added.output[:]
        added.output.extend(names)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _inner(node: Any) -> set[str]:
    """Return the names that the graphs within a node read, their own ones among them."""
    inner = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return {name for graph in inner for part in graph.node for name in {*part.input, *_inner(part)}}
