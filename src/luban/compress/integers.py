"""Products of an ONNX graph in integers: what can be quantised, the ranges of activations, and the graph's new nodes.

Legend: T tokens of a sample, I inputs and O outputs of one product.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from luban.bundle.graph import MS, Graph, attributes, make_node

if TYPE_CHECKING:
    import numpy.typing as npt

_SAMPLE = 768
"""Tokens whose activations are kept to compare errors on: more change no choice."""
_TABLE_ROWS = 256
"""A table with fewer rows is left as it is."""
_TABLE_BLOCK = 32
_HALVED_FROM = 1024
_STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""How much of an activation's size goes into the weights, as a power: those of Xiao et al. 2022 and around."""
_WORTH = 0.35
"""An error this much smaller is worth the pass over the activations that smoothing takes: all of them take MiniLM 4% of
its time, and those that are worth it bring most of what all bring."""
_U8 = 255
_FP16_MOST = 65504.0


class Settings(Protocol):
    """What quantising needs of the options."""

    @property
    def how(self) -> str:
        """`static` or `dynamic`: where the ranges of activations come from."""
        ...

    @property
    def per_channel(self) -> bool:
        """One scale an output rather than one a matrix."""
        ...

    @property
    def smooth(self) -> bool:
        """Move part of the activations' size into the weights."""
        ...

    @property
    def reduce_range(self) -> bool:
        """7 bits for weights, for processors whose sums of int8 products overflow."""
        ...


@dataclass(frozen=True)
class Product:
    """A product of activations with weights that the graph stores."""

    name: str
    """That of its layer in the model where it can be told, else the node's."""
    node: Any = field(repr=False)
    source: str
    """The activations."""
    size: int
    """Multiplications a token."""


@dataclass(frozen=True)
class Seen:
    """Activations as they were on real windows."""

    low: np.ndarray
    """(I,) smallest of each channel."""
    high: np.ndarray
    """(I,) largest."""
    sample: np.ndarray
    """(T, I) some of them."""


@dataclass(frozen=True)
class Plan:
    """How the activations of one or more products are quantised."""

    scale: float
    zero: int
    divide: np.ndarray | None = None
    """(I,) what each channel is divided by, and the rows of the weights are multiplied by; None leaves them."""


def products(graph: Graph) -> list[Product]:
    """Return the products that can be quantised, in the graph's order; each has a name of its own."""
    found: list[Product] = []
    names: set[str] = set()
    for node in graph.nodes:
        if node.op_type not in ("MatMul", "Gemm") or node.domain or not graph.is_constant(node.input[1]):
            continue
        given = attributes(node)
        if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            continue
        weight = graph.constant(node.input[1])
        if weight.ndim != 2 or weight.dtype != np.float32 or graph.is_constant(node.input[0]):
            continue
        found.append(Product(_layer(graph, node), node, node.input[0], weight.size))
    # The exporter puts biases of queries, keys and values together and names them no longer: told by what follows.
    for place in reversed(range(len(found))):
        one, after = found[place], found[place + 1].name if place + 1 < len(found) else ""
        name = one.name or (f"before {after}" if after else one.node.name)
        found[place] = replace(one, name=one.node.name if name in names else name)
        names.add(found[place].name)
    return found


def observe(graph: bytes, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Seen]:
    """Run a float graph and return the activations of its products by name; padding is left out where it can be."""
    import onnxruntime

    work = Graph(graph)
    sources = list(dict.fromkeys(product.source for product in products(work)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(work.cut_to(sources), options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    share = -(-_SAMPLE // len(batches))
    lows: dict[str, list[np.ndarray]] = {name: [] for name in sources}
    highs: dict[str, list[np.ndarray]] = {name: [] for name in sources}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in sources}
    for batch in batches:
        real = batch["attention_mask"] > 0
        for name, value in zip(sources, session.run(sources, {key: batch[key] for key in wanted}), strict=True):
            rows = value[real] if value.shape[:-1] == real.shape else value.reshape(-1, value.shape[-1])
            lows[name].append(rows.min(0))
            highs[name].append(rows.max(0))
            places = np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int))
            samples[name].append(rows[places])
    return {
        name: Seen(np.min(lows[name], 0), np.max(highs[name], 0), np.concatenate(samples[name])[:_SAMPLE])
        for name in sources
    }


def plan(graph: Graph, seen: Mapping[str, Seen], settings: Settings) -> dict[str, Plan]:
    """Return how to quantise each product's activations, by the name of these."""
    readers: dict[str, list[Product]] = {}
    for product in products(graph):
        readers.setdefault(product.source, []).append(product)
    return {
        name: _plan(seen[name], np.concatenate([weights(graph, product.node) for product in those], 1), settings)
        for name, those in readers.items()
    }


def quantise(graph: Graph, names: Collection[str], plans: Mapping[str, Plan], settings: Settings) -> None:
    """Multiply in int8: activations in 8 bits without a sign, weights with one, sums in 32, answers in float.

    A bias that follows goes into the same pass.
    """
    chosen = [product for product in products(graph) if product.name in set(names)]
    ready: set[str] = set()
    for product in chosen:
        node, out, how = product.node, product.node.output[0], plans[product.source]
        weight, divided = weights(graph, node), product.source
        before = []
        if how.divide is not None:
            weight = weight * how.divide[:, None]
            divided = f"{product.source}/even"
            if divided not in ready:
                factor = graph.store(f"{divided}/factor", (1 / how.divide).astype(np.float32))
                before.append(make_node("Mul", [product.source, factor], [divided]))
        values, scale = signed(weight, per_channel=settings.per_channel, bits=7 if settings.reduce_range else 8)
        stored = [
            graph.store(f"{out}/weight", values),
            graph.store(f"{out}/scale", scale),
            graph.store(f"{out}/zero", np.zeros(scale.shape, np.int8)),
        ]
        bias, out = _take_bias(graph, node)
        if settings.how == "dynamic":
            new = make_node("DynamicQuantizeMatMul", [divided, *stored, bias], [out], domain=MS)
        else:
            ranges = [f"{divided}/scale", f"{divided}/zero"]
            if divided not in ready:
                graph.store(ranges[0], np.array(how.scale, np.float32))
                graph.store(ranges[1], np.array(how.zero, np.uint8))
                before.append(make_node("QuantizeLinear", [divided, *ranges], [f"{divided}/u8"]))
            inputs = [f"{divided}/u8", stored[0], ranges[0], stored[1], ranges[1], stored[2], bias]
            new = make_node("MatMulIntegerToFloat", inputs, [out], domain=MS)
        ready.add(divided)
        graph.replace(node, [*before, new])


def quantise_weights(graph: Graph, names: Collection[str], bits: Literal[8, 4], block: int) -> None:
    """Store weights in blocks along their inputs, each with a scale; activations are rounded a block at a time, too."""
    for product in [product for product in products(graph) if product.name in set(names)]:
        node, out = product.node, product.node.output[0]
        weight = weights(graph, node).T  # (O, I), as the operator wants it
        n_outputs, n_inputs = weight.shape
        filled = np.pad(weight, ((0, 0), (0, -n_inputs % block))).reshape(n_outputs, -1, block)
        values, scale = blocks(filled, bits)
        given = {"K": n_inputs, "N": n_outputs, "bits": bits, "block_size": block, "accuracy_level": 4}
        inputs = [node.input[0], graph.store(f"{out}/weight", values), graph.store(f"{out}/scale", scale)]
        bias, out = _take_bias(graph, node)
        if bias:
            inputs += ["", "", bias]
        graph.replace(node, [make_node("MatMulNBits", inputs, [out], domain=MS, **given)])


def embeddings(graph: Graph, bits: Literal[8, 4]) -> list[str]:
    """Store tables of which rows are looked up in integers; return their names."""
    found = []
    for node in [node for node in graph.nodes if node.op_type == "Gather"]:
        table, places = node.input[0], node.input[1]
        if attributes(node).get("axis", 0) or not graph.is_constant(table) or graph.is_constant(places):
            continue
        values = graph.constant(table)
        if values.ndim != 2 or values.dtype != np.float32 or len(values) < _TABLE_ROWS or len(graph.readers(table)) > 1:
            continue
        _store_table(graph, node, values, bits)
        found.append(table)
    return found


def halved(graph: Graph, how: str) -> bytes:
    """Store weights in 16 bits; each is widened by a node of its own, which the runtime carries out as it opens."""
    import onnx

    kind = onnx.TensorProto.FLOAT16 if how == "fp16" else onnx.TensorProto.BFLOAT16
    type_ = onnx.helper.tensor_dtype_to_np_dtype(kind)
    casts = []
    for name in graph.constants():
        value = graph.constant(name)
        if value.dtype != np.float32 or value.size < _HALVED_FROM or not graph.readers(name):
            continue
        narrow = (np.clip(value, -_FP16_MOST, _FP16_MOST) if how == "fp16" else value).astype(type_)
        graph.store(f"{name}/half", narrow)
        casts.append(make_node("Cast", [f"{name}/half"], [name], to=int(onnx.TensorProto.FLOAT)))
        graph.drop(name)
    graph.nodes[:0] = casts
    return graph.serialised()


def weights(graph: Graph, node: Any) -> np.ndarray:
    """Return a product's weights (I, O)."""
    stored = graph.constant(node.input[1])
    return stored.T if attributes(node).get("transB") else stored


def signed(weight: np.ndarray, *, per_channel: bool, bits: int) -> tuple[npt.NDArray[np.int8], np.ndarray]:
    """Return weights (I, O) as integers around zero, and their scale, (O,) or ()."""
    largest = np.abs(weight).max(0) if per_channel else np.abs(weight).max()
    limit = 2 ** (bits - 1) - 1
    scale = np.maximum(largest / limit, 1e-12).astype(np.float32)
    return np.clip(np.round(weight / scale), -limit, limit).astype(np.int8), scale


def blocks(weight: np.ndarray, bits: int) -> tuple[npt.NDArray[np.uint8], np.ndarray]:
    """Return weights (O, blocks, block) as integers from 0, and their scales (O, blocks).

    Two of 4 bits share a byte. The weight of the largest size stands at the end of the range that has one step more,
    whatever its sign.
    """
    half = 2 ** (bits - 1)
    place = np.abs(weight).argmax(-1)[..., None]
    scale = (-np.take_along_axis(weight, place, -1) / half).astype(np.float32)
    scale[scale == 0] = 1e-12
    values = np.clip(np.round(weight / scale) + half, 0, 2 * half - 1).astype(np.uint8)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return values, scale[..., 0]


def _plan(seen: Seen, weight: np.ndarray, settings: Settings) -> Plan:
    """Choose the strength of smoothing by the squared error of the product on the sample."""
    plain = Plan(*_range(seen.low, seen.high))
    if not settings.smooth:
        return plain
    exact = seen.sample @ weight
    bits = 7 if settings.reduce_range else 8

    def error(divide: np.ndarray | None, scale: float, zero: int) -> float:
        sample, rows = (seen.sample, weight) if divide is None else (seen.sample / divide, weight * divide[:, None])
        activations = (np.clip(np.round(sample / scale) + zero, 0, _U8) - zero) * np.float32(scale)
        values, scales = signed(rows, per_channel=settings.per_channel, bits=bits)
        return float(np.square(activations @ (values * scales) - exact).mean())

    best, least = plain, error(None, plain.scale, plain.zero) * _WORTH
    sizes = np.maximum(np.maximum(-seen.low, seen.high), 1e-5)
    others = np.maximum(np.abs(weight).max(1), 1e-5)
    for strength in _STRENGTHS:
        divide = sizes**strength / others ** (1 - strength)
        divide = np.maximum(divide / np.exp(np.log(divide).mean()), 1e-3).astype(np.float32)
        scale, zero = _range(seen.low / divide, seen.high / divide)
        if (found := error(divide, scale, zero)) < least:
            best, least = Plan(scale, zero, divide), found
    return best


def _range(low: np.ndarray, high: np.ndarray) -> tuple[float, int]:
    """Return scale and zero point of 8 bits without a sign over a range that holds 0."""
    least, most = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    scale = float(np.float32(max((most - least) / _U8, 1e-9)))
    return scale, int(np.clip(round(-least / scale), 0, _U8))


def _take_bias(graph: Graph, node: Any) -> tuple[str, str]:
    """Return the bias that is added to a product, or nothing, and the name of the sum; the adding node goes away."""
    out = node.output[0]
    if len(node.input) > 2 and node.input[2]:
        return node.input[2], out
    readers = graph.readers(out)
    if len(readers) != 1 or out in graph.outputs:
        return "", out
    (reader,) = readers
    other = next((name for name in reader.input[:2] if name != out), "")
    if not other or not graph.is_constant(other) or graph.constant(other).ndim != 1:
        return "", out
    if graph.constant(other).shape != (weights(graph, node).shape[1],):
        return "", out
    if reader.op_type == "Add":
        graph.nodes.remove(reader)
        return other, reader.output[0]
    if reader.op_type == "BiasGelu":
        # In its form with tanh, which takes less time; what it differs by is far below a step of 8 bits.
        graph.replace(reader, [make_node("FastGelu", [out], reader.output, domain=MS)])
        return other, out
    return "", out


def _layer(graph: Graph, node: Any) -> str:
    """Return the name of a product's layer: that of its weights or its bias, whichever is kept, or nothing."""
    own = [name for name in node.input[1:3] if name.endswith((".weight", ".bias"))]
    added = [name for reader in graph.readers(node.output[0]) for name in reader.input if name.endswith(".bias")]
    return next(iter([*own, *added]), "").rpartition(".")[0]


def _store_table(graph: Graph, node: Any, values: np.ndarray, bits: Literal[8, 4]) -> None:
    import onnx

    table, places, out = node.input[0], node.input[1], node.output[0]
    if bits == 4 and values.shape[1] % _TABLE_BLOCK == 0:
        packed, scale = blocks(values.reshape(len(values), -1, _TABLE_BLOCK), 4)
        inputs = [
            graph.store(f"{table}/packed", packed.reshape(len(values), -1)), places,
            graph.store(f"{table}/scale", scale),
        ]  # fmt: skip
        given = {"bits": 4, "block_size": _TABLE_BLOCK, "gather_axis": 0, "quantize_axis": 1}
        graph.replace(node, [make_node("GatherBlockQuantized", inputs, [out], domain=MS, **given)])
        return
    rows, scale = signed(values.T, per_channel=True, bits=8)
    stored = graph.store(f"{table}/packed", rows.T), graph.store(f"{table}/scale", scale[:, None])
    steps = [f"{out}/{name}" for name in ("packed", "wide", "scale")]
    nodes = [
        make_node("Gather", [stored[0], places], [steps[0]], axis=0),
        make_node("Cast", [steps[0]], [steps[1]], to=int(onnx.TensorProto.FLOAT)),
        make_node("Gather", [stored[1], places], [steps[2]], axis=0),
        make_node("Mul", [steps[1], steps[2]], [out]),
    ]
    graph.replace(node, nodes)
