"""PyTorch: the weights themselves, for bases that can't be exported. Prediction then needs torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.bundle.runtimes import n_threads
from luban.errors import CorruptBundle, LubanError, MissingExtra, install
from luban.files import read_json, write_json
from luban.records import Encoded

if TYPE_CHECKING:
    from torch import nn

    from luban.models.heads import TaskModel

WEIGHTS = "model.safetensors"
BODY = "body.json"
_MEND = "make the bundle again with `luban run`"


def write(model: TaskModel, folder: Path, example: Encoded) -> dict[str, Any]:
    """Write `model.safetensors` and the body's configuration; the facts tell how to build the head.

    Raises:
        LubanError: the head is of a kind that this runtime can't build again.
    """
    from safetensors.torch import save_file

    from luban.models.body import body_to_json

    head = _describe(model.head)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    write_json(folder / BODY, body_to_json(model.body))
    return {
        "kind": "torch",
        "file": WEIGHTS,
        "inputs": ["input_ids", "attention_mask"],
        "output": "logits",
        "head": head,
    }


class TorchRunner:
    """A model in torch."""

    def __init__(self, model: TaskModel, threads: int) -> None:
        self._model = model
        self.threads = threads

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return the logits; see `luban.bundle.runtimes.Runner`."""
        import torch

        with torch.inference_mode():
            logits = self._model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        found: np.ndarray = logits.float().numpy()
        return found


def open(folder: Path, facts: Mapping[str, Any], threads: int) -> TorchRunner:
    """Return a runner for the weights in a folder. Torch's threads are the process's: `threads` sets them for all.

    Raises:
        CorruptBundle: the weights are not this model's.
        MissingExtra: torch or transformers is not installed.
    """
    try:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from luban.models.body import body_from_config
        from luban.models.heads import TaskModel
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"this bundle runs on torch, and {error.name} is not installed", hint=install("train")
        ) from error
    body: Any = body_from_config(read_json(folder / BODY))
    head = _build(facts["head"], body.config.hidden_size)
    model = TaskModel(body, head)
    try:
        weights = load_file(folder / WEIGHTS)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    except (KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CorruptBundle(f"{folder / WEIGHTS} holds other weights: {reason}", hint=_MEND) from error
    if threads := threads or (n_threads(facts, 0) if facts.get("threads") else 0):
        torch.set_num_threads(threads)
    return TorchRunner(model.eval(), torch.get_num_threads())


def _describe(head: nn.Module) -> dict[str, Any]:
    """Return what `_build` needs to make a head that gives the same logits."""
    from luban.models.heads import PooledHead, TokenHead

    if isinstance(head, PooledHead):
        return {"kind": "pooled", "n_outputs": head.output.out_features, "pooling": head.pooling}
    if isinstance(head, TokenHead):  # its kin learn more than logits need, such as steps between tags
        return {"kind": "token", "n_outputs": head.output.out_features}
    raise LubanError(
        f"the runtime torch can't keep a head of the kind {type(head).__name__}", hint="set `export.runtime: onnx`"
    )


def _build(facts: Mapping[str, Any], width: int) -> nn.Module:
    from luban.models.heads import PooledHead, TokenHead

    if facts["kind"] == "pooled":
        return PooledHead(width, facts["n_outputs"], dropout=0.0, pooling=facts["pooling"])
    return TokenHead(width, facts["n_outputs"], dropout=0.0)
