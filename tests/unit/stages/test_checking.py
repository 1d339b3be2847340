"""What `luban check` says that training will need, against what processes were measured to need."""

from __future__ import annotations

from typing import Any

import pytest

from luban.project.schema import DataSection, Plugin, Project, TrainSection
from luban.stages.checking import memory_bytes

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522}
E5 = {**MINILM, "num_hidden_layers": 12, "vocab_size": 250037}
WEIGHTS = {6: 91_000_000, 12: 471_000_000}


def project(max_length: int, **train: Any) -> Project:
    kind = Plugin(kind="classify")
    return Project(
        name="a", task=kind, base="b", max_length=max_length, data=DataSection(train="c"), train=TrainSection(**train)
    )


def needed(config: dict[str, int], max_length: int, **train: Any) -> float:
    return memory_bytes(project(max_length, **train), config, WEIGHTS[config["num_hidden_layers"]])


@pytest.mark.parametrize(
    ("config", "max_length", "measured_mb"),
    [(MINILM, 64, 1854), (MINILM, 256, 4097), (E5, 64, 2577), (E5, 224, 7659)],
    ids=["minilm 64", "minilm 256", "e5 64", "e5 224"],
)
def test_the_estimate_is_near_what_was_measured(config: dict[str, int], max_length: int, measured_mb: float) -> None:
    """The highest resident memory of `luban train` in batches of 32, bf16, frozen embeddings, two cores."""
    assert 0.9 * measured_mb < needed(config, max_length) / 1e6 < 1.25 * measured_mb


def test_what_is_not_trained_costs_less() -> None:
    assert needed(E5, 64, freeze="base") < needed(E5, 64) < needed(E5, 64, freeze="nothing")
    assert needed(E5, 224, batch_tokens=1024) < needed(E5, 224)
    assert needed(E5, 224, batch_size=4) < needed(E5, 224)
