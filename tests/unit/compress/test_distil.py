"""Distillation: it brings answers nearer to the teacher's, goes on bit for bit, and never ends with worse weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.compress.scene import OTHER, Scene, made, make
from unit.compress.test_average import moved, save

from luban.compress import Candidate, Material, surgery
from luban.compress import make as make_method
from luban.compress.matching import Inside
from luban.compress.methods.distil import Distil, Options, teach
from luban.compress.methods.layers import without
from luban.errors import LubanError
from luban.project.schema import Plugin
from luban.records import Progress


def student(scene: Scene) -> Candidate:
    """Return a model of one layer, that was not taught yet."""
    return replace(scene.candidate, model=without(scene.candidate.model, [0]))


def gap(scene: Scene, candidate: Candidate) -> float:
    return float(np.abs(scene.logits(candidate) - scene.logits(scene.candidate)).mean())


@pytest.mark.parametrize("kind", ["classify", "chunk", "multi-label", "tag", "crf"])
def test_answers_come_nearer(kind: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    scene = made(tmp_path_factory, kind)
    before = student(scene)
    material = scene.with_settings(tmp_path, batch_tokens=100, evaluate_every=5.0)
    options = Options(epochs=5, learning_rate=5e-3, labels=0.0)
    found = Distil(options).apply(before, material)
    assert gap(scene, found) < 0.6 * gap(scene, before)
    facts = found.facts["distil"]
    assert facts["unlabelled"] == len(OTHER)
    assert facts["rows"] == material.train.num_rows + len(OTHER)
    assert "not how many" in facts["not_smaller"]


def test_class_weights_of_training_hold_for_the_labels(classify: Scene, tmp_path: Path) -> None:
    """One row of twelve is `bad`; counted by label, it draws answers to its side."""
    labels = classify.material.train["labels"].to_pylist()
    bad = labels.index(["bad"])
    few = classify.material.train.take([bad, *[row for row, label in enumerate(labels) if label == ["good"]][:11]])
    lean = {}
    for how in ("none", "balanced"):
        material = replace(
            classify.with_settings(tmp_path / how, class_weights=how, evaluate_every=9.0), train=few, unlabelled=()
        )
        before = moved(classify, 1.0)
        model, facts = teach(before, material, Options(epochs=9, learning_rate=5e-3, labels=1.0))
        assert "kept" not in facts, facts
        logits = classify.logits(replace(classify.candidate, model=model), few)
        lean[how] = float((logits[:, 0] - logits[:, 1]).mean())
    assert lean["balanced"] > lean["none"]


def test_unlabelled_rows_alone_teach(classify: Scene, tmp_path: Path) -> None:
    """The rows with labels are two; what is learnt of the others comes from the teacher."""
    texts = classify.material.train["text"].to_pylist()
    few = classify.material.train.take([0, 6])
    material = replace(classify.with_settings(tmp_path, evaluate_every=9.0), train=few, unlabelled=texts)
    before = student(classify)
    model, facts = teach(before, material, Options(epochs=9, learning_rate=5e-3))
    assert facts["unlabelled"] == len(texts)
    assert facts["after"]["accuracy"] >= facts["before"]["accuracy"]
    assert gap(classify, replace(before, model=model)) < 0.5 * gap(classify, before)


@pytest.mark.parametrize("term", ["hidden", "attention"])
def test_the_inside_comes_nearer(term: str, classify: Scene, tmp_path: Path) -> None:
    rows = classify.material.task.encode(classify.material.train, classify.candidate.processor)
    batch = surgery.batches(rows, np.arange(12), 0)[0]
    before = moved(classify, 0.1)

    def distance(candidate: Candidate) -> float:
        model = copy.deepcopy(candidate.model)
        given: dict[str, Any] = {"hidden": 0.0, "attention": 0.0, term: 1.0}
        inside = Inside(model, candidate, classify.candidate, rows.ids, seed=0, **given)
        model(batch["input_ids"], batch["attention_mask"])
        found = inside.loss(batch).item()
        inside.close()
        return found

    assert distance(classify.candidate) < 1e-6
    given: dict[str, Any] = {term: 10.0}
    options = Options(epochs=3, learning_rate=1e-3, **given)
    model, _ = teach(before, classify.with_settings(tmp_path, dropout=0.0), options)
    assert distance(replace(before, model=model)) < 0.8 * distance(before)


def test_a_teacher_of_another_width_and_vocabulary(
    classify: Scene, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    wide = made(tmp_path_factory, "classify", width=48)
    trimmed = make_method(Plugin(kind="vocabulary", options={"extra": 0})).apply(classify.candidate, classify.material)
    folder = save(wide.candidate, wide, tmp_path / "wide")
    options = Options(epochs=4, learning_rate=5e-3, hidden=1.0, attention=1.0, teachers=(folder, folder))
    before = replace(student(classify), model=without(trimmed.model, [0]), processor=trimmed.processor)
    model, _ = teach(before, classify.with_settings(tmp_path / "work"), options)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in before.model.named_parameters()}
    wanted = wide.logits(wide.candidate)
    gaps = [np.abs(classify.logits(replace(before, model=one)) - wanted).mean() for one in (before.model, model)]
    assert gaps[1] < 0.7 * gaps[0]


def test_teachers_that_do_not_belong(classify: Scene, tag: Scene, tmp_path: Path) -> None:
    folder = save(tag.candidate, tag, tmp_path / "tag")
    with pytest.raises(LubanError, match=r"has other labels, or another task"):
        teach(classify.candidate, classify.with_settings(tmp_path), Options(teachers=(folder,)))


def test_the_inside_needs_the_same_pieces(classify: Scene, tmp_path: Path) -> None:
    trimmed = make_method(Plugin(kind="vocabulary", options={"extra": 0})).apply(classify.candidate, classify.material)
    rows = classify.material.train.slice(0, 2).set_column(0, "text", [["blimting", "zorpen"]])
    material = replace(classify.with_settings(tmp_path), train=rows, teacher=trimmed)
    with pytest.raises(LubanError, match=r"2 of the pieces .* not in the teacher's vocabulary\n.*hidden: 0"):
        teach(classify.candidate, material, Options(hidden=1.0))
    teach(classify.candidate, material, Options(epochs=0.5))  # answers alone are matched whatever each reads


class Killed(Exception):
    """Stands for a process that ended in the middle."""


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_a_killed_run_goes_on_bit_for_bit(hidden: float, classify: Scene, tmp_path: Path) -> None:
    options = Options(epochs=3, learning_rate=1e-3, hidden=hidden)
    before = student(classify)

    def material(folder: Path, last: int) -> Material:
        seen: list[int] = []

        def listen(progress: Progress) -> None:
            if progress.step is not None:
                seen.append(progress.step.step)
                if progress.step.step == last:
                    raise Killed

        base = classify.with_settings(folder, save_every_s=1e-9, evaluate_every=1.0)
        return replace(base, on_progress=listen)

    whole, told = teach(before, material(tmp_path / "whole", 0), options)
    for last in (3, 9):
        with pytest.raises(Killed):
            teach(before, material(tmp_path / "killed", last), options)
    again, again_told = teach(before, material(tmp_path / "killed", 0), options)
    assert told == again_told
    found = again.state_dict()
    assert all(torch.equal(part, found[name]) for name, part in whole.state_dict().items())
    assert not [module for module in before.model.modules() if module._forward_hooks]


def test_states_of_other_options_are_not_gone_on_from(classify: Scene, tmp_path: Path) -> None:
    before, material = student(classify), classify.with_settings(tmp_path)
    first, _ = teach(before, material, Options(epochs=1, learning_rate=1e-3))
    other, _ = teach(before, material, Options(epochs=1, learning_rate=2e-3))
    fresh, _ = teach(before, classify.with_settings(tmp_path / "fresh"), Options(epochs=1, learning_rate=2e-3))
    states = [one.state_dict()["head.output.weight"] for one in (first, other, fresh)]
    assert torch.equal(states[1], states[2]) and not torch.equal(states[0], states[1])


def test_worse_weights_are_not_kept(classify: Scene, tmp_path: Path) -> None:
    """Half of the labels are turned round: what is learnt from them alone makes validation rows worse."""
    labels = [["good" if row == ["bad"] else "bad"] for row in classify.material.train["labels"].to_pylist()]
    wrong = classify.material.train.set_column(1, "labels", [labels])
    material = replace(classify.with_settings(tmp_path), train=wrong, unlabelled=())
    model, facts = teach(classify.candidate, material, Options(epochs=6, learning_rate=5e-3, labels=1.0))
    assert "scored better" in facts["kept"]
    assert facts["after"] == facts["before"]
    wanted = classify.candidate.model.state_dict()
    assert all(torch.equal(part, wanted[name]) for name, part in model.state_dict().items())


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_token_vectors_are_trained_only_when_wanted(train_embeddings: bool, classify: Scene, tmp_path: Path) -> None:
    before = student(classify)
    options = Options(epochs=1, learning_rate=1e-3, train_embeddings=train_embeddings)
    model, _ = teach(before, classify.with_settings(tmp_path, freeze="base", freeze_layers=1), options)
    changed = {
        name for name, part in model.state_dict().items() if not torch.equal(part, before.model.state_dict()[name])
    }
    assert ("body.embeddings.word_embeddings.weight" in changed) == train_embeddings
    assert any("encoder.layer.0" in name for name in changed)


def test_what_the_teacher_says_counts_and_not_the_labels(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """The teacher was never trained: with no weight on labels, its answers are all there is to learn."""
    scene = make(tmp_path_factory, "classify", epochs=0)
    before = moved(scene, 0.3)
    options = Options(epochs=6, learning_rate=5e-3, labels=0.0)
    model, _ = teach(before, scene.with_settings(tmp_path, choose_by="-ece", evaluate_every=6.0), options)
    assert gap(scene, replace(before, model=model)) < 0.5 * gap(scene, before)
