"""A tiny bundle, opened, for everything that serves."""

from __future__ import annotations

import pytest
from unit.bundle.made import Made

from luban.bundle.engine import Engine


@pytest.fixture(scope="session")
def engine(classify: Made) -> Engine:
    return Engine.open(classify.folder, threads=1)
