"""TensorFlow SavedModel: the graph in TensorFlow's own operators, for TensorFlow Serving and whatever loads one.

Batches of any size and texts of any length. Weights that a compressed bundle keeps in integers are multiplied as
floats, with the same answers and without the speed: on a CPU TensorFlow has nothing faster for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luban.bundle import answering
from luban.bundle.graph import INPUTS
from luban.bundle.packages import Source
from luban.bundle.plain import plain
from luban.bundle.runtimes.onnx import OUTPUT
from luban.bundle.tf_operators import Translated
from luban.errors import MissingExtra, install

MODEL = "model/1"
SIGNATURE = "serving_default"


def write(source: Source, folder: Path) -> None:
    """Write the SavedModel in the version folder that TensorFlow Serving looks for, and what it takes to answer.

    Raises:
        LubanError: the graph has operators that can't be written for TensorFlow.
        MissingExtra: tensorflow is not installed.
    """
    tf = imported()
    translated = Translated(tf, plain(source.graph()))
    module = tf.Module(name="luban")
    module.weights = list(translated.variables.values())
    ids, mask = (tf.TensorSpec([None, None], tf.int64, name=name) for name in INPUTS)

    def answer(input_ids: Any, attention_mask: Any) -> Any:
        return translated(input_ids=input_ids, attention_mask=attention_mask)

    module.answer = tf.function(answer, input_signature=[ids, mask], autograph=False)
    tf.saved_model.save(module, str(folder / MODEL), signatures={SIGNATURE: module.answer})
    answering.write(source, folder, "tensorflow")


class TensorFlowRunner:
    """A SavedModel's signature."""

    threads = 0

    def __init__(self, tf: Any, folder: Path) -> None:
        """Load it.

        Args:
            tf: the module tensorflow.
            folder: the SavedModel.
        """
        self._tf = tf
        self._model = tf.saved_model.load(str(folder))
        self._answer = self._model.signatures[SIGNATURE]

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return the logits; see `luban.bundle.runtimes.Runner`."""
        given = dict(zip(INPUTS, map(self._tf.constant, (input_ids, attention_mask)), strict=True))
        logits: np.ndarray = self._answer(**given)[OUTPUT].numpy()
        return logits


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Load the SavedModel again, and compare."""
    return answering.prove(source, folder, TensorFlowRunner(imported(), folder / MODEL), rows, max_difference)


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to run it with TensorFlow and TensorFlow Serving."""
    return answering.readme(source, "tensorflow", proof)


def imported() -> Any:
    """Import tensorflow, which then keeps its remarks to itself.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError as error:
        raise MissingExtra(
            f"a package for tensorflow needs the package tensorflow, of 600 MB: {error}",
            hint=f"{install('tensorflow')}, in an environment of its own if you like: one with luban and the "
            "bundle is enough",
        ) from error
    return tensorflow
