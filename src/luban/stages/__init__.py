"""The stages: one function each, and the only place where a Project is unpacked.

Each is imported when it is first used: `luban predict` must not wait for what only training needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.stages.beginning import InitResult, init
    from luban.stages.compressing import CompressResult, compress
    from luban.stages.fastest import FastestResult, fastest
    from luban.stages.flow import check, export, run, train
    from luban.stages.machine import bases, doctor
    from luban.stages.packaging import Packaged, package
    from luban.stages.predicting import answer_file, newest_bundle, predict_file, predict_texts
    from luban.stages.record import RunResult, StageResult
    from luban.stages.registering import diff, find_bundle, promote, register, rollback

__all__ = [
    "CompressResult",
    "FastestResult",
    "InitResult",
    "Packaged",
    "RunResult",
    "StageResult",
    "answer_file",
    "bases",
    "check",
    "compress",
    "diff",
    "doctor",
    "export",
    "fastest",
    "find_bundle",
    "init",
    "newest_bundle",
    "package",
    "predict_file",
    "predict_texts",
    "promote",
    "register",
    "rollback",
    "run",
    "train",
]

_HOMES = {
    "beginning": ("InitResult", "init"),
    "compressing": ("CompressResult", "compress"),
    "fastest": ("FastestResult", "fastest"),
    "flow": ("check", "export", "run", "train"),
    "machine": ("bases", "doctor"),
    "packaging": ("Packaged", "package"),
    "predicting": ("answer_file", "newest_bundle", "predict_file", "predict_texts"),
    "record": ("RunResult", "StageResult"),
    "registering": ("diff", "find_bundle", "promote", "register", "rollback"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'luban.stages' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"luban.stages.{_HOME[name]}"), name)
    globals()[name] = value
    return value
