"""Early exit in one graph: windows whose early answer is sure are done, and the layers above run for the others alone.

A model with an early head is exported with three outputs: the logits, the early logits, and the hidden states that both
are made of. `fold` leaves one: it puts the layers above into a branch, which reads the rows that are not sure. Whatever
opens an ONNX graph then runs it, and a batch costs what its windows are hard. A window whose sureness is within the
last bits of the bound can go either way in other company.

Legend: B windows, U of them unsure, L tokens in the longest, K labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from luban.bundle.graph import INPUTS, Graph, make_node
from luban.errors import LubanError

LOGITS, EARLY_LOGITS, EARLY_HIDDEN = "logits", "early_logits", "early_hidden"
OUTPUTS = (LOGITS, EARLY_LOGITS, EARLY_HIDDEN)
_READ = (*INPUTS, EARLY_HIDDEN)
"""What the layers above begin with."""
_LEAVE_OUT = "leave early-exit out of the plan"
_SMALL = 64
"""Numbers in a constant that both parts may need, such as a shape; weights that both need say that the cut failed."""


def fold(data: bytes, *, sure: float, temperature: float) -> bytes:
    """Return a graph that answers a window early where it is sure, and otherwise as the graph that was given.

    Args:
        data: a graph with `OUTPUTS`; its products may be integers by now.
        sure: probability of the likeliest label from which an early answer is taken.
        temperature: what early logits are divided by before that probability is made of them.

    Raises:
        LubanError: the graph has not these outputs, or its layers above can't be told from those below.
    """
    from onnx import TensorProto

    graph = Graph(data)
    if missing := set(OUTPUTS) - set(graph.outputs):
        raise LubanError(
            f"early-exit: the graph has no output {min(missing)}: it was exported without an early head",
            hint="export the model with its early head",
        )
    below, above = _needed(graph, EARLY_LOGITS), _needed(graph, LOGITS, begin=(EARLY_HIDDEN,))
    if any(attribute.g.node or attribute.graphs for node in above for attribute in node.attribute):
        raise LubanError("early-exit: the layers above have branches of their own", hint=_LEAVE_OUT)
    branch = _above(graph, below, above)
    scale = graph.store("early/temperature", np.array([temperature], np.float32))
    wanted = graph.store("early/sure", np.array([sure], np.float32))
    axis = graph.store("early/axis", np.array([1]))
    graph.nodes[:] = [
        *below,
        make_node("Div", [EARLY_LOGITS, scale], ["early/scaled"]),
        make_node("Softmax", ["early/scaled"], ["early/shares"], axis=-1),
        make_node("ReduceMax", ["early/shares", axis], ["early/top"], keepdims=0),
        make_node("Less", ["early/top", wanted], ["early/unsure"]),
        make_node("Cast", ["early/unsure"], ["early/counted"], to=TensorProto.INT32),
        make_node("ReduceMax", ["early/counted"], ["early/most"], keepdims=0),
        make_node("Cast", ["early/most"], ["early/any"], to=TensorProto.BOOL),
        make_node("If", ["early/any"], [LOGITS], then_branch=branch, else_branch=_spared()),
    ]
    kept = [value for value in graph.model.graph.output if value.name == LOGITS]
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(kept)
    return graph.serialised()


def _needed(graph: Graph, value: str, begin: tuple[str, ...] = ()) -> list[Any]:
    """Return the nodes that compute a value, in the graph's order, from what is computed already."""
    wanted, found = {value}, []
    for node in reversed(graph.nodes):
        made = set(node.output) & wanted
        if made - set(begin):
            found.append(node)
            wanted |= set(node.input)
    return found[::-1]


def _above(graph: Graph, below: list[Any], above: list[Any]) -> Any:
    """Return the branch for unsure windows; the constants that it alone needs move into it.

    Raises:
        LubanError: it needs weights of the layers below.
    """
    from onnx import GraphProto, helper, numpy_helper

    made = {name for node in above for name in node.output if name}
    names = {name: f"above/{name}" for name in (*made, *_READ)}
    branch = GraphProto(name="above")
    rows = graph.store("early/rows", np.array([-1]))
    branch.node.extend([
        make_node("NonZero", ["early/unsure"], ["above/found"]),
        make_node("Reshape", ["above/found", rows], ["above/rows"]),
        *(make_node("Gather", [name, "above/rows"], [names[name]], axis=0) for name in _READ),
    ])  # fmt: skip
    for node in above:
        added = branch.node.add()
        added.CopyFrom(node)
        for place, name in enumerate(node.input):
            added.input[place] = names.get(name, name)
        for place, name in enumerate(node.output):
            added.output[place] = names.get(name, name)
        added.name = f"above/{node.name}"
    last = graph.store("early/last", np.array([-1]))
    branch.node.extend([
        make_node("Unsqueeze", ["above/rows", last], ["above/places"]),
        make_node("ScatterND", [EARLY_LOGITS, "above/places", names[LOGITS]], ["above/out"]),
    ])  # fmt: skip
    branch.output.append(helper.make_empty_tensor_value_info("above/out"))
    read_below = {name for node in below for name in node.input}
    for name in sorted({name for node in above for name in node.input if name and graph.is_constant(name)}):
        if name not in read_below:
            branch.initializer.append(numpy_helper.from_array(graph.constant(name), name))
            graph.drop(name)
        elif graph.constant(name).size > _SMALL:
            raise LubanError(f"early-exit: the layers above need {name} of the layers below", hint=_LEAVE_OUT)
    return branch


def _spared() -> Any:
    """Return the branch for passes in which every window is sure."""
    from onnx import GraphProto, helper

    branch = GraphProto(name="spared")
    branch.node.append(make_node("Identity", [EARLY_LOGITS], ["spared/out"]))
    branch.output.append(helper.make_empty_tensor_value_info("spared/out"))
    return branch
