"""The public names, and what it costs to import them."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

import luban

NAMES = """
__version__ check export init load open_project package predict_file run
AsyncClient Client Engine Explanation Feedback Finding Prediction Problem Progress Report Score Span Step
LubanError ProjectError DataError
PluginError UnknownPlugin MissingExtra
TrainError Diverged OutOfMemory
GateError BelowGate ParityFailed
RegistryError NotFound Conflict CorruptBundle
ServeError BadRequest TooLarge TooSlow UnsupportedMedia
Unauthenticated Forbidden Overloaded Unavailable DeadlineExceeded
"""
HEAVY = ("torch", "transformers", "sklearn", "pyarrow", "pandas", "polars", "scipy", "onnxruntime", "pydantic", "numpy")


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_exactly_these_names() -> None:
    assert sorted(luban.__all__) == sorted(NAMES.split())


@pytest.mark.parametrize("name", sorted(NAMES.split()))
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(luban, name)
    assert name in dir(luban)
    assert name == "__version__" or (value.__doc__ and value.__module__.startswith("luban"))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        luban.trian  # noqa: B018


def test_version_is_the_packages() -> None:
    assert luban.__version__.count(".") == 2


def test_importing_costs_less_than_three_tenths_of_a_second() -> None:
    script = "import time; start = time.perf_counter(); import luban; print(time.perf_counter() - start)"
    taken = [float(python(script)) for _ in range(5)]
    assert statistics.median(taken) < 0.3


def test_importing_brings_nothing_heavy() -> None:
    loaded = python(f"import luban, sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert loaded == "[]"


def test_the_ground_floor_brings_nothing_heavy() -> None:
    script = f"import luban.records, luban.files, luban.plugins, sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python(script) == "[]"
