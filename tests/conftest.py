"""Fixtures that reach real data and real weights, and say so where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luban.models import base as bases
from luban.models import tiny as tiny_bases

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """Return the folder of labelled data sets, beside the checkout or where LUBAN_DATA_SETS says."""
    folder = Path(os.environ.get("LUBAN_DATA_SETS") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set LUBAN_DATA_SETS to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def minilm() -> bases.BaseFolder:
    """Return the English default base, fetched into Luban's own cache where it isn't there yet."""
    return bases.find("minilm-l6", ROOT)


@pytest.fixture(scope="session")
def e5() -> bases.BaseFolder:
    """Return the Chinese default base, fetched into Luban's own cache where it isn't there yet."""
    return bases.find("e5-small-multilingual", ROOT)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bases.BaseFolder:
    """Return a tiny random base whose tokens are characters, English and Chinese; it is not to be changed."""
    return tiny_bases.make(tmp_path_factory.mktemp("bases") / "tiny")
