"""Bodies of every family: loaded from safetensors as transformers has them, and their parts found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import LubanError
from luban.models.base import (
    BaseFolder,
    body_from_config,
    body_to_json,
    embeddings,
    find,
    layers,
    load_body,
    words,
)

RandomBody = Callable[[str], Any]
IDS = torch.arange(4, 20).reshape(2, 8)


@pytest.fixture
def saved(family: str, random_body: RandomBody, tmp_path: Path, tiny: BaseFolder) -> tuple[Any, BaseFolder]:
    """Return a body and the folder that transformers saved it to."""
    body = random_body(family)
    body.save_pretrained(tmp_path / "base")
    shutil.copyfile(tiny.folder / "tokenizer.json", tmp_path / "base" / "tokenizer.json")
    return body, find("base", tmp_path)


def test_loads_as_it_was_saved(saved: tuple[Any, BaseFolder]) -> None:
    body, base = saved
    loaded = load_body(base)
    assert not loaded.training
    assert not [name for name, _ in loaded.named_parameters() if "pooler" in name]
    mask = torch.ones_like(IDS)
    with torch.inference_mode():
        wanted = body(input_ids=IDS, attention_mask=mask).last_hidden_state
        found = loaded(input_ids=IDS, attention_mask=mask).last_hidden_state
    assert torch.equal(found, wanted)
    assert base.facts.parameters == sum(part.numel() for part in loaded.parameters())
    assert 36 <= base.facts.max_length <= 40


def test_rebuilt_from_its_configuration(saved: tuple[Any, BaseFolder]) -> None:
    _, base = saved
    body = load_body(base, dropout=0.25)
    again = body_from_config(json.loads(json.dumps(body_to_json(body))))
    assert {name: part.shape for name, part in again.state_dict().items()} == {
        name: part.shape for name, part in body.state_dict().items()
    }
    again.load_state_dict(body.state_dict())
    with torch.inference_mode():
        wanted, found = (each(input_ids=IDS, attention_mask=torch.ones_like(IDS))[0] for each in (body, again))
    assert torch.equal(found, wanted)


def test_parts(saved: tuple[Any, BaseFolder], family: str) -> None:
    body = load_body(saved[1])
    found = layers(body)
    assert len(found) == (1 if family == "albert" else 2)  # ALBERT runs one layer twice
    assert words(body).weight.shape[0] == 60
    inside = [id(part) for part in embeddings(body).parameters()] + [
        id(p) for layer in found for p in layer.parameters()
    ]
    assert id(words(body).weight) in inside
    assert len(inside) == len(set(inside))
    outside = [name for name, part in body.named_parameters() if id(part) not in inside]
    known = (
        "embeddings_project",
        "embedding_hidden_mapping_in",
        "rel_embeddings",
        "relative_attention_bias",
        "final_norm",
    )
    assert all(any(part in name for part in known) for name in outside), outside


def test_padding_changes_nothing(saved: tuple[Any, BaseFolder]) -> None:
    body = load_body(saved[1])
    pad = int(body.config.pad_token_id)  # type: ignore[union-attr, arg-type]
    longer = torch.cat([IDS, torch.full((2, 5), pad)], dim=1)
    mask = (torch.arange(13) < 8).long().expand(2, 13)
    with torch.inference_mode():
        short = body(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
        long = body(input_ids=longer, attention_mask=mask).last_hidden_state[:, :8]
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-4)


def test_body_without_layers() -> None:
    class Flat(torch.nn.Module):
        class config:
            num_hidden_layers = 3

    with pytest.raises(LubanError, match="no list of 3 layers"):
        layers(Flat())
