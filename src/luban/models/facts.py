"""What Luban knows of a base: the three files it must hold, its prefix and pooling, its window, its licence.

A base is a folder with `config.json`, `tokenizer.json` and weights in safetensors (one file, or shards with an index).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from luban.errors import LubanError, Problem, ProjectError
from luban.files import digest_file, digest_json, read_json

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POOLING = "1_Pooling/config.json"
SENTENCE = "config_sentence_transformers.json"
CARD = "README.md"

KEPT = re.compile(
    r"(config|tokenizer|tokenizer_config|modules|sentence_bert_config|config_sentence_transformers|1_Pooling/config"
    r"|model\.safetensors\.index)\.json|model(-\d{5}-of-\d{5})?\.safetensors|README\.md"
)
"""Names of files that are taken from a package or a hub; nothing else is even downloaded."""

MAX_HEADER_BYTES = 100 * 2**20
MAX_CARD_BYTES = 2**17
_SHARD = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
_HEADS = re.compile(r"(^|\.)(pooler|cls|lm_head|classifier|vocab_\w+|qa_outputs|position_ids)(\.|$)")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.ckpt", "tf_model.h5", "flax_model.msgpack")
# Their position embeddings begin after the padding token's own, so as many rows are never used.
_SHIFTED = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "camembert",
    "mpnet",
    "xmod",
    "data2vec-text",
}
_DEFAULT_WINDOW = 512


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a run, a checkpoint and a bundle tell of the base they began with."""

    name: str
    """As it stands in the project file, without the revision."""
    revision: str
    """What was had: package and version, or a hub's commit; empty for a folder."""
    digest: str
    """SHA-256 over configuration, tokeniser and weights: equal for equal bases, wherever they came from."""
    prefix: str = ""
    """What the base wants before each text, e.g. `query: `."""
    pooling: str = "mean"
    """How the vectors of a text's tokens become one: `mean`, or `cls` (that of the first token)."""
    max_length: int = _DEFAULT_WINDOW
    """Longest window in tokens, special tokens included."""
    licence: str = ""
    """As the base's own card or package states it; empty where nothing is stated."""
    languages: tuple[str, ...] = ()
    """As the card states them; empty where nothing is stated."""
    parameters: int | None = None
    """Numbers in the body's weights, heads and poolers left out."""
    what: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the form in which the facts stand in base.json."""
        return {**asdict(self), "languages": list(self.languages)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BaseFacts:
        """Return the facts from base.json; keys of later versions are passed over."""
        known = {field.name for field in fields(cls)}
        given = {key: part for key, part in value.items() if key in known}
        return cls(**{**given, "languages": tuple(given.get("languages", ()))})


@dataclass(frozen=True, slots=True)
class BaseFolder:
    """A base on this machine, verified: configuration, tokeniser and safetensors weights are there."""

    folder: Path
    facts: BaseFacts


@dataclass(frozen=True, slots=True)
class BaseListing:
    """One line of `luban bases`."""

    name: str
    what: str
    languages: tuple[str, ...]
    parameters: int
    size_mb: int
    """Of the folder on disk, in millions of bytes."""
    licence: str
    good_for: str
    not_good_for: str
    here: bool
    """It is on this machine already."""
    missing: tuple[str, ...] = ()
    """Packages that its conversion needs and that are not installed."""


def describe(folder: Path, name: str, *, revision: str = "", digests: Mapping[str, str] | None = None) -> BaseFacts:
    """Look into a folder and return what is known of the base in it.

    Args:
        folder: holds `config.json`, `tokenizer.json` and safetensors weights.
        name: what the project calls it; families such as E5 are known by their names.
        revision: goes into the facts as it is.
        digests: SHA-256 of each file where they are known already, e.g. from a manifest.

    Raises:
        ProjectError: something is missing or damaged; every problem is listed.
    """
    problems = list(_problems(folder))
    if problems:
        raise ProjectError(problems, source=f"base {name!r} ({folder})")
    config = read_json(folder / CONFIG)
    sentence = _optional_json(folder / SENTENCE)
    card = _card(folder / CARD)
    languages = card.get("language", [])
    return BaseFacts(
        name=name,
        revision=revision,
        digest=digest(folder, digests),
        prefix=_prefix(name, config, sentence),
        pooling=_pooling(name, config, _optional_json(folder / POOLING)),
        max_length=_window(config),
        licence=str(card.get("license", "")),
        languages=tuple(map(str, languages)) if isinstance(languages, list) else (str(languages),),
        parameters=_count(folder),
        what=str(config.get("model_type", "")),
    )


def digest(folder: Path, digests: Mapping[str, str] | None = None) -> str:
    """Return one SHA-256 over what decides a base's answers: configuration, tokeniser, weights, pooling."""
    names = [
        CONFIG,
        TOKENIZER,
        *weight_files(folder),
        *(name for name in (POOLING, SENTENCE) if (folder / name).is_file()),
    ]
    known = digests or {}
    return digest_json({name: known.get(name) or _digest_once(folder / name) for name in names})


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the weights in a folder: one file, or an index and its shards, sorted."""
    if (folder / WEIGHTS).is_file():
        return (WEIGHTS,)
    if not (folder / INDEX).is_file():
        return ()
    index = read_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        return ()
    return (INDEX, *sorted({str(shard) for shard in shards.values()}))


def header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: tensor name -> dtype, shape, offsets.

    Raises:
        LubanError: the file is not safetensors, or is cut short.
    """
    mend = "download or copy it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise LubanError(f"{path} is not a whole safetensors file ({size} bytes)", hint=mend)
        try:
            tensors = json.loads(file.read(length))
            end = max(
                (tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise LubanError(f"{path} has no safetensors header: {error}", hint=mend) from error
    if size != 8 + length + end:
        raise LubanError(f"{path} has {size} bytes and its header tells of {8 + length + end}", hint=mend)
    tensors.pop("__metadata__", None)
    return dict(tensors)


def _problems(folder: Path) -> Iterator[Problem]:
    """Yield everything that keeps a folder from being a base."""
    try:
        config = read_json(folder / CONFIG)
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            yield Problem(CONFIG, "no `model_type`", "the configuration of a transformers model")
    except LubanError as error:
        yield Problem(CONFIG, error.message, "the configuration of a transformers model")
    if not (folder / TOKENIZER).is_file():
        yield Problem(
            TOKENIZER,
            "no such file",
            "the tokeniser as one JSON file",
            hint='make it: python -c "from transformers import AutoTokenizer as T; '
            "T.from_pretrained('FOLDER').save_pretrained('FOLDER')\"",
        )
    try:
        names = weight_files(folder)
    except LubanError as error:
        yield Problem(INDEX, error.message, "a JSON index of shards")
        return
    if not names:
        yield no_safetensors([path.name for path in folder.iterdir()])
    for name in names:
        if name == INDEX:
            continue
        if not _SHARD.fullmatch(name):
            yield Problem(INDEX, f"a shard called {name!r}", "the name of a .safetensors file in the same folder")
        elif not (folder / name).is_file():
            yield Problem(name, "no such file", f"the shard that {INDEX} names", hint="download or copy it again")
        else:
            try:
                header(folder / name)
            except LubanError as error:
                yield Problem(name, error.message, "a whole safetensors file", hint=error.hint)


def no_safetensors(names: Sequence[str]) -> Problem:
    """Return the problem of a base without safetensors weights, with the mend that fits what it has instead."""
    pickled = [name for name in names if name in _PICKLED or name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5"))]
    if not pickled:
        return Problem(WEIGHTS, "no such file", "weights in safetensors", hint="name the folder that holds them")
    return Problem(
        WEIGHTS,
        f"only {', '.join(sorted(pickled)[:3])}, which can run code when it is opened",
        "weights in safetensors",
        hint='if you trust its source, convert it once, on a machine without secrets: python -c "from transformers '
        "import AutoModel as M, AutoTokenizer as T; M.from_pretrained('SOURCE').save_pretrained('FOLDER'); "
        "T.from_pretrained('SOURCE').save_pretrained('FOLDER')\"; name FOLDER as the base",
    )


def _prefix(name: str, config: Mapping[str, Any], sentence: Mapping[str, Any]) -> str:
    """Return what stands before each text: the folder's own default prompt, else what its family was trained with."""
    prompts, chosen = sentence.get("prompts"), sentence.get("default_prompt_name")
    if isinstance(prompts, dict) and isinstance(prompts.get(chosen), str):
        return str(prompts[chosen])
    # Wang et al. 2022, "Text Embeddings by Weakly-Supervised Contrastive Pre-training": "query: " where texts are
    # features. The instruct models of the family want a sentence of instruction for each task instead.
    e5 = any(_is_family("e5", text) and "instruct" not in text.lower() for text in _names(name, config))
    return "query: " if e5 else ""


def _pooling(name: str, config: Mapping[str, Any], pooling: Mapping[str, Any]) -> str:
    """Return `mean` or `cls`.

    A sentence encoder's folder tells; BGE was trained on the first token. Any other body gets the mean: without a
    sentence objective, the first token of a masked language model holds less than the average does (Reimers and
    Gurevych 2019, "Sentence-BERT", table 1), and a head that is fine-tuned does as well on either.
    """
    if pooling:
        return "cls" if pooling.get("pooling_mode_cls_token") or pooling.get("pooling_mode") == "cls" else "mean"
    return "cls" if any(_is_family("bge", text) for text in _names(name, config)) else "mean"


def _names(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    return (re.split(r"[/:\\]", name.rstrip("/"))[-1], re.split(r"[/\\]", str(config.get("_name_or_path", "")))[-1])


def _is_family(family: str, name: str) -> bool:
    return family in re.split(r"[^a-z0-9]+", name.lower())


def _window(config: Mapping[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return _DEFAULT_WINDOW
    padding = config.get("pad_token_id")
    shift = (padding if isinstance(padding, int) else 1) + 1 if config.get("model_type") in _SHIFTED else 0
    return positions - shift


def _count(folder: Path) -> int:
    shards = [name for name in weight_files(folder) if name != INDEX]
    tensors = [pair for name in shards for pair in header(folder / name).items()]
    return sum(math.prod(tensor["shape"]) for name, tensor in tensors if not _HEADS.search(name))


def _optional_json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _card(path: Path) -> dict[str, Any]:
    """Return the metadata at the head of a model card, every value a string or a list."""
    import yaml

    try:
        text = path.read_bytes()[:MAX_CARD_BYTES].decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return {}
    parts = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        # BaseLoader keeps strings as they are: `no`, for Norwegian, is otherwise False.
        card = yaml.load(parts[1], Loader=yaml.BaseLoader) if parts else {}
    except (yaml.YAMLError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _digest_once(path: Path) -> str:
    state = path.stat()
    return _digest_of(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, changed_ns: int) -> str:
    """Return a file's SHA-256, computed once a process as long as its size and time stay."""
    return digest_file(path)
