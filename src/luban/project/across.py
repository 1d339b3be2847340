"""Checks that look at several settings at once. They are told together with those of each setting by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from luban.errors import Problem, did_you_mean
from luban.project.tree import Tree, shown

_HUB_ID = re.compile(r"(hf|ms):[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(@[\w./-]{1,128})?", re.ASCII)
_BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z]{2,}", re.ASCII)
_WORD = re.compile(r"[A-Za-z]{2,}", re.ASCII)
_SCORE_NAME = re.compile(r"[a-z][a-z0-9_@]*", re.ASCII)
LOWER_IS_BETTER = ("loss", "ece", "hamming")
"""Scores that fall as a model gets better."""


def problems(settings: Tree, known_scores: Sequence[str] = (), *, low_rank: bool = True) -> list[Problem]:
    """Return what is wrong between settings.

    Args:
        settings: the values of the file, with their lines; each may still be of a wrong type.
        known_scores: the scores that the task gives; where there are none, names are only checked for their form.
        low_rank: the adapter leaves the base's own weights as they are.
    """
    found: list[Problem] = []
    for check in (_split, _validation, _cleaning, _base):
        found.extend(check(settings))
    found.extend(_sharing(settings, low_rank=low_rank))
    found.extend(_choose_by(settings, known_scores))
    found.extend(_gates(settings, known_scores))
    return found


def _split(settings: Tree) -> Iterator[Problem]:
    path = ("data", "split", "column")
    by, column = settings.get(("data", "split", "by")), settings.get(path)
    if by in ("group", "time") and column is None:
        what = "rows that belong together" if by == "group" else "the time of each row"
        hint = f"data.split.by is {by}: set data.split.column"
        yield settings.problem(path, "nothing", f"the column that tells {what}", hint)
    if column is not None and by not in ("group", "time"):
        hint = "set data.split.by to `group` or `time`, or remove the column"
        yield settings.problem(path, shown(column), "no column", hint)


def _validation(settings: Tree) -> Iterator[Problem]:
    for part, uses in (("validation", "to choose the best checkpoint by"), ("test", "to measure the final scores on")):
        share = settings.get(("data", "split", part))
        if share == 0 and not isinstance(share, bool) and settings.get(("data", part)) is None:
            hint = f"name a file in data.{part}, or set a share above 0"
            yield settings.problem(("data", "split", part), "0", f"rows {uses}", hint)
    files = {part: settings.get(("data", part)) for part in ("train", "validation", "test")}
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if isinstance(files[one], str) and files[one] == files[other]:
            hint = f"rows that were used already tell nothing: name others, or remove data.{one} and let Luban split"
            yield settings.problem(("data", one), shown(files[one]), f"another file than data.{other}", hint)


def _cleaning(settings: Tree) -> Iterator[Problem]:
    steps, replace = settings.get(("data", "clean")), settings.get(("data", "replace"))
    replaces = isinstance(steps, list) and "replace" in steps
    if replaces and not replace:
        hint = "set data.replace, or remove the step"
        yield settings.problem(("data", "clean"), "the step `replace`", "something to replace", hint)
    if isinstance(replace, dict) and replace and not replaces:
        hint = "add `replace` to data.clean"
        yield settings.problem(("data", "replace"), shown(replace), "the cleaning step that uses it", hint)


def _base(settings: Tree) -> Iterator[Problem]:
    base = settings.get(("base",))
    if not isinstance(base, str):
        return
    scheme = base.partition(":")[0] if ":" in base else ""
    hint = ""
    if not base.strip() or "\0" in base:
        hint = "`luban bases` lists the names"
    elif "://" in base:
        hint = "addresses are not read: write the hub's id of the model"
    elif scheme in ("hf", "ms") and not _HUB_ID.fullmatch(base):
        hint = f"a hub id is `{scheme}:`, the organisation, `/`, the name, and `@` with the revision"
    elif scheme not in ("", "hf", "ms") and _WORD.fullmatch(scheme):
        hint = "a hub id starts with `hf:` (Hugging Face) or `ms:` (ModelScope); write a folder as ./folder"
    elif not scheme and not {"/", "\\"} & set(base) and not _BASE_NAME.fullmatch(base):
        hint = "write a folder as ./folder"
    if hint:
        wanted = "a name, a folder or a hub id such as `hf:org/name@revision`"
        yield settings.problem(("base",), shown(base), wanted, hint)


def _sharing(settings: Tree, *, low_rank: bool) -> Iterator[Problem]:
    path = ("export", "runtime")
    if settings.get(path) != "onnx-shared":
        return
    if not low_rank and settings.get(("train", "freeze")) != "base":
        got, wanted = "an adapter that changes the base", "one that leaves the base's weights as they are, to share it"
        hint = "set `train.adapter: {kind: lora}` or `train.freeze: base`, or `export.runtime: onnx`"
        yield settings.problem(("train", "adapter"), got, wanted, hint)
    if settings.get(("compress", "plan")):
        hint = "remove the plan, or set `export.runtime: onnx`"
        wanted = "none: a compressed model has a base of its own"
        yield settings.problem(("compress", "plan"), "a plan, and the runtime onnx-shared", wanted, hint)


def _choose_by(settings: Tree, known: Sequence[str]) -> Iterator[Problem]:
    path = ("train", "choose_by")
    written = settings.get(path)
    if not isinstance(written, str):
        return
    name = written.removeprefix("-")
    if not _is_score(name, known):
        hint = did_you_mean(name, [*known, "loss"]) if known else ""
        yield settings.problem(path, shown(written), "the name of a score", hint)
    elif name in LOWER_IS_BETTER and not written.startswith("-"):
        hint = f"{name} is better when lower, which the `-` before it says"
        yield settings.problem(path, shown(written), f"'-{name}'", hint)


def _gates(settings: Tree, known: Sequence[str]) -> Iterator[Problem]:
    gates = settings.get(("gates",))
    if not isinstance(gates, dict):
        return
    for name, least in gates.items():
        path = ("gates", name)
        if not _is_score(name, known) or name == "loss":
            yield settings.problem(path, shown(name), "the name of a score", did_you_mean(name, known))
        elif isinstance(least, int | float) and not isinstance(least, bool) and name in known and not 0 <= least <= 1:
            hint = f"did you mean {least / 100:g}?" if 1 < least <= 100 else ""
            yield settings.problem(path, shown(least), "a share between 0 and 1", hint)


def _is_score(name: str, known: Sequence[str]) -> bool:
    return name == "loss" or (name in known if known else _SCORE_NAME.fullmatch(name) is not None)
