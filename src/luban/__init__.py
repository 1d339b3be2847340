"""Luban: from a labelled file to a small, fast, watched model in production.

>>> import luban
>>> engine = luban.load("runs/bank-intents/bundle")
>>> engine.predict(["Where is my card?"])[0].label
'card_arrival'

and to make one: `luban.run(luban.open_project("luban.yaml"))`.

Names are imported when they are first used, so that `import luban` costs little, and a bundle answers without torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.bundle.engine import Engine
    from luban.client.asynchronous import AsyncClient
    from luban.client.calls import Feedback
    from luban.client.synchronous import Client
    from luban.errors import (
        BadRequest,
        BelowGate,
        Conflict,
        CorruptBundle,
        DataError,
        DeadlineExceeded,
        Diverged,
        Forbidden,
        GateError,
        LubanError,
        MissingExtra,
        NotFound,
        OutOfMemory,
        Overloaded,
        ParityFailed,
        PluginError,
        Problem,
        ProjectError,
        RegistryError,
        ServeError,
        TooLarge,
        TooSlow,
        TrainError,
        Unauthenticated,
        Unavailable,
        UnknownPlugin,
        UnsupportedMedia,
    )
    from luban.project.load import load as open_project
    from luban.records import Explanation, Finding, Prediction, Progress, Report, Score, Span, Step
    from luban.stages.beginning import init
    from luban.stages.flow import check, export, run
    from luban.stages.packaging import package
    from luban.stages.predicting import predict_file

__version__ = "0.1.0"

_HOMES = {
    "luban.bundle.engine": ("Engine",),
    "luban.client.asynchronous": ("AsyncClient",),
    "luban.client.calls": ("Feedback",),
    "luban.client.synchronous": ("Client",),
    "luban.errors": (
        "BadRequest",
        "BelowGate",
        "Conflict",
        "CorruptBundle",
        "DataError",
        "DeadlineExceeded",
        "Diverged",
        "Forbidden",
        "GateError",
        "LubanError",
        "MissingExtra",
        "NotFound",
        "OutOfMemory",
        "Overloaded",
        "ParityFailed",
        "PluginError",
        "Problem",
        "ProjectError",
        "RegistryError",
        "ServeError",
        "TooLarge",
        "TooSlow",
        "TrainError",
        "Unauthenticated",
        "Unavailable",
        "UnknownPlugin",
        "UnsupportedMedia",
    ),
    "luban.records": ("Explanation", "Finding", "Prediction", "Progress", "Report", "Score", "Span", "Step"),
    "luban.stages.beginning": ("init",),
    "luban.stages.packaging": ("package",),
    "luban.stages.predicting": ("predict_file",),
    "luban.stages.flow": ("check", "export", "run"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

_OTHERWISE = {"open_project": ("luban.project.load", "load")}

__all__ = [
    "AsyncClient",
    "BadRequest",
    "BelowGate",
    "Client",
    "Conflict",
    "CorruptBundle",
    "DataError",
    "DeadlineExceeded",
    "Diverged",
    "Engine",
    "Explanation",
    "Feedback",
    "Finding",
    "Forbidden",
    "GateError",
    "LubanError",
    "MissingExtra",
    "NotFound",
    "OutOfMemory",
    "Overloaded",
    "ParityFailed",
    "PluginError",
    "Prediction",
    "Problem",
    "Progress",
    "ProjectError",
    "RegistryError",
    "Report",
    "Score",
    "ServeError",
    "Span",
    "Step",
    "TooLarge",
    "TooSlow",
    "TrainError",
    "Unauthenticated",
    "Unavailable",
    "UnknownPlugin",
    "UnsupportedMedia",
    "__version__",
    "check",
    "export",
    "init",
    "load",
    "open_project",
    "package",
    "predict_file",
    "run",
]


def load(bundle: str | os.PathLike[str], *, threads: int = 0, remember: int = 0, registry: str | None = None) -> Engine:
    """Open a bundle.

    Args:
        bundle: the sealed folder, e.g. `runs/bank-intents/bundle`, or a version, e.g. `bank-intents@champion`.
        threads: threads of the matrix products; 0 uses every core.
        remember: answers that are kept, so that the same text is not answered twice; 0 keeps none.
        registry: where versions are, a folder or URL; without it LUBAN_REGISTRY, or the nearest `.luban/registry`.

    Raises:
        BadRequest: `remember` is no number of answers.
        NotFound: there is no bundle, or no such version.
        CorruptBundle: a file of it is missing, added or changed; the message names it.
    """
    from luban.bundle.engine import Engine
    from luban.stages.registering import find_bundle

    return Engine.open(find_bundle(bundle, registry), threads=threads, remember=remember)


def __getattr__(name: str) -> Any:
    if name not in _HOME and name not in _OTHERWISE:
        raise AttributeError(f"module 'luban' has no attribute {name!r}")
    home, own_name = _OTHERWISE.get(name) or (_HOME[name], name)
    value = getattr(importlib.import_module(home), own_name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
