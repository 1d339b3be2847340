"""Bundles that several tests read and none changes."""

from __future__ import annotations

import pytest
from unit.bundle.made import Made, made

from luban.bundle.engine import Engine


@pytest.fixture
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a bundle that classifies, for onnx."""
    return made(tmp_path_factory, "classify", "onnx")


@pytest.fixture
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a bundle that tags, for onnx."""
    return made(tmp_path_factory, "tag", "onnx")


@pytest.fixture
def engine(classifier: Made) -> Engine:
    """Return the opened classifier."""
    return Engine.open(classifier.folder)
