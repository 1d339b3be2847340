"""The loop: it learns, it resumes bit for bit, and it notices when the loss goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from luban.errors import Diverged
from luban.train import resume
from luban.train.loop import Training

Make = Callable[..., Training]


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(one[name], other[name]) for name in one), "weights differ"


def test_it_learns(training: Make) -> None:
    steps = list(training(epochs=6).steps())
    assert steps[-1].scores is not None
    assert steps[-1].scores["accuracy"] > 0.95
    assert steps[0].loss > 3 * steps[-1].loss
    assert [step.step for step in steps] == list(range(1, steps[-1].n_steps + 1))


def test_same_seed_same_weights(training: Make, tmp_path: Path) -> None:
    one, other = training(tmp_path / "a", epochs=1), training(tmp_path / "b", epochs=1)
    list(one.steps()), list(other.steps())
    assert_same(weights(one), weights(other))
    third = training(tmp_path / "c", epochs=1, seed=14)
    list(third.steps())
    assert any(not torch.equal(a, b) for a, b in zip(weights(one).values(), weights(third).values(), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "adagrad", "adafactor"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_stopped_run_goes_on_bit_for_bit(training: Make, tmp_path: Path, optimizer: str, ema: float) -> None:
    settings = {"epochs": 2, "optimizer": optimizer, "ema": ema, "save_every_s": 1e-9}
    whole = training(tmp_path / "whole", **settings)
    told = list(whole.steps())
    for stop in (1, 13, len(told) - 1):
        folder = tmp_path / f"stopped-{stop}"
        for step in training(folder, **settings).steps():
            if step.step == stop:
                break
        second = training(folder, **settings)
        rest = list(second.steps())
        assert rest[0].step in (stop, stop + 1)
        assert "goes on from step" in rest[0].note
        assert_same(weights(whole), weights(second))
        assert rest[-1].scores == told[-1].scores


def test_a_damaged_state_is_passed_over(training: Make, tmp_path: Path) -> None:
    settings = {"epochs": 1, "save_every_s": 1e-9}
    whole = training(tmp_path / "whole", **settings)
    list(whole.steps())
    for step in training(tmp_path / "cut", **settings).steps():
        if step.step == 6:
            break
    newest = sorted((tmp_path / "cut" / "states").glob("step-*"))[-1]
    data = bytearray((newest / resume.TENSORS).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / resume.TENSORS).write_bytes(data)
    second = training(tmp_path / "cut", **settings)
    assert next(iter(second.steps())).step < 7
    list(second.steps())
    assert_same(weights(whole), weights(second))


def test_another_plan_is_not_resumed(training: Make, tmp_path: Path) -> None:
    for step in training(epochs=1, save_every_s=1e-9).steps():
        if step.step == 5:
            break
    other = training(epochs=1)
    other.plan = "another"
    assert next(iter(other.steps())).step == 1


def test_a_budget_of_tokens_changes_only_rounding(training: Make, tmp_path: Path) -> None:
    one = list(training(tmp_path / "a", epochs=1, dropout=0.0).steps())
    cut = list(training(tmp_path / "b", epochs=1, dropout=0.0, batch_tokens=24).steps())
    assert [a.loss for a in one] == pytest.approx([b.loss for b in cut], rel=2e-3)


def test_a_loss_that_goes_wrong_once_is_recovered_from(training: Make) -> None:
    run = training(epochs=2)
    real, calls = run._loss, [0]

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls[0] += 1
        return real(batch) * (math.nan if calls[0] == 15 else 1.0)

    run._loss = loss  # type: ignore[method-assign]
    steps = list(run.steps())
    told = [step.note for step in steps if "went back" in step.note]
    assert len(told) == 1
    assert "loss is nan" in told[0]
    assert steps[-1].step == steps[-1].n_steps
    assert all(math.isfinite(step.loss) for step in steps)


def test_a_loss_that_keeps_going_wrong_is_given_up(training: Make) -> None:
    run = training(epochs=1)
    run._loss = lambda batch: run.model(batch["input_ids"], batch["attention_mask"]).sum() * math.nan  # type: ignore[method-assign]
    with pytest.raises(Diverged, match=r"step 1: the loss is nan") as caught:
        list(run.steps())
    assert "learning_rate" in caught.value.hint


def test_a_rate_far_too_high_is_noticed(training: Make) -> None:
    with pytest.raises(Diverged, match=r"risen|norm|loss is"):
        list(training(epochs=20, learning_rate=50.0, optimizer="sgd", warmup=0.0, max_grad_norm=1e9).steps())


def test_patience_stops_early(training: Make) -> None:
    steps = list(training(epochs=20, patience=2, learning_rate=1e-2).steps())
    assert "stopped early" in steps[-1].note
    assert steps[-1].step < steps[-1].n_steps


def test_freezing_leaves_weights_alone(training: Make, tmp_path: Path) -> None:
    for freeze, layers in (("embeddings", 1), ("base", 0)):
        run = training(tmp_path / freeze, epochs=1, freeze=freeze, freeze_layers=layers)
        before = weights(run)
        list(run.steps())
        changed = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
        assert any(name.startswith("head.") for name in changed)
        assert not any("embeddings" in name for name in changed)
        assert not any(name.startswith("body.") for name in changed) or freeze == "embeddings"


def test_layers_further_down_learn_more_slowly(training: Make) -> None:
    run = training(layer_decay=0.5, head_learning_rate=1e-2, learning_rate=1e-3)
    scales = sorted({group["scale"] for group in run.optimizer.param_groups})
    assert scales == pytest.approx([0.25, 0.5, 1.0, 10.0])


def test_the_average_is_what_is_measured_and_kept(training: Make) -> None:
    run = training(epochs=1, ema=0.99)
    seen: list[torch.Tensor] = []
    run.keep = lambda model: seen.append(model.head.output.weight.detach().clone())  # type: ignore[union-attr, operator]
    list(run.steps())
    assert seen and not torch.equal(seen[-1], run.model.head.output.weight)  # type: ignore[union-attr]
