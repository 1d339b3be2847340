"""What every peer's server answers with: transformers' `pipeline`, or ONNX Runtime on a bundle's own graph.

`PEER_KIND` is `pipeline` or `graph`; `PEER_MODEL` the folder of a transformers model, or of a bundle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

Answer = Callable[[list[str]], list[str]]


def opened() -> Answer:
    """Return what gives each text its label."""
    folder = Path(os.environ["PEER_MODEL"])
    return pipeline(folder) if os.environ["PEER_KIND"] == "pipeline" else graph(folder)


def pipeline(folder: Path) -> Answer:
    """Return transformers' pipeline as its documentation makes it."""
    from transformers import pipeline as make

    pipe = make("text-classification", model=str(folder))
    return lambda texts: [found["label"] for found in pipe(texts, batch_size=32, truncation=True)]


def graph(folder: Path) -> Answer:
    """Return a session on the bundle's graph, as ONNX Runtime's documentation makes it, padded to the longest text."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    names = json.loads((folder / "bundle.json").read_text("utf-8"))["task"]["labels"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(json.loads((folder / "processor.json").read_text("utf-8"))["max_length"])
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def answer(texts: list[str]) -> list[str]:
        found = tokenizer.encode_batch(texts)
        given = {
            "input_ids": np.array([one.ids for one in found], np.int64),
            "attention_mask": np.array([one.attention_mask for one in found], np.int64),
        }
        return [names[place] for place in session.run(None, given)[0].argmax(1)]

    return answer
