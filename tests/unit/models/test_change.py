"""What training changed of a base is found again, or told to be more than a low rank."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from luban.adapters import attach, low_rank, merge
from luban.errors import LubanError, PluginError
from luban.models.base import BaseFolder, load_body
from luban.models.change import Trunk, changes, put

IDS = torch.arange(5, 14)[None].repeat(2, 1)


@pytest.fixture
def base(tiny: BaseFolder) -> nn.Module:
    return load_body(tiny)


def trained(base: nn.Module, scale: float = 0.05, **options: object) -> nn.Module:
    """Return a copy of a body with a random adapter merged into it."""
    body = attach(copy.deepcopy(base), "lora", options)
    torch.manual_seed(3)
    with torch.no_grad():
        for part in body.parameters():
            if part.requires_grad:
                part.copy_(torch.randn_like(part) * scale)
    return merge(body, "lora").eval()


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_a_merged_adapter_is_found_again(base: nn.Module, scale: float, targets: str) -> None:
    options = {"rank": 3, "alpha": 7.0, "targets": targets, "rank_stabilised": True}
    body = trained(base, scale, **options)
    found = changes(body, base, low_rank(base, "lora", options))
    assert {(down.shape[1], up.shape[0]) for down, up in found.values()} == {(3, 3)}
    with torch.inference_mode():
        mask = torch.ones_like(IDS)
        wanted, got = Trunk(body)(IDS, mask), Trunk(put(copy.deepcopy(base), found))(IDS, mask)
        plain = Trunk(base)(IDS, mask)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - plain).abs().max() > 1e-4


def test_nothing_changed_is_a_rank_of_zeros(base: nn.Module) -> None:
    found = changes(copy.deepcopy(base), base, low_rank(base, "lora", {}))
    assert len(found) == 12
    assert all(down.shape[1] == 1 and not down.any() and not up.any() for down, up in found.values())
    assert changes(copy.deepcopy(base), base, ()) == {}


def test_layers_of_lower_rank_are_filled_up(base: nn.Module) -> None:
    body, layers = copy.deepcopy(base), low_rank(base, "lora", {})
    with torch.no_grad():
        for rank, path in enumerate(layers[:3]):
            weight = body.get_parameter(f"{path}.weight")
            weight += torch.randn(len(weight), rank) @ torch.randn(rank, weight.shape[1]) * 0.1
    found = changes(body, base, layers)
    assert {up.shape[0] for _, up in found.values()} == {2}
    assert [int(up.any(1).sum()) for _, up in found.values()][:4] == [0, 1, 2, 0]


def test_what_can_not_be_shared_says_why(base: nn.Module) -> None:
    layers = low_rank(base, "lora", {})
    body = copy.deepcopy(base)
    with torch.no_grad():
        body.get_parameter(f"{layers[0]}.bias").add_(1e-3)
    with pytest.raises(LubanError, match=rf"1 of its weights are not the base's, {layers[0]}\.bias.*\n.*kind: lora"):
        changes(body, base, layers)
    with torch.no_grad():
        body.get_parameter(f"{layers[0]}.bias").copy_(base.get_parameter(f"{layers[0]}.bias"))
        weight = body.get_parameter(f"{layers[0]}.weight")
        weight += torch.randn_like(weight) * 1e-3
    with pytest.raises(LubanError, match=rf"{layers[0]}\.weight changed in \d+ directions of 32"):
        changes(body, base, layers)
    for kind in ("full", "dora", "bitfit"):
        with pytest.raises(PluginError, match=f"the adapter {kind} changes the base's own weights"):
            low_rank(base, kind, {})
