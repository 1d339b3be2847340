"""Shapes beyond the configuration: told, put back, saved and loaded, and refused where they don't fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from luban.errors import LubanError
from luban.models import shapes
from luban.models.base import body_from_config, body_to_json

IDS = torch.arange(4, 20).reshape(2, 8)
WORDS, UP, QUERY = "embeddings.word_embeddings", "encoder.layer.1.intermediate.dense", "encoder.layer.0.attention.self"


@pytest.fixture
def body(random_body: Callable[[str], Any]) -> Any:
    """Return a BERT with narrow embeddings, one thin feed-forward matrix and two heads of four in its first layer."""
    found = random_body("bert")
    told = {
        "resized": {
            **{f"{QUERY}.{name}": [32, 16] for name in ("query", "key", "value")},
            "encoder.layer.0.attention.output.dense": [16, 32],
        },
        "low_rank": {WORDS: [60, 5, 32], UP: [32, 7, 64]},
    }
    shapes.put(found, told)
    torch.manual_seed(1)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return found.eval()


def test_a_plain_body_tells_of_none(random_body: Callable[[str], Any]) -> None:
    plain = random_body("bert")
    assert shapes.of(plain) == {}
    assert shapes.KEY not in body_to_json(plain)


def test_rebuilt_from_json_it_answers_the_same(body: Any) -> None:
    told = json.loads(json.dumps(body_to_json(body)))
    again = body_from_config(told)
    again.load_state_dict(body.state_dict())
    with torch.inference_mode():
        wanted, found = (one(input_ids=IDS).last_hidden_state for one in (body, again))
    assert torch.equal(wanted, found)
    assert torch.isfinite(wanted).all()
    assert again.get_submodule(WORDS).sizes() == [60, 5, 32]
    assert again.get_submodule(UP).up.bias is not None
    assert sum(part.numel() for part in again.parameters()) == sum(part.numel() for part in body.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"twisted": {WORDS: [1, 2]}},
        {"resized": {WORDS: [60, 32]}},
        {"resized": {"encoder.layer.9.dense": [1, 2]}},
        {"low_rank": {"encoder": [1, 2, 3]}},
        {"low_rank": {UP: [32, 64]}},
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_an_error(wrong: Any, random_body: Callable[[str], Any]) -> None:
    told = {**body_to_json(random_body("bert")), shapes.KEY: wrong}
    with pytest.raises(LubanError, match=r"not the configuration.*\n.*restore body\.json"):
        body_from_config(told)
