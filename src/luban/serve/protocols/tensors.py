"""Texts and answers as tensors, for protocols that know nothing else.

In goes `text`, BYTES (N) or (N, 1), UTF-8. Out come, by the task: `label` BYTES (N), empty where none is probable
enough, or `labels` BYTES (N), each a JSON list; `score` FP32 (N); `scores` FP32 (N, K), in the order of the model's
labels; or `spans` BYTES (N), each a JSON list. Legend: N texts, K labels.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from luban.errors import BadRequest, did_you_mean
from luban.serve.schemas import DECIMALS, one

if TYPE_CHECKING:
    from luban.records import Prediction
    from luban.tasks import Task

INPUT = "text"
BYTES, FP32 = "BYTES", "FP32"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any]
    """Texts or numbers, the last axis fastest."""

    def raw(self) -> bytes:
        """Return the values as the protocol's bytes: little endian, and each text behind its length."""
        if self.datatype == FP32:
            return np.asarray(self.values, "<f4").tobytes()
        encoded = [value.encode() for value in self.values]
        return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a tensor before there is one."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 stands for the number of texts."""


def inputs() -> tuple[Kind, ...]:
    """Return what a model takes."""
    return (Kind(INPUT, BYTES, (-1,)),)


def outputs(task: Task) -> tuple[Kind, ...]:
    """Return what a model gives."""
    if task.per_token:
        return (Kind("spans", BYTES, (-1,)),)
    first = "labels" if getattr(task, "multi_label", False) else "label"
    return Kind(first, BYTES, (-1,)), Kind("score", FP32, (-1,)), Kind("scores", FP32, (-1, len(task.labels)))


def chosen(task: Task, names: Sequence[str]) -> tuple[Kind, ...]:
    """Return the outputs that were asked for by name; without names all but `scores`, which may be long.

    Raises:
        BadRequest: there is no such output.
    """
    known = {kind.name: kind for kind in outputs(task)}
    if not names:
        return tuple(kind for kind in known.values() if kind.name != "scores")
    if unknown := [name for name in names if name not in known]:
        raise BadRequest(f"outputs: got {unknown[0]!r}", hint=did_you_mean(unknown[0], known))
    return tuple(known[name] for name in names)


def tensor(kind: Kind, predictions: Sequence[Prediction], task: Task) -> Tensor:
    """Return one output of all answers."""
    shape = (len(predictions), *kind.shape[1:])
    values = [value for found in predictions for value in _VALUES[kind.name](found, task)]
    return Tensor(kind.name, kind.datatype, shape, values)


def check_input(name: str, datatype: str, shape: Sequence[int], n_inputs: int) -> int:
    """Return how many texts a request has.

    Raises:
        BadRequest: it is not one tensor of texts.
    """
    if n_inputs != 1:
        raise BadRequest(f"inputs: got {n_inputs}, wanted one", hint=f"{INPUT!r}, {BYTES}, shape [texts]")
    if name != INPUT or datatype != BYTES:
        raise BadRequest(f"inputs: got {name!r} of {datatype}, wanted {INPUT!r} of {BYTES}")
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1) or shape[0] < 0:
        raise BadRequest(f"inputs: got the shape {list(shape)}, wanted [texts] or [texts, 1]")
    return int(shape[0])


def texts_of(values: Sequence[str | bytes], n_texts: int) -> list[str]:
    """Return texts.

    Raises:
        BadRequest: there are more or fewer than the shape says, or one is no UTF-8.
    """
    if len(values) != n_texts:
        raise BadRequest(f"inputs: got {len(values)} texts, and a shape that says {n_texts}")
    try:
        return [value if isinstance(value, str) else value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise BadRequest(f"inputs: a text is no UTF-8: {error}") from None


def unpacked(raw: bytes | memoryview) -> list[bytes]:
    """Return the texts of a tensor in the protocol's bytes.

    Raises:
        BadRequest: a length goes beyond their end.
    """
    found, place = [], 0
    while place < len(raw):
        if place + 4 > len(raw) or place + 4 + (length := _LENGTH.unpack_from(raw, place)[0]) > len(raw):
            raise BadRequest(f"inputs: byte {place} of the raw tensor: no length, or one beyond its end")
        found.append(bytes(raw[place + 4 : place + 4 + length]))
        place += 4 + length
    return found


def _spans(found: Prediction, task: Task) -> tuple[str]:
    spans = msgspec.to_builtins(one(found, task, scores=False).spans)
    return (json.dumps(spans, ensure_ascii=False),)


_VALUES: dict[str, Callable[[Prediction, Task], Sequence[Any]]] = {
    "label": lambda found, task: (found.label or "",),
    "labels": lambda found, task: (json.dumps(found.labels, ensure_ascii=False),),
    "score": lambda found, task: (round(found.score, DECIMALS),),
    "scores": lambda found, task: [round(found.scores[label], DECIMALS) for label in task.labels],
    "spans": _spans,
}
