"""Bases from a model hub: one commit, safe formats alone, kept sealed in the cache beside the packaged ones.

A branch or tag is resolved to a commit once; a project's lock pins the commit, and what is pinned and here is used
without asking the hub. Where the hub can't be reached, what a revision meant the last time serves.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luban import files
from luban.errors import Conflict, CorruptBundle, LubanError, NotFound, Problem, ProjectError
from luban.models.facts import INDEX, KEPT, TOKENIZER, WEIGHTS, BaseFolder, describe, no_safetensors
from luban.models.huggingface import DEFAULT_REVISION as HF_REVISION
from luban.models.huggingface import HuggingFace
from luban.models.modelscope import DEFAULT_REVISION as MS_REVISION
from luban.models.modelscope import ModelScope
from luban.models.packaged import cache_folder, sealed_digests, verified, waiting_for
from luban.models.remote import Client, Listing, Report, Unreachable
from luban.records import Progress

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(
    hub: str, repository: str, revision: str | None, *, pinned: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> BaseFolder:  # fmt: skip
    """Return a base from a hub, downloading it first where it isn't here.

    Args:
        hub: `hf` or `ms`.
        repository: `organisation/name`.
        revision: branch, tag or commit as the project names it; None takes the hub's default branch.
        pinned: the commit in the project's lock, which is then the one that is used.
        on_progress: told about the download.

    Raises:
        ProjectError: no such repository or revision, or it holds no safetensors, tokeniser or configuration.
        Conflict: the project names one commit and its lock another, or a locked branch has changed.
        LubanError: the hub can't be reached and nothing fetched before can serve, or a download is not what was told.
    """
    tell = on_progress or (lambda progress: None)
    name, folder = f"{hub}:{repository}", cache_folder()
    if pinned and revision and _COMMIT.fullmatch(revision) and pinned != revision:
        raise Conflict(
            f"the project names {name}@{revision} and is locked to {pinned}", hint="remove the lock, and run again"
        )
    if pinned and (found := _here(folder, hub, repository, pinned, name)):
        return found
    wanted = pinned or revision or (HF_REVISION if hub == "hf" else MS_REVISION)
    client: Client = HuggingFace() if hub == "hf" else ModelScope(folder / "downloads" / _slug(hub, repository, wanted))
    try:
        listing = client.listing(repository, wanted)
    except Unreachable as away:
        commit = _remembered(folder, hub, repository).get(wanted, wanted)
        if found := _here(folder, hub, repository, commit, name):
            tell(Progress("bases", f"{name}: the hub can't be reached; using {commit}, fetched before"))
            return found
        raise away
    target = folder / _slug(hub, repository, listing.commit)
    with waiting_for(folder / f".{target.name}.lock", f"the base {name}", tell):
        if not (found := _here(folder, hub, repository, listing.commit, name)):
            names = _chosen(name, listing)
            _bring(client, repository, listing, names, target, tell)
            found = _here(folder, hub, repository, listing.commit, name)
        files.write_json(
            _memory(folder, hub, repository), {**_remembered(folder, hub, repository), wanted: listing.commit}
        )
    if found is None:
        raise LubanError(f"{name} was fetched into {target} and is not whole there", hint="run this again")
    return found


def _chosen(name: str, listing: Listing) -> list[str]:
    """Return the names of the files to take: safe formats alone, and one whole set of weights.

    Raises:
        ProjectError: something that a base needs is not in the repository; every problem is listed.
    """
    names = sorted(path for path in listing.files if KEPT.fullmatch(path))
    problems: list[Problem] = []
    if WEIGHTS in names:
        names = [path for path in names if path == WEIGHTS or not (path.endswith(".safetensors") or path == INDEX)]
    elif INDEX not in names:
        problems.append(no_safetensors(list(listing.files)))
    if "config.json" not in names:
        problems.append(Problem("config.json", "no such file", "the configuration of a transformers model"))
    if TOKENIZER not in names:
        hint = "download the model, load it with AutoTokenizer, save_pretrained it to a folder, and name that folder"
        problems.append(Problem(TOKENIZER, "no such file", "the tokeniser as one JSON file", hint=hint))
    if problems:
        raise ProjectError(problems, source=f"base {name}@{listing.commit}")
    return names


def _bring(client: Client, repository: str, listing: Listing, names: list[str], target: Path, tell: Report) -> None:
    try:
        files.sweep(target.parent, target.name)
        with files.new_folder(target, replace=True) as made:
            client.bring(repository, listing, names, made, tell)
            files.seal(made, {"kind": "base", "name": repository, "commit": listing.commit})
    except OSError as error:
        raise LubanError(
            f"a base can't be kept in {target.parent}: {error}",
            hint="make it writable, with space free, or set LUBAN_HOME",
        ) from error
    if isinstance(client, ModelScope):
        shutil.rmtree(client.partial, ignore_errors=True)


def _here(folder: Path, hub: str, repository: str, commit: str, name: str) -> BaseFolder | None:
    """Return a base that was fetched before and is whole, or None."""
    target = folder / _slug(hub, repository, commit)
    try:
        manifest: dict[str, Any] = verified(target)
    except (NotFound, CorruptBundle):
        return None
    return BaseFolder(target, describe(target, name, revision=commit, digests=sealed_digests(manifest)))


def _slug(hub: str, repository: str, revision: str) -> str:
    return f"{hub}--{repository.replace('/', '--')}--{re.sub(r'[^A-Za-z0-9._-]', '-', revision)}"


def _memory(folder: Path, hub: str, repository: str) -> Path:
    return folder / f"{hub}--{repository.replace('/', '--')}.json"


def _remembered(folder: Path, hub: str, repository: str) -> dict[str, str]:
    """Return revision -> commit as they were the last time."""
    try:
        value = files.read_json(_memory(folder, hub, repository))
    except LubanError:
        return {}
    return {str(key): str(part) for key, part in value.items()} if isinstance(value, dict) else {}
