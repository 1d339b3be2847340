"""Quantising a graph: what becomes smaller, what stays as it was, and what the facts tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.bundle.made import Made, made, model_of

from luban.bundle import runtimes
from luban.bundle.graph import Graph
from luban.bundle.runtimes.onnx import GRAPH, runner
from luban.compress import integers, make
from luban.errors import LubanError
from luban.models import base as bases
from luban.models.heads import PooledHead, TaskModel
from luban.models.processor import Processor, ProcessorSettings
from luban.models.windows import pad
from luban.project.schema import Plugin
from luban.records import Encoded

INTEGERS = [
    {"how": "static"}, {"how": "dynamic"}, {"how": "weights"}, {"how": "weights", "bits": 4, "block": 16},
    {"how": "static", "per_channel": False}, {"how": "static", "reduce_range": True},
]  # fmt: skip
HALVES = [{"how": "fp16"}, {"how": "bf16"}]


def run(graph: bytes) -> Any:
    return runner(graph, 1)


def quantised(graph: bytes, rows: Encoded, **options: Any) -> tuple[bytes, dict[str, Any]]:
    found: tuple[bytes, dict[str, Any]] = make(Plugin(kind="quantise", options=options)).apply(graph, rows, run)
    return found


def kinds(graph: bytes) -> list[str]:
    return [node.op_type for node in Graph(graph).nodes]


@pytest.fixture(params=["classify", "tag"])
def it(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a bundle of a tiny random model for each task."""
    return made(tmp_path_factory, request.param, "onnx")


@pytest.fixture
def graph(it: Made) -> bytes:
    """Return its graph."""
    return (it.folder / GRAPH).read_bytes()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Encoded]:
    """Return the graph of a random model with a vocabulary worth storing in integers, and rows for it."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    sizes = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    body = bases.body_from_config({"model_type": "bert", "intermediate_size": 128, **sizes})
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.ndim == 1))
    head = PooledHead(64, 3, dropout=0.0, pooling="mean")
    model = TaskModel(body, head).eval()
    lengths = np.random.default_rng(0).integers(3, 30, 60)
    ids = np.random.default_rng(1).integers(5, 500, lengths.sum()).astype(np.int32)
    rows = Encoded(ids, np.concatenate([[0], np.cumsum(lengths)]), np.arange(60), 60)
    everything = pad(rows, np.arange(60), 0)
    with torch.no_grad():  # labels in balance, or a changed logit would change no answer
        logits = model(torch.from_numpy(everything["input_ids"]), torch.from_numpy(everything["attention_mask"]))
        head.output.bias -= logits.mean(0)
    runtimes.write("onnx", model, folder, rows)
    return (folder / GRAPH).read_bytes(), rows


def logits(graph: bytes, rows: Encoded, batches: list[np.ndarray]) -> list[np.ndarray]:
    found, opened = [], run(graph)
    for windows in batches:
        batch = pad(rows, windows, 0)
        got = opened.run(batch["input_ids"], batch["attention_mask"])
        found += [part[:length] for part, length in zip(got, rows.lengths[windows], strict=True)]
    return found


@pytest.mark.parametrize("options", [*INTEGERS, *HALVES], ids=str)
def test_answers_stay_near_and_the_facts_tell_how_near(graph: bytes, it: Made, options: dict[str, Any]) -> None:
    small, facts = quantised(graph, it.rows, **options)
    everything = [np.array([window]) for window in range(len(it.rows))]
    wanted = np.concatenate([part.reshape(-1, it.task.n_outputs) for part in logits(graph, it.rows, everything)])
    got = np.concatenate([part.reshape(-1, it.task.n_outputs) for part in logits(small, it.rows, everything)])
    noise = np.square(got - wanted).mean() / wanted.var()
    assert 0 < noise < 0.05
    assert facts["noise"] == pytest.approx(noise, rel=0.5)
    assert facts["bytes_before"] == len(graph) and facts["bytes_after"] == len(small)


@pytest.mark.parametrize("options", [*INTEGERS, *HALVES], ids=str)
def test_the_same_graph_gives_the_same_bytes(graph: bytes, it: Made, options: dict[str, Any]) -> None:
    first, second = (quantised(graph, it.rows, **options) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("options", "share"), [({}, 0.3), ({"how": "weights", "bits": 4}, 0.25), ({"how": "bf16"}, 0.55)]
)
def test_files_are_smaller(wide: tuple[bytes, Encoded], options: dict[str, Any], share: float) -> None:
    graph, rows = wide
    rest = 20_000  # nodes and positions, which are most of so small a graph
    assert len(quantised(graph, rows, max_disagreement=1.0, **options)[0]) - rest < share * len(graph)


def test_products_are_in_integers_and_the_head_in_float(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    small, facts = quantised(graph, rows, max_disagreement=1.0)
    assert facts["kept"] == ["head.output"]
    assert kinds(small).count("MatMulIntegerToFloat") == facts["operators"] == 8
    assert "MatMul" not in kinds(small)
    assert kinds(quantised(graph, rows, how="dynamic", max_disagreement=1.0)[0]).count("DynamicQuantizeMatMul") == 8


def test_a_static_answer_depends_on_its_own_text_alone(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    alone, together = [np.array([window]) for window in range(60)], [np.arange(60)]

    def apart(how: str) -> float:
        small = quantised(graph, rows, how=how, max_disagreement=1.0)[0]
        parts = zip(logits(small, rows, alone), logits(small, rows, together), strict=True)
        return max(float(np.abs(one - other).max()) for one, other in parts)

    assert apart("static") < 1e-5 < apart("dynamic")


def test_the_table_is_stored_in_integers(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    for bits, kind, width in ((8, "int8", 64), (4, "uint8", 32)):
        small, facts = quantised(graph, rows, embeddings=bits, max_disagreement=1.0)
        (table,) = [name for name in Graph(small).constants() if name.endswith("word_embeddings.weight/packed")]
        stored = Graph(small).constant(table)
        assert stored.dtype == np.dtype(kind) and stored.shape == (500, width) and facts["embeddings"] == bits
    whole = Graph(quantised(graph, rows, embeddings=0, max_disagreement=1.0)[0])
    assert whole.constant("body.embeddings.word_embeddings.weight").dtype == np.float32


def test_operators_stay_in_float_by_name(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    name = "body.encoder.layer.1.intermediate.dense"
    small, facts = quantised(graph, rows, keep=(name,))
    assert facts["kept"] == [name, "head.output"]
    assert kinds(small).count("MatMul") == 1
    with pytest.raises(LubanError, match=r"'layer\.9', which is no operator"):
        quantised(graph, rows, keep=("layer.9",))


def test_the_operators_that_hurt_stay_in_float(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    spoilt = Graph(graph)
    worst = next(product for product in integers.products(spoilt) if product.name.endswith("layer.1.output.dense"))
    # A large weight of an input that is always 0 changes no answer; one scale for all of them loses the others.
    weight, bias = spoilt.constant(worst.node.input[1]).copy(), "body.encoder.layer.1.intermediate.dense.bias"
    weight[3], off = 100.0, np.where(np.arange(128) == 3, np.float32(-80), spoilt.constant(bias))
    spoilt.store(worst.node.input[1], weight)
    spoilt.store(bias, off)
    options = {"per_channel": False, "smooth": False, "max_disagreement": 0.0, "keep": 0.3}
    _, facts = quantised(spoilt.serialised(), rows, **options)
    assert worst.name in facts["kept"]
    assert max(facts["sensitivity"], key=facts["sensitivity"].get) == worst.name
    _, all_of_them = quantised(spoilt.serialised(), rows, **{**options, "keep": 0.0})
    assert all_of_them["noise"] > 10 * facts["noise"]


def test_smoothing_evens_out_channels_that_stand_out(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    uneven = Graph(graph)
    for product in integers.products(uneven):
        if product.name.endswith("layer.0.intermediate.dense"):
            scale = np.ones((64, 1), np.float32)
            scale[5] = 1 / 60
            uneven.store(product.node.input[1], uneven.constant(product.node.input[1]) * scale)
            norm = uneven.maker(product.source)
            assert norm is not None
            uneven.store(norm.input[1], uneven.constant(norm.input[1]) / scale[:, 0])
    noise = [
        quantised(uneven.serialised(), rows, smooth=smooth, max_disagreement=1.0)[1]["noise"]
        for smooth in (True, False)
    ]
    assert noise[0] < noise[1] / 2


def test_a_graph_is_quantised_once(wide: tuple[bytes, Encoded]) -> None:
    graph, rows = wide
    small = Graph(quantised(graph, rows, max_disagreement=1.0)[0])
    head = next(node for node in small.nodes if node.op_type == "Gemm")
    names = [product.name for product in integers.products(small)]
    assert names == ["head.output"]
    integers.quantise_weights(small, names, 8, 32)
    assert head not in small.nodes
    with pytest.raises(LubanError, match="quantised before"):
        quantised(small.serialised(), rows)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(LubanError, match="bits: 4 with how: static"):
        make(Plugin(kind="quantise", options={"bits": 4}))


def test_no_example_is_refused(graph: bytes, it: Made) -> None:
    none = Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int64), 0)
    with pytest.raises(LubanError, match="no example windows"):
        quantised(graph, none)


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "modernbert", "albert"], indirect=True)
def test_families_of_encoders(family: str, random_body: Callable[[str], Any], tmp_path: Path) -> None:
    model = TaskModel(random_body(family), PooledHead(32, 5, dropout=0.1, pooling="mean")).eval()
    lengths = np.random.default_rng(0).integers(3, 38, 40)
    ids = np.random.default_rng(1).integers(5, 60, lengths.sum()).astype(np.int32)
    rows = Encoded(ids, np.concatenate([[0], np.cumsum(lengths)]), np.arange(40), 40)
    runtimes.write("onnx", model, tmp_path, rows)
    _, facts = quantised((tmp_path / GRAPH).read_bytes(), rows, max_disagreement=1.0)
    assert facts["operators"] >= 8
    assert facts["noise"] < 0.05


def test_a_real_model_is_four_times_smaller_and_answers_alike(
    minilm: bases.BaseFolder, data_sets: Path, tmp_path: Path
) -> None:
    from luban.tasks import make as make_task

    lines = (data_sets / "banking77" / "train.jsonl").read_text("utf-8").splitlines()[::100]
    texts = [line.split('"text": "')[1].split('", "label"')[0] for line in lines]
    processor = Processor(ProcessorSettings(max_length=64), (minilm.folder / "tokenizer.json").read_text("utf-8"))
    task = make_task("classify", {}, [f"label {number}" for number in range(20)])
    rows = task.encode(texts, processor)
    runtimes.write("onnx", model_of(task, minilm), tmp_path, rows)
    graph = (tmp_path / GRAPH).read_bytes()
    small, facts = quantised(graph, rows, max_disagreement=1.0)
    assert len(small) < len(graph) / 3.8
    assert facts["operators"] == 24
    assert facts["noise"] < 0.01
