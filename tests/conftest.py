"""Fixtures that reach real data and real weights, and say so where they are absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import registries

from luban.models import base as bases
from luban.models import tiny as tiny_bases

if TYPE_CHECKING:
    from unit.bundle.made import Made

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """Return the folder of labelled data sets, beside the checkout or where LUBAN_DATA_SETS says."""
    folder = Path(os.environ.get("LUBAN_DATA_SETS") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set LUBAN_DATA_SETS to the folder that holds them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _graphs_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let servers that tests start keep their graphs in a folder of the tests."""
    os.environ["LUBAN_GRAPHS"] = str(tmp_path_factory.getbasetemp() / "graphs")


@pytest.fixture(scope="session")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a sealed bundle of a random model that gives a text one label; it is not to be changed."""
    from unit.bundle.made import made

    return made(tmp_path_factory, "classify", "onnx")


@pytest.fixture(scope="session")
def minilm() -> bases.BaseFolder:
    """Return the English default base, fetched into Luban's own cache where it isn't there yet."""
    return bases.find("minilm-l6", ROOT)


@pytest.fixture(scope="session")
def e5() -> bases.BaseFolder:
    """Return the Chinese default base, fetched into Luban's own cache where it isn't there yet."""
    return bases.find("e5-small-multilingual", ROOT)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bases.BaseFolder:
    """Return a tiny random base whose tokens are characters, English and Chinese; it is not to be changed."""
    return tiny_bases.make(tmp_path_factory.mktemp("bases") / "tiny")


ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "mpnet": {"pad_token_id": 1},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "camembert": {"pad_token_id": 1},
    "ernie": {},
}
_SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
    "sep_token_id": 3,
}  # fmt: skip


@pytest.fixture(params=[*ENCODERS])
def family(request: pytest.FixtureRequest) -> str:
    """Return the name of a family of encoders, each in turn."""
    return str(request.param)


@pytest.fixture
def random_body() -> Callable[[str], Any]:
    """Return what makes a tiny random body of a family: 2 layers, width 32, 60 tokens."""

    def make(family: str) -> Any:
        import torch

        body = bases.body_from_config({"model_type": family, **_SIZES, **ENCODERS[family]})
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in body.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.ndim == 1))
        return body

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Run a PostgreSQL while the tests last, and return the folder of its socket."""
    if registries.postgres_program("initdb") is None:
        pytest.skip("PostgreSQL is not here: apt-get install postgresql")
    with registries.postgres() as socket:
        yield socket


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return where a registry can be made: a folder, or an empty schema of PostgreSQL, by the test's `kind`."""
    if kind == "sqlite":
        return str(tmp_path / "registry")
    socket = request.getfixturevalue("postgres")
    name = f"luban_{secrets.token_hex(6)}"
    url = f"postgresql://postgres@/postgres?host={socket}"
    registries.execute(url, [f"CREATE SCHEMA {name}"])
    return f"{url}&options=-csearch_path%3D{name}"
