"""Bases in folders: what is known of them, and what is wrong with them, all at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luban.errors import LubanError, ProjectError
from luban.models import tiny as tiny_bases
from luban.models.base import BaseFacts, BaseFolder, body_from_config, body_to_json, find, load_body
from luban.models.facts import describe, digest


@pytest.fixture
def mine(tiny: BaseFolder, tmp_path: Path) -> Path:
    """Return a folder as a user has it: configuration, tokeniser, weights."""
    folder = tmp_path / "bases" / "mine"
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copyfile(tiny.folder / name, folder / name)
    return folder


def change(folder: Path, **values: Any) -> None:
    """Change keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def write(folder: Path, name: str, value: Any) -> None:
    """Write a JSON file into a folder."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def problems(folder: Path) -> dict[str, str]:
    """Return place -> message of what is wrong with a folder."""
    with pytest.raises(ProjectError) as caught:
        find(str(folder), folder)
    return {problem.where: str(problem) for problem in caught.value.problems}


def test_relative_and_absolute_folders(mine: Path, tmp_path: Path, tiny: BaseFolder) -> None:
    relative, absolute = find("bases/mine", tmp_path), find(str(mine), Path("/"))
    assert relative.folder == absolute.folder == mine
    assert relative.facts.digest == absolute.facts.digest == tiny.facts.digest
    assert relative.facts.name == "bases/mine"
    assert relative.facts.parameters == sum(part.numel() for part in load_body(relative).parameters())


def test_facts_survive_json(tiny: BaseFolder) -> None:
    value = json.loads(json.dumps(tiny.facts.to_json()))
    assert BaseFacts.from_json({**value, "of_a_later_version": 1}) == tiny.facts


def test_digest_follows_what_decides_the_answers(mine: Path) -> None:
    before = digest(mine)
    (mine / "README.md").write_text("words")
    assert digest(mine) == before
    change(mine, hidden_dropout_prob=0.2)
    assert digest(mine) != before


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    found = problems(tmp_path)
    assert set(found) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert "pytorch_model.bin, which can run code" in found["model.safetensors"]
    assert "save_pretrained" in found["model.safetensors"]
    assert "AutoTokenizer" in found["tokenizer.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "bytes and its header tells of"),
        (lambda data: data[:4], "not a whole safetensors file"),
        (lambda data: b"\xff" * 8 + data[8:], "not a whole safetensors file"),
        (lambda data: data[:8] + b"[" + data[9:], "no safetensors header"),
        (lambda data: b"", "not a whole safetensors file"),
    ],
)
def test_damaged_weights(mine: Path, damage: Any, message: str) -> None:
    path = mine / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert message in problems(mine)["model.safetensors"]


def test_shards(mine: Path) -> None:
    weights = load_file(mine / "model.safetensors")
    whole = find(str(mine), mine).facts
    halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    places = {}
    for number, half in enumerate(halves, start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(half, mine / name, metadata={"format": "pt"})
        places |= dict.fromkeys(half, name)
    (mine / "model.safetensors").unlink()
    write(mine, "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    found = find(str(mine), mine)
    assert found.facts.parameters == whole.parameters
    for name, tensor in load_body(found).state_dict().items():
        assert torch.equal(tensor, weights[name])
    (mine / "model-00002-of-00002.safetensors").unlink()
    assert list(problems(mine)) == ["model-00002-of-00002.safetensors"]
    write(mine, "model.safetensors.index.json", {"weight_map": {"a": "../../elsewhere.safetensors"}})
    assert "../../elsewhere" in problems(mine)["model.safetensors.index.json"]


@pytest.mark.parametrize(
    "base",
    ["minilm", "no-such", "./nothing/here", "../x/y", "/nowhere/at/all", "hf:onlyname", "hf:../..", "xx:a/b", ""],
)
def test_unknown_names(base: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"base: got .*wanted a name that `luban bases` lists") as caught:
        find(base, tmp_path / "project")
    assert repr(base) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "files", "prefix", "pooling"),
    [
        ("plain", {}, "", "mean"),
        ("multilingual-e5-base", {}, "query: ", "mean"),
        ("e5-mistral-instruct", {}, "", "mean"),
        ("some5", {}, "", "mean"),
        ("bge-small-zh-v1.5", {}, "", "cls"),
        ("bge-pooled", {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}, "", "mean"),
        ("gte", {"1_Pooling/config.json": {"pooling_mode_cls_token": True}}, "", "cls"),
        ("newer", {"1_Pooling/config.json": {"pooling_mode": "cls"}}, "", "cls"),
        (
            "named",
            {"config_sentence_transformers.json": {"prompts": {"q": "ask: "}, "default_prompt_name": "q"}},
            "ask: ",
            "mean",
        ),
        (
            "unset",
            {"config_sentence_transformers.json": {"prompts": {"q": "ask: "}, "default_prompt_name": None}},
            "",
            "mean",
        ),
    ],
)
def test_prefix_and_pooling_are_known(mine: Path, name: str, files: dict[str, Any], prefix: str, pooling: str) -> None:
    for path, value in files.items():
        write(mine, path, value)
    facts = describe(mine, f"hf:team/{name}")
    assert (facts.prefix, facts.pooling) == (prefix, pooling)
    change(mine, _name_or_path=f"team/{name}")
    facts = describe(mine, "models/renamed")
    assert (facts.prefix, facts.pooling) == (prefix, pooling)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "modernbert", "max_position_embeddings": 8192}, 8192),
        ({"max_position_embeddings": None}, 512),
    ],
)
def test_window(mine: Path, config: dict[str, Any], window: int) -> None:
    change(mine, **config)
    assert describe(mine, "mine").max_length == window


@pytest.mark.parametrize(
    ("card", "licence", "languages"),
    [
        ("---\nlicense: mit\nlanguage: zh\n---\ntext", "mit", ("zh",)),
        ("---\r\nlanguage:\r\n  - en\r\n  - no\r\n---\r\n", "", ("en", "no")),
        ("no front matter", "", ()),
        ("---\nlicense: [unclosed\n---\n", "", ()),
        ("---\n- a list\n---\n", "", ()),
    ],
)
def test_card(mine: Path, card: str, licence: str, languages: tuple[str, ...]) -> None:
    (mine / "README.md").write_bytes(card.encode())
    facts = describe(mine, "mine")
    assert (facts.licence, facts.languages) == (licence, languages)


def test_half_precision_is_raised_to_single(mine: Path) -> None:
    weights = load_file(mine / "model.safetensors")
    save_file(
        {name: part.half() for name, part in weights.items()}, mine / "model.safetensors", metadata={"format": "pt"}
    )
    change(mine, torch_dtype="float16")
    body = load_body(find(str(mine), mine))
    assert {part.dtype for part in body.parameters()} == {torch.float32}


def test_dropout_of_all_layers(tiny: BaseFolder) -> None:
    probabilities = {
        module.p for module in load_body(tiny, dropout=0.3).modules() if isinstance(module, torch.nn.Dropout)
    }
    assert probabilities == {0.3}


def test_weights_saved_under_a_head_are_found(mine: Path) -> None:
    weights = load_file(mine / "model.safetensors")
    renamed = {f"bert.{name}": part for name, part in weights.items()}
    heads = {"cls.predictions.bias": torch.zeros(3), "bert.pooler.dense.weight": torch.zeros(2, 2)}
    save_file({**renamed, **heads}, mine / "model.safetensors", metadata={"format": "pt"})
    found = find(str(mine), mine)
    for name, tensor in load_body(found).state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert found.facts.parameters == sum(part.numel() for part in weights.values())


def test_weights_that_do_not_fit_are_refused(mine: Path) -> None:
    weights = load_file(mine / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    save_file({name: part for name, part in weights.items() if name != lost}, mine / "model.safetensors")
    with pytest.raises(LubanError, match=rf"lack {lost}"):
        load_body(find(str(mine), mine))
    save_file(weights, mine / "model.safetensors")
    change(mine, num_hidden_layers=1)
    with pytest.raises(LubanError, match=r"hold, beyond the configuration, encoder\.layer\.1.* and 13 more"):
        load_body(find(str(mine), mine))
    change(mine, num_hidden_layers=2, hidden_size=64)
    with pytest.raises(LubanError, match="must belong together"):
        load_body(find(str(mine), mine))


@pytest.mark.parametrize(
    "config", [{"model_type": "gpt2"}, {"model_type": "t5"}, {"model_type": "bert", "is_decoder": True}]
)
def test_no_encoder(mine: Path, config: dict[str, Any]) -> None:
    change(mine, **config)
    with pytest.raises(LubanError, match="which is no encoder of text"):
        load_body(find(str(mine), mine))


def test_code_of_a_model_is_never_run(mine: Path) -> None:
    (mine / "modeling_trap.py").write_text("raise SystemExit('code of a model was run')")
    change(mine, model_type="trap", auto_map={"AutoConfig": "modeling_trap.C", "AutoModel": "modeling_trap.M"})
    with pytest.raises(LubanError, match=r"no model that the installed transformers has code for"):
        load_body(find(str(mine), mine))
    change(mine, model_type="bert")  # transformers' own code does, whatever the folder offers
    assert type(load_body(find(str(mine), mine))).__module__.startswith("transformers.")


def test_config_alone_rebuilds_the_body(tiny: BaseFolder) -> None:
    body = load_body(tiny, dropout=0.2)
    value = json.loads(json.dumps(body_to_json(body)))
    assert str(tiny.folder) not in json.dumps(value) and "transformers_version" not in value
    again = body_from_config(value)
    assert body_to_json(again) == value
    again.load_state_dict(body.state_dict())
    ids = torch.arange(5, 20)[None]
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        assert torch.equal(again(ids, mask).last_hidden_state, body(ids, mask).last_hidden_state)


@pytest.mark.parametrize("value", [{}, {"model_type": "no-such"}, {"model_type": "bert", "hidden_size": "wide"}])
def test_config_of_no_body(value: dict[str, Any]) -> None:
    with pytest.raises(LubanError, match="not the configuration of an encoder"):
        body_from_config(value)


def test_random_weights_do_not_disturb_others(tiny: BaseFolder) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    load_body(tiny)
    assert torch.equal(torch.rand(3), wanted)


def test_family_by_folder_name(tmp_path: Path) -> None:
    made = tiny_bases.make(tmp_path / "bge-tiny-zh")
    assert find("bge-tiny-zh", tmp_path).facts.pooling == "cls"
    assert made.facts.pooling == "mean"
