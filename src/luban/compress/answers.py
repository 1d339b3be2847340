"""What teachers answer to the rows that a candidate learns from, once and for all of training.

Each model reads with its own processor, so that a teacher may have another vocabulary, or another base altogether.
Answers are then laid beside the candidate's own windows or tokens.

Legend: W windows and T tokens of the candidate, A answers, K outputs, U units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luban.compress import Candidate, Material
from luban.errors import CorruptBundle, NotFound
from luban.files import new_folder, seal, verify
from luban.records import Encoded
from luban.tasks import chain

if TYPE_CHECKING:
    from luban.models.heads import TaskModel
    from luban.models.processor import Processor
    from luban.tasks import Task

_FILE = "answers.safetensors"


@dataclass(frozen=True)
class Lesson:
    """Rows to learn from, with the teachers' answers beside them."""

    rows: Encoded
    """The candidate's windows. Rows without labels have the teachers' answers as their targets."""
    answers: np.ndarray
    """(A, K) float32 logits, the mean of all teachers'."""
    place: np.ndarray
    """(W,), or (T,) for a task that answers tokens, int64: which answer; -1 at tokens that nothing is asked of."""
    n_labelled: int
    """How many of the rows have labels of their own."""


def digest(model: TaskModel) -> str:
    """Return the SHA-256 of a model's weights with their names."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()


def lesson(processor: Processor, teachers: Sequence[Candidate], material: Material, key: str) -> Lesson:
    """Return what a candidate that reads with a processor learns from; the answers are kept in the material's folder.

    Args:
        processor: the candidate's.
        teachers: whose logits are averaged.
        material: labelled and unlabelled rows.
        key: digest of all that decides the answers; those kept under another one are not used.
    """
    task = material.task
    labelled = task.encode(material.train, processor)
    rows = labelled
    if material.unlabelled:
        rows = joined(labelled, task.encode(list(material.unlabelled), processor))
    kept = _kept(material.folder / "answers", key)
    if kept is None:
        found = [_answers(teacher, rows, material) for teacher in teachers]
        answers = np.stack([answers for answers, _ in found]).mean(0)
        kept = (answers, found[0][1])
        _keep(material.folder / "answers", key, *kept)
    answers, place = kept
    targets = _targets(rows, labelled, answers, place, teachers[0], task)
    return Lesson(replace(rows, targets=targets), answers, place, labelled.n_rows)


def joined(one: Encoded, other: Encoded) -> Encoded:
    """Return the rows of both, without targets."""
    units = None if one.units is None or other.units is None else np.concatenate([one.units, other.units])
    return Encoded(
        np.concatenate([one.ids, other.ids]),
        np.concatenate([one.offsets, one.offsets[-1] + other.offsets[1:]]),
        np.concatenate([one.rows, one.n_rows + other.rows]),
        one.n_rows + other.n_rows,
        units=units,
    )


def _answers(teacher: Candidate, rows: Encoded, material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Return one teacher's answers (A, K) and their places beside the candidate's rows."""
    from luban.train.loop import logits_of

    task = material.task
    theirs = task.encode(material.train, teacher.processor)
    if material.unlabelled:
        theirs = joined(theirs, task.encode(list(material.unlabelled), teacher.processor))
    logits = logits_of(teacher.model, theirs, task, material.settings, teacher.processor.pad_id)
    return by_unit(logits, theirs, rows) if task.per_token else by_window(logits, theirs, rows)


def by_window(logits: np.ndarray, theirs: Encoded, rows: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return answers to windows: each its own where both cut rows alike, otherwise the mean over a row's windows."""
    if np.array_equal(theirs.rows, rows.rows):
        return logits, np.arange(len(rows))
    counts = np.bincount(theirs.rows, minlength=theirs.n_rows).astype(np.float32)
    means = np.zeros((theirs.n_rows, logits.shape[1]), np.float32)
    np.add.at(means, theirs.rows, logits)
    return means / counts[:, None], rows.rows.copy()


def by_unit(logits: np.ndarray, theirs: Encoded, rows: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return answers to units, the mean over the windows that a unit stands in, in the order of rows and units."""
    their_tokens, their_rows, their_units = _units(theirs)
    tokens, owners, units = _units(rows)
    n_units = np.zeros(rows.n_rows, np.int64)
    np.maximum.at(n_units, owners, units + 1)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_units)])
    keys = starts[their_rows] + their_units
    counts = np.bincount(keys, minlength=starts[-1])
    means = np.zeros((int(starts[-1]), logits.shape[1]), np.float32)
    np.add.at(means, keys, logits[their_tokens])
    place = np.full(len(rows.ids), -1, np.int64)
    place[tokens] = starts[owners] + units
    return means / np.maximum(counts, 1)[:, None].astype(np.float32), place


def _units(rows: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tokens at which units begin, their rows, and their units."""
    assert rows.units is not None
    tokens = np.flatnonzero(rows.units >= 0)
    return tokens, np.repeat(rows.rows, rows.lengths)[tokens], rows.units[tokens].astype(np.int64)


def _targets(
    rows: Encoded, labelled: Encoded, answers: np.ndarray, place: np.ndarray, teacher: Candidate, task: Task
) -> np.ndarray:
    """Return targets of all rows: their labels, or the teachers' answers where they have none."""
    assert labelled.targets is not None
    if len(rows) == len(labelled):
        return labelled.targets
    if task.per_token:
        _, owners, units = _units(rows)
        n_units = np.zeros(rows.n_rows, np.int64)
        np.maximum.at(n_units, owners, units + 1)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_units)])
        steps = task.facts(teacher.model.head).get("transitions")
        transitions = None if steps is None else np.asarray(steps, np.float64)
        tags = chain.best(answers.astype(np.float64), offsets, transitions)
        guessed = np.where(place >= 0, tags[np.maximum(place, 0)], -100)[len(labelled.ids) :]
    elif labelled.targets.ndim == 2:
        guessed = 1 / (1 + np.exp(-answers[place[len(labelled) :]].clip(-60, 60)))
    else:
        guessed = answers[place[len(labelled) :]].argmax(1)
    return np.concatenate([labelled.targets, guessed.astype(labelled.targets.dtype)])


def _kept(folder: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    from safetensors.numpy import load_file

    try:
        if verify(folder).get("key") != key:
            return None
    except (CorruptBundle, NotFound):
        return None
    found = load_file(folder / _FILE)
    return found["answers"], found["place"]


def _keep(folder: Path, key: str, answers: np.ndarray, place: np.ndarray) -> None:
    from safetensors.numpy import save_file

    with new_folder(folder, replace=True) as aside:
        save_file({"answers": answers, "place": place}, aside / _FILE)
        seal(aside, {"kind": "answers", "key": key})
