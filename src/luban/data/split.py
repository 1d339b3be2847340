"""Divides rows into those for training, for choosing, and for the final scores, without leaks between them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.data import duplicates
from luban.data.problems import fault
from luban.data.write import digest
from luban.errors import DataError, Problem, did_you_mean
from luban.records import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from luban.project.schema import DataSection, SplitSection

_TRAIN, _VALIDATION, _TEST = range(3)
_NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """The three parts of a project's rows."""

    train: Dataset
    validation: Dataset
    """Empty where neither a file is named nor a share is set aside."""
    test: Dataset
    """Empty where neither a file is named nor a share is set aside."""
    report: Mapping[str, Any]
    """What was done, as JSON: rows a part, groups kept together, labels that only training has, notes in words."""


def split(
    dataset: Dataset, section: DataSection, *, validation: Dataset | None = None, test: Dataset | None = None
) -> Splits:
    """Divide a dataset as `section.split` says; given parts are used as they are.

    The test rows are taken first, a share of all; then the validation rows, a share of what is left. Near duplicates
    stay together unless the section says otherwise. Stratified parts hold each label's share to within a row where
    rows have one label and stand alone; for rows of several labels and for groups the parts are filled label by
    label, rarest first (Sechidis et al. 2011). A label keeps at least one row in training.

    Raises:
        DataError: a part that is wanted can't have a row, or the column of groups or times can't be used.
    """
    plan = section.split
    shares = (0.0 if validation is not None else plan.validation, 0.0 if test is not None else plan.test)
    report: dict[str, Any] = {
        "by": plan.by, "seed": plan.seed,
        "given": [name for name, part in (("validation", validation), ("test", test)) if part is not None],
    }  # fmt: skip
    notes: list[str] = []
    divided = any(shares)
    sides = _sides(dataset, plan, shares, report, notes) if divided else np.zeros(len(dataset), np.int8)
    parts = [_part(dataset, sides == side, name) for side, name in enumerate(_NAMES)]
    train = parts[_TRAIN]
    chosen = validation if validation is not None else parts[_VALIDATION]
    final = test if test is not None else parts[_TEST]
    report["rows"] = {"train": len(train), "validation": len(chosen), "test": len(final)}
    if divided:
        _missing_labels(dataset, sides, shares, report, notes)
    return Splits(train, chosen, final, {**report, "notes": notes})


def _part(dataset: Dataset, mask: np.ndarray, name: str) -> Dataset:
    import pyarrow as pa

    if mask.all():
        return dataset
    table = dataset.table.filter(pa.array(mask))
    return Dataset(table, f"{dataset.source} ({name} part)", digest(table))


def _sides(
    dataset: Dataset, plan: SplitSection, shares: tuple[float, float], report: dict[str, Any], notes: list[str]
) -> np.ndarray:
    """Return (N,) the part of each row."""
    n_rows = len(dataset)
    n_test = max(1, round(n_rows * shares[1])) if shares[1] else 0
    n_validation = max(1, round((n_rows - n_test) * shares[0])) if shares[0] else 0
    if n_rows - n_test - n_validation < 1:
        got = f"{n_rows} row{'' if n_rows == 1 else 's'}"
        raise fault(dataset.source, got, "rows for training, validation and test", hint="add rows, or set a share to 0")
    wanted = np.array([n_rows - n_validation - n_test, n_validation, n_test], np.int64)
    groups = _groups(dataset, plan, report, notes)
    if plan.by == "time":
        sides = _by_time(_times(dataset, plan), groups, wanted)
        notes.append("the latest rows are for the test, those before them for validation")
    else:
        labels = [()] * n_rows if plan.by == "random" else row_labels(dataset.table)
        sides = _fill(groups, labels, wanted, np.random.default_rng(plan.seed))
    for side, n_wanted in enumerate(wanted):
        if n_wanted and not (sides == side).any():
            got = f"no row for the {_NAMES[side]} part, from {len(np.unique(groups))} groups of rows"
            hint = ("too many rows belong together, or each label has one row only: add rows, "
                    f"name a {_NAMES[side]} file, or set data.split.by: random")  # fmt: skip
            raise fault(dataset.source, got, f"{n_wanted} rows in it", hint=hint)
    if abs(int((sides == _TEST).sum()) - n_test) > max(2, 0.2 * n_test):
        notes.append(f"the test part has {(sides == _TEST).sum()} rows where {n_test} were wanted: rows that belong "
                     "together are not divided")  # fmt: skip
    return sides


def _groups(dataset: Dataset, plan: SplitSection, report: dict[str, Any], notes: list[str]) -> np.ndarray:
    """Return (N,) int64: rows of one number must stay together."""
    n_rows = len(dataset)
    groups = np.arange(n_rows)
    if plan.near_duplicates_together:
        groups = duplicates.find(dataset.table.column("text").to_pylist()).near
        _, sizes = np.unique(groups, return_counts=True)
        report["near_duplicates"] = {
            "groups": int((sizes > 1).sum()), "rows": int(sizes[sizes > 1].sum()), "largest": int(sizes.max(initial=0)),
        }  # fmt: skip
    if plan.by == "group":
        values = _column(dataset, plan)
        rows = dataset.table.column("row").to_pylist()
        missing = [row for row, value in zip(rows, values, strict=True) if value is None]
        if missing:
            got = f"{len(missing)} rows with no group, the first is row {missing[0]}"
            raise fault(dataset.source, got, f"a value of {plan.column!r} in each row")
        _, codes = np.unique(np.array([str(value) for value in values]), return_inverse=True)
        report["groups"] = int(codes.max()) + 1
        joined = _joined(groups, codes)
        if np.bincount(joined).max() <= max(np.bincount(codes).max(), n_rows // 2):
            return joined
        notes.append("near duplicates lie across most groups, which therefore alone decide what stays together")
        return codes.astype(np.int64)
    return groups


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the groups of rows that are together in the one or the other, or by way of further rows."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n_rows = len(one)
    _, one = np.unique(one, return_inverse=True)
    _, other = np.unique(other, return_inverse=True)
    n_nodes = n_rows + int(one.max()) + int(other.max()) + 2
    rows = np.arange(n_rows)
    ends = np.concatenate([n_rows + one, n_rows + int(one.max()) + 1 + other])
    edges = coo_matrix((np.ones(2 * n_rows, bool), (np.concatenate([rows, rows]), ends)), (n_nodes, n_nodes))
    _, parts = connected_components(edges, directed=False)
    joined: np.ndarray = parts[:n_rows].astype(np.int64)
    return joined


def _column(dataset: Dataset, plan: SplitSection) -> list[Any]:
    known = [name.removeprefix("meta.") for name in dataset.table.column_names if name.startswith("meta.")]
    if plan.column is None or f"meta.{plan.column}" not in dataset.table.column_names:
        got = "no column" if plan.column is None else f"{plan.column!r}, which is no column beside text and label"
        hint = did_you_mean(plan.column or "", known) or "the file has no further columns"
        problem = Problem("data.split.column", got, f"the column that holds the {plan.by}", hint=hint)
        raise DataError([problem], source=dataset.source)
    values: list[Any] = dataset.table.column(f"meta.{plan.column}").to_pylist()
    return values


def row_labels(table: pa.Table) -> list[tuple[str, ...]]:
    """Return the labels of each row, or the kinds of entities in it; a row of none has none."""
    if "tags" in table.column_names:
        rows = table.column("tags").to_pylist()
        return [tuple(sorted({tag[2:] for tag in tags or () if tag != "O"})) for tags in rows]
    return [tuple(labels or ()) for labels in table.column("labels").to_pylist()]


def _fill(
    groups: np.ndarray, labels: Sequence[tuple[str, ...]], wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return (N,) sides so that each label is divided as `wanted` (3,) divides all rows, group by group."""
    names = sorted({label for row in labels for label in row})
    number = {label: place for place, label in enumerate(names)}
    nothing = len(names)  # rows of no label are divided like those of one
    rows_of = [[number[label] for label in row] or [nothing] for row in labels]
    counts = np.bincount([label for row in rows_of for label in row], minlength=nothing + 1)
    single = all(len(row) == 1 for row in rows_of)
    desired = _quotas(counts, wanted, rng) if single else np.outer(wanted / wanted.sum(), counts)
    room = wanted.astype(np.float64)

    order = rng.permutation(len(groups))
    _, group_of = np.unique(groups, return_inverse=True)
    members: list[list[int]] = [[] for _ in range(int(group_of.max()) + 1)]
    for row in order.tolist():
        members[group_of[row]].append(row)
    having: list[list[int]] = [[] for _ in range(nothing + 1)]
    for group in dict.fromkeys(group_of[order].tolist()):
        for label in {label for row in members[group] for label in rows_of[row]}:
            having[label].append(group)
    left = counts.astype(np.float64)
    left[counts == 0] = np.inf
    taken = np.full(len(members), -1, np.int8)
    while np.isfinite(left).any():
        label = int(left.argmin())
        left[label] = np.inf
        # Large groups first, while there is room for them; single rows then even out.
        for group in sorted(having[label], key=lambda group: -len(members[group])):
            if taken[group] >= 0:
                continue
            side = max((_TEST, _VALIDATION, _TRAIN), key=lambda side: (desired[side, label], room[side]))
            taken[group] = side
            room[side] -= len(members[group])
            for row in members[group]:
                for other in rows_of[row]:
                    desired[side, other] -= 1
                    left[other] -= 1
    sides = taken[group_of]
    _keep_in_train(sides, group_of, members, having)
    return sides


def _quotas(counts: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (3, labels) whole numbers of rows, within one of each label's share, that add up to `wanted` (3,).

    A label keeps one row in training, so that the sums may fall short where most labels have one row.
    """
    quotas = np.zeros((3, len(counts)))
    left = counts.astype(np.float64)
    for side in (_TEST, _VALIDATION):
        share = wanted[side] * left / max(1.0, left.sum())
        whole = np.floor(share)
        extra = round(float(wanted[side] - whole.sum()))
        by_remainder = np.lexsort((rng.random(len(counts)), -(share - whole)))
        allowed = [label for label in by_remainder.tolist() if whole[label] + 1 <= left[label] - 1 and share[label] > 0]
        whole[allowed[: max(0, extra)]] += 1
        quotas[side] = np.minimum(whole, np.maximum(0, left - 1))
        left -= quotas[side]
    quotas[_TRAIN] = left
    return quotas


def _keep_in_train(
    sides: np.ndarray, group_of: np.ndarray, members: Sequence[Sequence[int]], having: Sequence[Sequence[int]]
) -> None:
    """Move a group to training for each label that has none there."""
    for groups in having:
        if groups and not any(sides[members[group][0]] == _TRAIN for group in groups):
            smallest = min(groups, key=lambda group: len(members[group]))
            sides[group_of == smallest] = _TRAIN


def _by_time(times: np.ndarray, groups: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return (N,) sides by time; a group goes where its latest row goes, so that training never sees later rows."""
    _, group_of = np.unique(groups, return_inverse=True)
    latest = np.full(int(group_of.max()) + 1, -np.inf)
    np.maximum.at(latest, group_of, times)
    sizes = np.bincount(group_of)
    order = np.argsort(-latest, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    side_of = np.full(len(sizes), _TRAIN, np.int8)
    side_of[order[before < wanted[_TEST]]] = _TEST
    side_of[order[(before >= wanted[_TEST]) & (before < wanted[_TEST] + wanted[_VALIDATION])]] = _VALIDATION
    sides: np.ndarray = side_of[group_of]
    return sides


_DATE = re.compile(
    r"\s*(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})\s*日?(?:[\sT]+(\d{1,2})[:时](\d{1,2})(?:[:分](\d{1,2}))?.*)?\s*"
)


def _times(dataset: Dataset, plan: SplitSection) -> np.ndarray:
    """Return (N,) float64 times: seconds for dates, else the numbers themselves.

    Raises:
        DataError: rows whose time can't be read; the first ones are named.
    """
    values = _column(dataset, plan)
    times = np.array([_time(value) for value in values], np.float64)
    wrong = np.flatnonzero(np.isnan(times))
    if len(wrong):
        rows = dataset.table.column("row").to_pylist()
        problems = [
            Problem(f"{dataset.source}, row {rows[place]}, column {plan.column!r}", repr(values[place])[:60],
                    "a date such as 2024-05-31 or 2024-05-31 18:00, or a number")
            for place in wrong[:20].tolist()
        ]  # fmt: skip
        raise DataError(problems, source=dataset.source, total=len(wrong))
    return times


def _time(value: Any) -> float:
    if isinstance(value, bool) or value is None:
        return np.nan
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    if isinstance(value, str):
        try:
            return float(value) if np.isfinite(float(value)) else np.nan
        except ValueError:
            value = _moment(value)
    if not isinstance(value, datetime.datetime):
        return np.nan
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()


def _moment(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups(default="0"))
    try:
        return datetime.datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _missing_labels(
    dataset: Dataset, sides: np.ndarray, shares: tuple[float, float], report: dict[str, Any], notes: list[str]
) -> None:
    """Note labels that a part has no row of."""
    labels = row_labels(dataset.table)
    every = {label for row in labels for label in row}
    for side, share in ((_VALIDATION, shares[0]), (_TEST, shares[1])):
        if share:
            there = {label for row, at in zip(labels, sides.tolist(), strict=True) if at == side for label in row}
            missing = sorted(every - there)
            report[f"labels_not_in_{_NAMES[side]}"] = missing
            if missing:
                listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
                notes.append(f"the {_NAMES[side]} part has no row of {len(missing)} labels ({listed})")
