"""A graph that labels, opened so that it gives vectors too: what its last layer reads becomes a second output.

No second model, and no second session: one graph gives both, and computes the last layer besides, which is next to
nothing. What a vector means is what the model was trained for: texts with one label are near each other.

Only what a graph's file says of its nodes is read, without the package onnx. The second output is added by appending
to the file's bytes: a protocol buffer that stands twice is merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.bundle.runtimes import n_threads, onnx

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner

_GRAPH, _NODE, _OUTPUT, _NAME = 7, 1, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND = 1, 2, 4
"""Numbers of fields in onnx.proto: of ModelProto, GraphProto, ValueInfoProto and NodeProto."""
_LAYERS = ("Gemm", "MatMulNBits")
"""A last layer that reads one vector a window, as numbers that are comparable: float, and not quantised."""


def open(folder: Path, facts: Mapping[str, Any], threads: int) -> tuple[Runner, Runner | None]:
    """Open a graph, and return what gives its logits, and what gives its vectors: None where it has none.

    Raises:
        CorruptBundle, MissingExtra: as the runtime `onnx`.
    """
    path = folder / onnx.GRAPH
    with onnx.opening(str(path)):
        graph = path.read_bytes()
        name = pooled(graph)
        threads = n_threads(facts, threads)
        if name is None:
            return onnx.open(folder, facts, threads), None
        logits = onnx.OnnxRunner(onnx.session(graph + output(name), threads), threads)
        return logits, logits.giving(name)


def pooled(graph: bytes) -> str | None:
    """Return the name of the value that the last layer reads; None where that is no vector a window."""
    for number, node in _parts(memoryview(graph), _GRAPH):
        if number != _NODE:
            continue
        inputs, outputs, kind = [], [], ""
        for field, value in _fields(node):
            if field == _NODE_INPUT:
                inputs.append(bytes(value).decode())
            elif field == _NODE_OUTPUT:
                outputs.append(bytes(value).decode())
            elif field == _NODE_KIND:
                kind = bytes(value).decode()
        if onnx.OUTPUT in outputs:
            return inputs[0] if kind in _LAYERS else None
    return None


def _parts(data: memoryview, wanted: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of every message that stands in a field of this number."""
    for number, value in _fields(data):
        if number == wanted:
            yield from _fields(value)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and bytes of a message's fields that have a length; others are stepped over.

    Raises:
        ValueError: it is no message.
    """
    place = 0
    while place < len(data):
        tag, place = _number(data, place)
        kind = tag & 7
        if kind == 0:
            _, place = _number(data, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, place = _number(data, place)
            if place + length > len(data):
                raise ValueError("a field goes beyond the end")
            yield tag >> 3, data[place : place + length]
            place += length
        else:
            raise ValueError(f"a field of kind {kind}")


def _number(data: memoryview, place: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("a number goes beyond the end")
        byte = data[place]
        found |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return found, place


def output(name: str) -> bytes:
    """Return what makes a value an output of a graph, when it is appended to the graph's bytes."""
    value = _field(_NAME, name.encode())
    return _field(_GRAPH, _field(_OUTPUT, value))


def _field(number: int, value: bytes) -> bytes:
    length, told = len(value), bytearray([number << 3 | 2])
    while length > 127:
        told.append(length & 127 | 128)
        length >>= 7
    told.append(length)
    return bytes(told) + value
