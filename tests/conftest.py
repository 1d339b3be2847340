"""Fixtures that reach real data and real weights, and say so where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """Return the folder of labelled data sets, beside the checkout or where LUBAN_DATA_SETS says."""
    folder = Path(os.environ.get("LUBAN_DATA_SETS") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set LUBAN_DATA_SETS to the folder that holds them")
    return folder
