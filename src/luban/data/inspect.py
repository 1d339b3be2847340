"""Looks at a file that nobody has described yet: its form, its columns, its task, its labels, its languages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.data.clean import Cleaner
from luban.data.columns import Column, describe
from luban.data.languages import LANGUAGES, languages
from luban.data.problems import fault
from luban.data.raw import Named, Source
from luban.data.read import read
from luban.data.sources import batches, open_source
from luban.errors import DataError, Problem, did_you_mean
from luban.records import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

TASKS = ("classify", "tag")
"""What a file of labelled rows can be for."""
_TAG_WANTED = "a column of tags, one for each token, or of spans with start, end and label"
_LOOKED_AT = 200_000
_SAMPLE_ROWS = 5_000
_STATISTICS_ROWS = 50_000
_CLEAR = 0.25  # by how much a column must look better than the next to be taken without asking

_TEXT_NAMES: Mapping[float, Sequence[str]] = {
    3: ("text", "sentence", "content", "文本", "内容", "正文", "句子"),
    2: ("review", "comment", "query", "question", "utterance", "message", "tweet", "title", "body", "description",
        "document", "评论", "评价", "问题", "标题", "摘要", "text_a", "tokens", "words"),
}  # fmt: skip
_LABEL_NAMES: Mapping[float, Sequence[str]] = {
    3: ("label", "labels", "标签"),
    2: ("category", "class", "intent", "sentiment", "target", "tags", "ner_tags", "entities", "annotations",
        "categories", "类别", "类目", "分类", "意图", "情感", "标注", "实体"),
    1.5: ("y", "cat", "topic", "type", "rating", "polarity", "emotion", "stars", "star", "score", "spam", "评分",
          "星级"),
}  # fmt: skip
_LABEL_PARTS = ("label", "categ", "class", "intent", "sentiment", "tag", "类", "标")
_FULL_WIDTH = re.compile("[０-９Ａ-Ｚａ-ｚ＂＃＄％＆＇＊＋－．／＜＝＞＠＼＾＿｀｛｜｝]")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column that could hold the text or the labels."""

    name: str
    score: float
    """The higher, the likelier; of no unit."""
    reason: str


@dataclass(frozen=True)
class Look:
    """What was seen in a file. Shares lie between 0 and 1."""

    path: Path
    format: str
    """csv, tsv, jsonl, json, parquet, xlsx, conll or folder."""
    encoding: str
    """Of text files; empty for others."""
    columns: tuple[Column, ...]
    text: str
    """Column of the text, or of the tokens."""
    label: str
    """Column of the labels, tags or spans."""
    text_why: str
    label_why: str
    text_candidates: tuple[Candidate, ...]
    label_candidates: tuple[Candidate, ...]
    task: str
    """`classify` or `tag`."""
    multi_label: bool
    """A row has several labels, or none."""
    separator: str | None
    """What stands between several labels of a row."""
    labels: Mapping[str, int]
    """Label -> its rows, or kind of entity -> its entities; commonest first."""
    languages: Mapping[str, float]
    """`en`, `zh` and `other` -> share of the rows."""
    html_share: float
    """Rows with tags or entities of HTML."""
    full_width_share: float
    """Rows with full-width letters, digits or punctuation other than Chinese punctuation."""
    traditional_share: float
    """Chinese rows that are written in traditional characters."""
    single_character_share: float
    """Tokens of one character among those of tagging data; 0 for texts to classify."""
    characters: Mapping[str, float]
    """`mean`, `p50`, `p95`, `p99`, `max` of the texts' lengths."""
    dataset: Dataset
    """The rows, read as found."""

    @property
    def n_rows(self) -> int:
        """Rows in the file."""
        return len(self.dataset)


def look(
    path: Path | str,
    *,
    text: str | None = None,
    label: str | None = None,
    separator: str | None = None,
    task: str | None = None,
) -> Look:
    """Find out what a file of labelled rows holds.

    Args:
        path: a file in any form that `read` takes.
        text: column of the text, where it is known already; so the following.
        label: column of the labels.
        separator: what stands between the labels of a row.
        task: `classify` or `tag`.

    Raises:
        DataError: there is no such task, the file can't be read or holds nothing for that task, a column that is named
            is not there, or columns can't be told apart: then the message lists them and says what to pass.
    """
    path = Path(path)
    if task is not None and task not in TASKS:
        raise DataError([Problem("--task", repr(task), "the name of one task", hint=did_you_mean(task, TASKS))])
    source, columns, label_columns = _columns(path, headless=(text or "").startswith("#"))
    _known(path, columns, text=text, label=label)
    if source.fixed is not None:
        text, label = source.fixed
        held = "tag" if source.format == "conll" else "classify"
        if task not in (None, held):
            got = f"a {source.format}{' file' if source.format == 'conll' else ''}, which holds rows for `{held}`"
            raise fault(str(path), got, f"rows for `{task}`", hint=f"pass --task {held}, or leave it out")
        task = held
        if source.format == "lines":
            hint = "write a csv with a column of texts and one of labels"
            raise fault(str(path), "a file of plain lines", "texts with labels", hint=hint)
        chosen_label, chosen_text = Candidate(label, 1.0, "by the format"), Candidate(text, 1.0, "by the format")
        label_candidates: tuple[Candidate, ...] = (chosen_label,)
        text_candidates: tuple[Candidate, ...] = (chosen_text,)
    else:
        label_candidates = _label_candidates(columns, label_columns, label, task)
        chosen_label = _choose(source, columns, label_candidates, "label", given=label, task=task)
        by_name = {column.name: column for column in columns}
        kind = by_name[chosen_label.name].kind
        task = task or ("tag" if kind in ("tags", "spans") else "classify")
        others = [column for column in columns if column.name not in (chosen_label.name, *label_columns)]
        text_candidates = _text_candidates(others, task, by_name[chosen_label.name], text)
        chosen_text = _choose(source, columns, text_candidates, "text", given=text)
        separator = separator or by_name[chosen_label.name].separator
    section = Named(chosen_text.name, chosen_label.name, separator)
    try:
        dataset = read(path, section, task)
    except DataError as error:
        if source.fixed is None and task == "tag" and kind not in ("tags", "spans"):
            # Every row would be told of, and none would say that the task does not fit.
            got = f"a column {chosen_label.name!r} without tags or spans ({kind}: {by_name[chosen_label.name].told})"
            hint = "name another column with --label, or leave --task out: texts with labels are for `classify`"
            raise fault(str(path), got, f"for `tag` {_TAG_WANTED}", hint=hint) from error
        raise
    return Look(
        path=path, format=source.format, encoding=source.encoding, columns=columns, text=chosen_text.name,
        label=chosen_label.name, text_why=chosen_text.reason, label_why=chosen_label.reason,
        text_candidates=text_candidates, label_candidates=label_candidates, task=task, separator=separator,
        dataset=dataset, **_statistics(dataset, task),
    )  # fmt: skip


def _columns(path: Path, *, headless: bool) -> tuple[Source, tuple[Column, ...], tuple[str, ...]]:
    """Return the file, its columns, and those that Label Studio's annotations are in."""
    source = open_source(path, has_header=not headless)
    values, label_columns = _sample(source)
    if not headless and source.format in ("csv", "tsv", "xlsx") and _is_headless(values):
        source = open_source(path, has_header=False)
        values, label_columns = _sample(source)
    if not values or not any(values.values()):
        source.faults.stop()
        raise fault(str(path), "no rows", "labelled rows")
    return source, tuple(describe(name, column) for name, column in values.items()), label_columns


def _sample(source: Source) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Return evenly spaced rows of the beginning of a file, in columns: files are often sorted by label."""
    columns: dict[str, list[Any]] = {}
    label_columns: tuple[str, ...] = ()
    n_rows = 0
    for raw in batches(source, 8192):
        for name, column in raw.columns.items():
            known = columns.setdefault(name, [None] * n_rows)
            known += column if isinstance(column, list) else column.to_pylist()
        n_rows += len(raw.rows)
        for column in columns.values():
            column += [None] * (n_rows - len(column))
        label_columns = raw.label_columns or label_columns
        if n_rows >= _LOOKED_AT:
            break
    places = np.unique(np.linspace(0, n_rows - 1, min(n_rows, _SAMPLE_ROWS)).astype(int)).tolist() if n_rows else []
    return {name: [column[place] for place in places] for name, column in columns.items()}, label_columns


def _is_headless(columns: Mapping[str, Sequence[Any]]) -> bool:
    """Tell whether what stands as names looks like a row: a value of its column, a number, a sentence."""
    for name, values in columns.items():
        if name.startswith("#") and name[1:].isdigit():
            continue  # an empty cell
        repeated = sum(str(value).strip() == name for value in values)
        if repeated >= max(2, 0.01 * len(values)) or name.lstrip("-").replace(".", "", 1).isdigit():
            return True
        if len(name) > 60 or re.search(r"[。！？，]|[.!?]$", name):
            return True
    return False


def _known(path: Path, columns: Sequence[Column], **given: str | None) -> None:
    names = [column.name for column in columns]
    problems = [
        Problem(
            f"{path}, --{what}", f"{name!r}, which is no column", "a column of the file", hint=did_you_mean(name, names)
        )
        for what, name in given.items()
        if name is not None and name not in names
    ]
    if problems:
        raise DataError(problems, source=str(path))


def _by_name(name: str, known: Mapping[float, Sequence[str]]) -> float:
    return max((bonus for bonus, names in known.items() if name.strip().lower() in names), default=0.0)


def _label_candidates(
    columns: Sequence[Column], label_columns: Sequence[str], given: str | None, task: str | None
) -> tuple[Candidate, ...]:
    kinds = {"tag": ("tags", "spans"), "classify": ("category", "labels")}.get(task or "")
    found = []
    for column in columns:
        bonus = _by_name(column.name, _LABEL_NAMES)
        # Rows too few to tell kinds by are known by their column's name.
        by_name = bonus >= 2 and column.kind in ("text", "number", "id") and column.mean_length <= 60 and kinds is None
        likely = column.kind in (kinds or ("category", "labels", "tags", "spans")) or by_name
        if column.name != given and not likely:
            continue
        if label_columns and column.name == "annotations" and len(label_columns) == 2:
            continue  # the same as the one control that it holds
        if not bonus and any(part in column.name.lower() for part in _LABEL_PARTS):
            bonus = 1.0
        score = 1.0 + bonus + 0.5 * (column.kind in ("tags", "spans") or 2 <= column.n_distinct <= 200)
        score += 1.0 * (column.name in label_columns) - 1.0 * (column.n_distinct < 2) - column.missing
        why = "named like a label; " if bonus else ""
        found.append(Candidate(column.name, score, why + column.told))
    return tuple(sorted(found, key=lambda candidate: (-candidate.score, candidate.name)))


def _text_candidates(columns: Sequence[Column], task: str, label: Column, given: str | None) -> tuple[Candidate, ...]:
    found = []
    for column in columns:
        fits = task == "tag" and label.kind == "tags" and column.kind in ("tokens", "text") and _fits(column, label)
        bonus = _by_name(column.name, _TEXT_NAMES)
        # A text that is short and comes again, or is a number, is known by its name alone.
        by_name = bonus > 0 and column.kind in ("category", "id", "labels", "tokens", "number")
        if column.name != given and column.kind != "text" and not fits and not by_name:
            continue
        score = 1.0 + bonus + float(np.log10(1 + column.mean_length)) + column.distinct_share - column.missing
        score += 5.0 * fits + (2.0 if column.kind == "text" else 0.0)
        if task == "tag" and label.kind == "tags" and not fits and column.name != given:
            continue
        why = "named like a text; " if bonus else ""
        found.append(Candidate(column.name, score, why + ("as many tokens as tags" if fits else column.told)))
    return tuple(sorted(found, key=lambda candidate: (-candidate.score, candidate.name)))


def _lengths(value: Any) -> set[int]:
    """Return how many tokens a value may be: elements of a list, words or characters of a text."""
    if isinstance(value, list):
        return {len(value)}
    return {len(value), len(value.split())} if isinstance(value, str) else set()


def _fits(column: Column, tags: Column) -> bool:
    """Tell whether a column has as many tokens (or words, or characters) as there are tags, in nearly all rows."""
    pairs = [
        (_lengths(text), len(tag.split() if isinstance(tag, str) else tag))
        for text, tag in zip(column.values, tags.values, strict=True)
        if text is not None and isinstance(tag, str | list)
    ]
    return bool(pairs) and sum(wanted in counts for counts, wanted in pairs) >= 0.9 * len(pairs)


def _choose(
    source: Source,
    columns: Sequence[Column],
    candidates: Sequence[Candidate],
    what: str,
    given: str | None,
    task: str | None = None,
) -> Candidate:
    if given is not None:
        found = (candidate for candidate in candidates if candidate.name == given)
        return next(found, Candidate(given, 0.0, "as told"))
    if len(candidates) == 1 or (candidates and candidates[0].score >= candidates[1].score + _CLEAR):
        return candidates[0]
    source.faults.stop()  # rows that can't be read may be why
    listed = "; ".join(f"{column.name} ({column.kind}: {column.told})" for column in columns)
    wanted = f"one column of {what}s"
    if candidates:
        close = [one.name for one in candidates if one.score > candidates[0].score - _CLEAR]
        got = f"several columns that could hold the {what}: {', '.join(close)}"
        hint = f"pass --{what} {close[0]}, or another"
    elif task == "tag":
        got, wanted = "no column that holds tags or spans", f"for `tag` {_TAG_WANTED}"
        hint = "name it with --label, or leave --task out: texts with labels are for `classify`"
    else:
        got, hint = f"no column that looks like the {what}", f"pass --{what} NAME"
    raise fault(str(source.path), got, wanted, hint=f"{hint}. Columns: {listed}"[:1500])


def _statistics(dataset: Dataset, task: str) -> dict[str, Any]:
    table = dataset.table
    texts = table.column("text").to_pylist()
    texts = texts[:: max(1, len(texts) // _STATISTICS_ROWS)]
    single = 0.0
    if task == "tag":
        single = _single_character_share(table)
        counts = Counter(tag[2:] for tags in table.column("tags").to_pylist() for tag in tags if tag.startswith("B-"))
        multi = False
    else:
        rows = table.column("labels").to_pylist()
        counts = Counter(label for labels in rows for label in labels)
        multi = any(len(labels) != 1 for labels in rows)
    found = languages(texts)
    chinese = [texts[place] for place in np.flatnonzero(found == LANGUAGES.index("zh")).tolist()]
    chinese = chinese[:: max(1, len(chinese) // 5000)]
    simplified = Cleaner(("simplify",))(chinese)
    traditional = [
        sum(a != b for a, b in zip(before, after, strict=False)) >= max(2, len(before) // 20)
        for before, after in zip(chinese, simplified, strict=True)
    ]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    middle, high, top = np.percentile(lengths, [50, 95, 99]).tolist()
    shares = np.bincount(found, minlength=len(LANGUAGES)) / max(1, len(texts))
    html = sum(a != b for a, b in zip(texts, Cleaner(("html",))(texts), strict=True))
    return {
        "labels": dict(counts.most_common()), "multi_label": multi,
        "languages": dict(zip(LANGUAGES, shares.tolist(), strict=True)), "html_share": html / len(texts),
        "full_width_share": sum(_FULL_WIDTH.search(text) is not None for text in texts) / len(texts),
        "traditional_share": sum(traditional) / max(1, len(traditional)), "single_character_share": single,
        "characters": {
            "mean": float(lengths.mean()), "p50": middle, "p95": high, "p99": top, "max": float(lengths.max()),
        },
    }  # fmt: skip


def _single_character_share(table: pa.Table) -> float:
    import pyarrow.compute as pc

    lengths = pc.utf8_length(pc.list_flatten(table.column("tokens")))
    return float(pc.mean(pc.equal(lengths, 1)).as_py() or 0.0)
