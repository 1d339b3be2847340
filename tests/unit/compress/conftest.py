"""Trained tiny models to compress."""

from __future__ import annotations

import pytest
from unit.compress.scene import Scene, made


@pytest.fixture(scope="session")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a trained tiny model that knows good from bad; it is not to be changed."""
    return made(tmp_path_factory, "classify")


@pytest.fixture(scope="session")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return a trained tiny model that finds entities; it is not to be changed."""
    return made(tmp_path_factory, "tag")
