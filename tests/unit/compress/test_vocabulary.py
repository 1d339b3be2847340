"""Vocabulary trimming on models: the same answers, fewer token vectors, nothing unknown that was known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from unit.compress.scene import OTHER, STRANGE, Scene

from luban.compress import Candidate, make
from luban.compress.methods.vocabulary import Options, Vocabulary
from luban.errors import LubanError
from luban.models.heads import TaskModel
from luban.models.processor import Processor, ProcessorSettings
from luban.project.schema import Plugin


def rows(vocabulary: str) -> int:
    return len(json.loads(vocabulary)["model"]["vocab"])


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_rows_of_kept_pieces_are_answered_as_before(kind: str, request: pytest.FixtureRequest) -> None:
    scene: Scene = request.getfixturevalue(kind)
    found = Vocabulary(Options(extra=0)).apply(scene.candidate, scene.material)
    assert np.abs(scene.logits(found) - scene.logits(scene.candidate)).max() < 1e-5
    facts = found.facts["vocabulary"]
    assert facts["pieces"] == rows(found.processor.tokenizer_json) < facts["pieces_before"]
    words = found.model.body.get_input_embeddings()  # type: ignore[operator]
    assert words.num_embeddings == facts["pieces"] == found.model.body.config.vocab_size  # type: ignore[union-attr]


def test_unlabelled_rows_need_their_pieces_too(classify: Scene) -> None:
    with_them = Vocabulary(Options(extra=0)).apply(classify.candidate, classify.material)
    without = Vocabulary(Options(extra=0)).apply(classify.candidate, replace(classify.material, unlabelled=()))
    assert "weather" in with_them.processor.tokenizer_json
    assert with_them.facts["vocabulary"]["needed"] > without.facts["vocabulary"]["needed"]
    encoded = [candidate.processor.encode_texts(OTHER) for candidate in (classify.candidate, with_them)]
    assert np.array_equal(encoded[0].lengths, encoded[1].lengths)


def test_what_was_cut_is_spelled(classify: Scene) -> None:
    found = Vocabulary(Options(extra=0)).apply(classify.candidate, classify.material)
    before, after = (candidate.processor.encode_texts([STRANGE[0]]) for candidate in (classify.candidate, found))
    unknown = found.processor.encode_texts(["☃"]).ids[1]
    assert len(before.ids) == 3 and len(after.ids) == 2 + len(STRANGE[0])
    assert unknown not in after.ids


def test_pieces_held_rarely_can_go(classify: Scene) -> None:
    few = Vocabulary(Options(extra=0, least=13)).apply(classify.candidate, classify.material)
    all_ = Vocabulary(Options(extra=0)).apply(classify.candidate, classify.material)
    assert few.facts["vocabulary"]["pieces"] < all_.facts["vocabulary"]["pieces"]


def test_it_follows_factorised_token_vectors(classify: Scene) -> None:
    options = {"embeddings": 8, "recover_epochs": 0.0}
    thin = make(Plugin(kind="factorise", options=options)).apply(classify.candidate, classify.material)
    found = Vocabulary(Options(extra=0)).apply(thin, classify.material)
    assert np.abs(classify.logits(found) - classify.logits(thin)).max() < 1e-5
    assert set(found.facts) == {"factorise", "vocabulary"}


def test_nothing_to_cut_is_an_error(classify: Scene) -> None:
    found = Vocabulary(Options(extra=0)).apply(classify.candidate, classify.material)
    with pytest.raises(LubanError, match=r"all [\d,]+ pieces would stay"):
        Vocabulary(Options(extra=0)).apply(found, classify.material)


@pytest.mark.parametrize(
    "family", ["roberta", "xlm-roberta", "modernbert", "deberta-v2", "albert", "electra"], indirect=True
)
def test_families_keep_their_special_tokens(
    family: str, random_body: Callable[[str], Any], classify: Scene, tmp_path: Path
) -> None:
    """Byte pieces and merges, padding at 1, a mask beyond the model's own pieces, and rows that no token has."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.!?0123456789", "Ġ"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, "th", "an", "en", "Ġs", "Ġa", "oo", "ow", "ll"]
    merges = [("t", "h"), ("a", "n"), ("e", "n"), ("Ġ", "s"), ("Ġ", "a"), ("o", "o"), ("o", "w"), ("l", "l")]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    body = random_body(family)
    model = TaskModel(body, classify.material.task.head(32, dropout=0.0, pooling="mean")).eval()
    processor = Processor(ProcessorSettings(max_length=30), tokenizer.to_str())
    table = classify.material.train.filter([text.isascii() for text in classify.material.train["text"].to_pylist()])
    material = replace(classify.material, train=table, unlabelled=(), folder=tmp_path)
    candidate = Candidate(model, processor)
    found = Vocabulary(Options(extra=0)).apply(candidate, material)
    assert found.facts["vocabulary"]["pieces"] < 60
    assert found.processor.pad_id == processor.pad_id == 1
    with torch.inference_mode():
        wanted, got = classify.logits(candidate, table), classify.logits(found, table)
    assert np.abs(wanted - got).max() < 1e-5
