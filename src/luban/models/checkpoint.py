"""A checkpoint: torch weights, and beside them everything needed to build the model again. Sealed; never pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import CorruptBundle, RegistryError
from luban.files import new_folder, read_json, seal, verify, write_json, written
from luban.models.body import body_from_config, body_to_json
from luban.models.facts import BaseFacts
from luban.models.processor import Processor
from luban.records import Checkpoint

if TYPE_CHECKING:
    import torch

    from luban.models.heads import TaskModel

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Parts:
    """What a checkpoint says beside its weights."""

    task: Mapping[str, Any]
    """`kind`, `options`, `labels`; `facts` that decoding needs; `early`: what an early head's weights don't tell."""
    base: BaseFacts
    processor: Processor


def save(model: TaskModel, parts: Parts, folder: Path) -> Checkpoint:
    """Write a sealed checkpoint, in place of one that is there.

    Raises:
        RegistryError: it could not be written; the one that is there stays.
    """
    from luban.models.heads import EARLY

    early = {} if model.early is None else {EARLY: model.early.to_json()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with written(folder), new_folder(folder, replace=True) as aside:
        write_tensors(tensors, aside / WEIGHTS)
        write_json(aside / "body.json", body_to_json(model.body))
        write_json(aside / "base.json", asdict(parts.base))
        write_json(aside / "task.json", {**parts.task, **early})
        parts.processor.to_dir(aside)
        digest = seal(aside, {"kind": "checkpoint"})
    return Checkpoint(folder, digest)


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        RegistryError: it could not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise RegistryError(f"{path} can't be written: {error}", hint="look after the disk, and its space") from error


def read_parts(folder: Path) -> Parts:
    """Read what stands beside the weights; no torch."""
    base = read_json(folder / "base.json")
    task = read_json(folder / "task.json")
    try:
        facts = BaseFacts(**{**base, "languages": tuple(base["languages"])})
    except (TypeError, KeyError) as error:
        raise CorruptBundle(f"{folder / 'base.json'} can't be read: {error}", hint="train again") from error
    return Parts(task, facts, Processor.from_dir(folder))


def load(folder: Path, make_head: Callable[[Parts, int], torch.nn.Module]) -> tuple[TaskModel, Parts]:
    """Verify a checkpoint and return its model, in evaluation mode, and its parts.

    Args:
        folder: the checkpoint.
        make_head: builds the head's layers from the parts and the body's width; `luban.tasks.make_head` does.

    Raises:
        NotFound: there is no checkpoint.
        CorruptBundle: a file was changed, or the weights are not this model's.
    """
    from safetensors.torch import load_file

    from luban.models.heads import TaskModel

    verify(folder)
    parts = read_parts(folder)
    body = body_from_config(read_json(folder / "body.json"))
    config: Any = body.config
    model = TaskModel(body, make_head(parts, config.hidden_size))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise CorruptBundle(f"{folder / WEIGHTS} holds other weights: {error}", hint="train again") from error
    return model.eval(), parts
