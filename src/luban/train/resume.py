"""States from which training goes on bit for bit: trained weights, optimiser, average, and where in the plan it stands.

Random numbers need no saving: orders, masks and torch's generator are seeded from (seed, step) at every step.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from luban.errors import CorruptBundle, NotFound
from luban.files import new_folder, read_json, seal, sweep, verify, write_json, written
from luban.models.checkpoint import write_tensors
from luban.train.optimise import Average

STATE = "state.json"
TENSORS = "state.safetensors"
KEPT = 2


@dataclass(frozen=True)
class Place:
    """Where training stands between two steps."""

    step: int = 0
    """Optimiser steps done."""
    best: float | None = None
    """The best validation score so far, with its sign turned where lower is better."""
    without_better: int = 0
    """Measurements since the best one."""
    rate_scale: float = 1.0
    """What every learning rate is multiplied by: below 1 after a divergence."""
    first_loss: float | None = None
    """Mean loss of the first steps, by which a later one is judged to have exploded."""


def save(
    folder: Path, place: Place, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None, plan: str
) -> None:
    """Write the state of one moment, whole or not at all, and drop all but the newest few.

    Args:
        folder: where states are kept.
        place: where training stands.
        model: the model that is trained.
        optimizer: with its moments.
        average: the moving average of the weights, if there is one.
        plan: digest of everything that decides what the steps do; only the same plan is resumed.

    Raises:
        RegistryError: it could not be written; those that are there stay.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {f"model|{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            tensors[f"optimizer|{names[id(parameter)]}|{key}"] = torch.as_tensor(value)
    if average is not None:
        for parameter, value in zip(average.parameters, average.values, strict=True):
            tensors[f"average|{names[id(parameter)]}"] = value
    state = folder / f"step-{place.step:09d}"
    with written(state), new_folder(state, replace=True) as aside:
        write_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, aside / TENSORS)
        write_json(aside / STATE, asdict(place))
        seal(aside, {"kind": "training state", "plan": plan})
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path, plan: str) -> Path | None:
    """Return the newest state that verifies and belongs to this plan; damaged ones and others are passed over."""
    sweep(folder)
    for state in sorted(folder.glob("step-*"), reverse=True):
        try:
            if verify(state).get("plan") == plan:
                return state
        except (CorruptBundle, NotFound):
            continue
    return None


def load(state: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> Place:
    """Put a state into model, optimiser and average, and return its place."""
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    moments: dict[str, dict[str, torch.Tensor]] = {}
    averages: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for key, tensor in load_file(state / TENSORS).items():
            kind, name, *rest = key.split("|")
            if kind == "model":
                parameters[name].copy_(tensor)
            elif kind == "optimizer":
                moments.setdefault(name, {})[rest[0]] = tensor
            else:
                averages[name] = tensor
    optimizer.state.clear()
    for name, values in moments.items():
        parameter = parameters[name]
        # Counters stay where the optimiser put them: fused kernels want them beside the weights.
        optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in values.items()}
    if average is not None:
        names = {id(parameter): name for name, parameter in parameters.items()}
        average.values = [averages[names[id(p)]].to(p.device) for p in average.parameters]
    return Place(**read_json(state / STATE))
