"""A tiny bundle, opened, for everything that serves."""

from __future__ import annotations

import pytest
from unit.bundle.made import Made, made

from luban.bundle.engine import Engine


@pytest.fixture(scope="session")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "classify", "onnx")


@pytest.fixture(scope="session")
def engine(classify: Made) -> Engine:
    return Engine.open(classify.folder, threads=1)
