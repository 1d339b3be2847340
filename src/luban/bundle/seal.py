"""Sealed bundles: writing one, and reading what stands in it.

A bundle is a folder: `bundle.json` (name, task, base, runtime), the runtime's files, processor and tokeniser,
calibration, metrics, the answers to the test rows, the drift reference, the project's settings, a card to read, and the
manifest of SHA-256 digests.
No time, machine or path is written: equal inputs give an equal digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban import files
from luban.bundle.card import card
from luban.errors import CorruptBundle, LubanError, NotFound
from luban.files import ENDINGS, MEND
from luban.records import Bundle, Calibration
from luban.tasks import make

if TYPE_CHECKING:
    from luban.models.facts import BaseFacts
    from luban.models.processor import Processor
    from luban.records import Report
    from luban.tasks import Task

BUNDLE = "bundle.json"
CALIBRATION = "calibration.json"
METRICS = "metrics.json"
REFERENCE = "reference.json"
PROJECT = "project.json"
CARD = "card.md"
ANSWERS = "answers.json"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a bundle says of itself; processor and runtime open their own files."""

    bundle: Bundle
    task: Task
    facts: Mapping[str, Any]
    calibration: Calibration
    runtime: Mapping[str, Any]
    text_column: str


def seal(
    folder: Path,
    *,
    name: str,
    task: Mapping[str, Any],
    base: BaseFacts,
    runtime: Mapping[str, Any],
    graph: Path,
    processor: Processor,
    calibration: Calibration,
    report: Report,
    reference: Mapping[str, Any],
    project: Mapping[str, Any],
    languages: Sequence[str] = (),
    answers: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle, in place of one that is there.

    Args:
        folder: where it will be.
        name: the project's name.
        task: `kind`, `options`, `labels` and `facts`.
        base: what the model was made from.
        runtime: what `runtimes.write` returned.
        graph: sealed folder with the runtime's files; they are verified and copied.
        processor: how texts become tokens.
        calibration: temperature and thresholds, chosen on validation rows.
        report: scores on the test rows.
        reference: what `Engine.reference` returned for the validation rows.
        project: every setting, resolved.
        languages: languages of the data.
        answers: what was answered to the test rows, so that another version can be compared on the same ones.

    Raises:
        CorruptBundle: the graph's folder was changed since it was sealed.
        LubanError: it holds a file of a kind that no bundle may hold.
    """
    parts = sorted(files.verify(graph)["files"])
    if wrong := [part for part in parts if Path(part).suffix not in ENDINGS or Path(part).name != part]:
        endings = ", ".join(sorted(ENDINGS))
        raise LubanError(f"the runtime {runtime['kind']!r} wrote {wrong[0]}; a bundle holds only {endings}")
    facts = {
        "name": name,
        "task": {key: task[key] for key in ("kind", "options", "labels", "facts")},
        "base": asdict(base),
        "runtime": dict(runtime),
        "languages": list(languages),
        "text": project["data"]["text"],
    }
    with files.new_folder(folder, replace=True) as aside:
        for part in parts:
            shutil.copyfile(graph / part, aside / part)
        files.write_json(aside / BUNDLE, facts)
        processor.to_dir(aside)
        files.write_json(aside / CALIBRATION, asdict(calibration))
        files.write_json(aside / METRICS, _metrics(report))
        files.write_json(aside / REFERENCE, reference)
        files.write_json(aside / PROJECT, project)
        files.write_text(aside / CARD, card(facts, report, calibration, project))
        if answers is not None:
            files.write_bytes(aside / ANSWERS, files.canonical_json(answers))
        digest = files.seal(aside, {"kind": "bundle"})
    return Bundle(folder, digest, name, task["kind"], tuple(task["labels"]))


def open_bundle(folder: Path) -> Bundle:
    """Verify a bundle and tell what it is.

    Raises:
        NotFound: the folder is no bundle.
        CorruptBundle: a file is missing, added, changed, or can't be used; the message names it.
    """
    return read(folder).bundle


def read(folder: Path, *, check: bool = True) -> Parts:
    """Read what a bundle says of itself.

    Args:
        folder: the sealed folder.
        check: compare every file with the manifest first.

    Raises:
        NotFound: the folder is no bundle.
        CorruptBundle: a file is missing, added, changed, or can't be used; the message names it.
    """
    manifest = files.verify(folder) if check else files.read_json(folder / files.MANIFEST)
    if (kind := manifest.get("kind")) != "bundle":
        raise NotFound(f"{folder} is a sealed {kind}, no bundle", hint="name the bundle itself, e.g. runs/NAME/bundle")
    if alien := [name for name in manifest["files"] if Path(name).suffix not in ENDINGS]:
        raise CorruptBundle(f"{folder / min(alien)} is of a kind that no bundle holds", hint="don't use this bundle")
    facts = files.read_json(folder / BUNDLE)
    try:
        told = facts["task"]
        task = make(told["kind"], told["options"], tuple(map(str, told["labels"])))
        bundle = Bundle(folder, manifest["digest"], str(facts["name"]), task.kind, task.labels)
        runtime = {**facts["runtime"], "kind": str(facts["runtime"]["kind"])}
        learned, text_column = dict(told["facts"]), str(facts["text"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(f"{folder / BUNDLE} is no description of a bundle: {error!r}", hint=MEND) from error
    return Parts(
        bundle=bundle, task=task, calibration=_calibration(folder, task), runtime=runtime, facts=learned,
        text_column=text_column,
    )  # fmt: skip


def _calibration(folder: Path, task: Task) -> Calibration:
    values = files.read_json(folder / CALIBRATION)
    try:
        thresholds = tuple(float(value) for value in values["thresholds"])
        found = Calibration(float(values["temperature"]), thresholds, float(values["abstain_below"]))
        if not found.temperature > 0 or len(thresholds) not in (0, len(task.labels)):
            raise ValueError(f"temperature {found.temperature}, {len(thresholds)} thresholds")
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptBundle(f"{folder / CALIBRATION} is no calibration: {error}", hint=MEND) from error
    return found


def _metrics(report: Report) -> dict[str, Any]:
    """Return the scores on the test rows, the baselines' and each label's, with what they were measured on."""
    return {
        "scores": {name: score.to_json() for name, score in report.scores.items()},
        "baselines": {
            name: {key: score.to_json() for key, score in scores.items()} for name, scores in report.baselines.items()
        },
        "per_label": {
            label: {key: score.to_json() for key, score in scores.items()} for label, scores in report.per_label.items()
        },
        "digests": dict(report.digests),
    }
