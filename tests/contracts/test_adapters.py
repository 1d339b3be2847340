"""What every adapter promises: nothing changes at first, little is trained, and merging leaves a plain body."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from luban.adapters import attach, catalogue, merge
from luban.models.base import BaseFolder, body_from_config, body_to_json, embeddings, layers, load_body

WITHOUT_BIASES = "modernbert"


@dataclass(frozen=True)
class Case:
    """One adapter with options."""

    kind: str
    options: dict[str, Any]


CASES = [
    *(Case(kind, {}) for kind in catalogue),
    Case("lora", {"rank": 2, "alpha": 3.0, "targets": "attention", "dropout": 0.2, "rank_stabilised": True}),
    Case("dora", {"rank": 4, "targets": "attention"}),
    Case("bitfit", {"norms": True}),
]


def batch() -> dict[str, torch.Tensor]:
    """Return ids and mask (3, 9) with padding."""
    ids = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids.where(mask == 1, torch.tensor(0)), "attention_mask": mask}


def answer(body: nn.Module) -> torch.Tensor:
    """Return a body's hidden states (3, 9, 32) at tokens that are no padding."""
    given = batch()
    with torch.no_grad():
        hidden: torch.Tensor = body.eval()(**given).last_hidden_state
    return hidden * given["attention_mask"].unsqueeze(-1)


def train_a_little(body: nn.Module) -> None:
    """Take three large optimiser steps towards a random answer."""
    body.train()
    wanted = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD([part for part in body.parameters() if part.requires_grad], lr=0.5)
    for _ in range(3):
        (body(**batch()).last_hidden_state - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(params=CASES, ids=lambda case: f"{case.kind}-{len(case.options)}")
def case(request: pytest.FixtureRequest) -> Case:
    """Return one adapter of the catalogue with options."""
    chosen: Case = request.param
    return chosen


@pytest.fixture
def attached(case: Case, family: str, random_body: Callable[[str], nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Return a plain body and a copy of it with the adapter attached."""
    plain = random_body(family)
    if case.kind == "bitfit" and family == WITHOUT_BIASES and not case.options:
        pytest.skip("ModernBERT has layer norms without biases, and no other biases: see test_bitfit_without_biases")
    torch.manual_seed(3)
    yield plain, attach(copy.deepcopy(plain), case.kind, case.options)


def test_begins_as_the_plain_body(attached: tuple[nn.Module, nn.Module]) -> None:
    plain, body = attached
    torch.testing.assert_close(answer(body), answer(plain), atol=1e-5, rtol=1e-5)


def test_layers_and_embeddings_are_where_they_were(attached: tuple[nn.Module, nn.Module]) -> None:
    plain, body = attached
    assert type(body) is type(plain)
    assert len(layers(body)) == len(layers(plain))
    assert type(embeddings(body)) is type(embeddings(plain))


def test_trains_then_merges_into_a_plain_body(case: Case, attached: tuple[nn.Module, nn.Module]) -> None:
    plain, body = attached
    before = {name: part.clone() for name, part in body.named_parameters()}
    trained = {name for name, part in body.named_parameters() if part.requires_grad}
    assert trained
    train_a_little(body)
    for name, part in body.named_parameters():
        if name not in trained:
            assert torch.equal(part, before[name]), f"{name} was not to be trained"
    changed = answer(body)
    assert (changed - answer(plain)).abs().max() > 1e-3

    merged = merge(copy.deepcopy(body), case.kind)
    assert [*merged.state_dict()] == [*plain.state_dict()]
    torch.testing.assert_close(answer(merged), changed, atol=1e-5, rtol=1e-4)
    assert body_to_json(merged) == body_to_json(plain)
    again = body_from_config(body_to_json(merged))
    again.load_state_dict(merged.state_dict())
    torch.testing.assert_close(answer(again), changed, atol=1e-5, rtol=1e-4)

    train_a_little(body)  # the body that was copied is still in training
    assert (answer(body) - changed).abs().max() > 1e-4


def share(body: nn.Module) -> float:
    """Return the share of a body's numbers that is trained."""
    parts = list(body.parameters())
    return sum(part.numel() for part in parts if part.requires_grad) / sum(part.numel() for part in parts)


def test_what_each_trains(tiny: BaseFolder) -> None:
    def trained(kind: str, **options: Any) -> set[str]:
        body = attach(load_body(tiny), kind, options)
        assert (share(body) == 1) is (kind == "full")
        return {name for name, part in body.named_parameters() if part.requires_grad}

    assert all(name.endswith(".bias") for name in trained("bitfit"))
    assert {name.rsplit(".", 2)[-2] for name in trained("bitfit", norms=True) if name.endswith("weight")} == {
        "LayerNorm"
    }
    assert len(trained("lora")) == 2 * 2 * 6
    assert len(trained("lora", targets="attention")) == 2 * 2 * 4
    assert len(trained("dora")) == 3 * 2 * 6
    assert not [name for name in trained("lora") if "lora_" not in name]


def test_bitfit_without_biases(random_body: Callable[[str], nn.Module]) -> None:
    with pytest.raises(Exception, match=r"no biases for bitfit.*\n.*norms: true"):
        attach(random_body(WITHOUT_BIASES), "bitfit", {})


def test_same_seed_same_start(tiny: BaseFolder) -> None:
    def start() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return [part for part in attach(load_body(tiny), "lora", {}).parameters() if part.requires_grad]

    assert all(torch.equal(one, other) for one, other in zip(start(), start(), strict=True))
