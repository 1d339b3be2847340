"""A file without its personal data, for who may not see it; and back, for who has the key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import BadRequest, Conflict, did_you_mean
from luban.records import Listener, Progress, ignore

if TYPE_CHECKING:
    from luban.data.mask import Masker, Tokens
    from luban.data.personal import Finder, Personal
    from luban.data.raw import Raw

_ROWS = 4096
_SHORT = 64
"""Characters up to which a value is read together with its column's name: 'name: 王伟' says what '王伟' is."""
_NO_ROWS = ("conll", "folder")
_Done = tuple[str, Mapping[str, int]]
"""A text as it is to be written, and what was found in it by kind."""


@dataclass(frozen=True, kw_only=True)
class MaskedFile:
    """What became of a file."""

    output: Path
    rows: int
    changed: int
    """Rows in which something was masked, or turned back."""
    counts: Mapping[str, int]
    """Kind -> how often it was found; for the way back `turned back` and `not of this key`."""


def mask_file(
    input: Path,
    output: Path,
    *,
    columns: Sequence[str] = (),
    kinds: Collection[str] = (),
    key: Path | None = None,
    names_by: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    registry: str | None = None,
    reverse: bool = False,
    on_progress: Listener = ignore,
) -> MaskedFile:
    """Mask every value of a file, or of some columns; all other values stay as they are.

    Args:
        input: csv, tsv, jsonl, json, parquet, xlsx, or one text a line.
        output: jsonl, csv, tsv or parquet; it appears when it is whole.
        columns: what is masked; empty for all.
        kinds: what is looked for; empty for all of `luban.data.personal.KINDS`.
        key: file with a key: tokens that can be turned back.
        names_by: bundles or versions that tag names: find those that no word before or after gives away.
        labels: which of their labels count, and as what kind, as `{"PER": "name"}`; see `luban.bundle.names`.
        registry: where versions are: a folder or URL.
        reverse: turn tokens back instead.
        on_progress: told how far it has come.

    Raises:
        DataError: the input can't be read.
        BadRequest: there is no such column or kind, a column's name holds personal data, or the key can't be used.
        Conflict: the output is the input.
    """
    from luban.data.mask import Masker, Tokens
    from luban.data.personal import KINDS
    from luban.data.sources import batches, open_source
    from luban.data.write import AnswerWriter

    if output.resolve() == input.resolve():
        raise Conflict(f"{output} is the input too", hint="name another output")
    tokens = None if key is None else Tokens.from_file(key)
    if reverse and tokens is None:
        raise BadRequest("to turn tokens back, the key is needed that they were made with", hint="--key FILE")
    masker = Masker(kinds or KINDS, tokens=tokens, finders=names_finders(names_by, labels, registry=registry))
    work = _Work(tokens if reverse and tokens is not None else masker, frozenset(columns))
    source = open_source(input)
    if source.format in _NO_ROWS:
        raise BadRequest(f"{input} holds tokens and tags, which masking would tear apart", hint="mask texts")
    try:
        with AnswerWriter(output) as writer:
            for raw in batches(source, _ROWS):
                writer.write(work.rows(raw))
                on_progress(Progress("mask", "masking", done=work.n_rows, total=0))
            if source.faults.total:
                raise source.faults.error()
            if reverse and work.counts["not of this key"] and not work.counts["turned back"]:
                n = work.counts["not of this key"]
                raise BadRequest(
                    f"none of {input}'s {n} tokens is of this key", hint="name the key that they were made with"
                )
    except BaseException:
        output.with_name(f"{output.name}.part").unlink(missing_ok=True)
        raise
    return MaskedFile(output=output, rows=work.n_rows, changed=work.n_changed, counts=dict(work.counts))


def names_finders(
    names_by: Sequence[str], labels: Mapping[str, str] | None = None, *, registry: str | None = None
) -> list[Finder]:
    """Return what finds names and places by bundles that tag them.

    Args:
        names_by: folders of bundles, or versions as `names@champion`.
        labels: label -> kind; with several bundles, each takes those that it has.
        registry: a folder or URL.

    Raises:
        BadRequest: one tags nothing of the kind, or none has a label that was named.
    """
    if labels and not names_by:
        raise BadRequest("labels of names, and no bundle that has them", hint="--names-by BUNDLE")
    if not names_by:
        return []
    from luban.bundle.engine import Engine
    from luban.bundle.names import NameFinder
    from luban.stages.registering import find_bundle

    engines = [Engine.open(find_bundle(one, registry)) for one in names_by]
    if labels is None:
        return [NameFinder(engine) for engine in engines]
    known = {label for engine in engines for label in engine.labels}
    if unknown := sorted(set(labels) - known):
        raise BadRequest(f"no bundle has a label {unknown[0]!r}", hint=did_you_mean(unknown[0], known))
    return [
        NameFinder(engine, {label: kind for label, kind in labels.items() if label in engine.labels})
        for engine in engines
    ]


class _Work:
    """Masks rows, or turns their tokens back, and counts."""

    def __init__(self, how: Masker | Tokens, columns: frozenset[str]) -> None:
        self._how = how
        self._columns = columns
        self.n_rows = self.n_changed = 0
        self.counts: Counter[str] = Counter()

    def rows(self, raw: Raw) -> list[dict[str, Any]]:
        """Return a batch's rows as they are to be written.

        Raises:
            BadRequest: a column that is named is not there.
        """
        columns = {
            name: values if isinstance(values, list) else values.to_pylist() for name, values in raw.columns.items()
        }
        if missing := sorted(self._columns - set(columns)):
            raise BadRequest(f"there is no column {missing[0]!r}", hint=did_you_mean(missing[0], columns))
        if not self.n_rows:
            self._check_names(columns)
        before = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        # Twice over the same values: what reads texts is asked once for all of them.
        texts: dict[tuple[str, str], str] = {}
        self._through(before, lambda name, text: texts.setdefault((name, text), text))
        done = self._texts(list(texts))
        after = self._through(before, lambda name, text: self._counted(done[name, text]))
        self.n_rows += len(before)
        self.n_changed += sum(one != other for one, other in zip(before, after, strict=True))
        return after

    def _through(self, rows: list[dict[str, Any]], change: Callable[[str, str], str]) -> list[dict[str, Any]]:
        return [
            {name: self._value(name, value, change) if self._is_meant(name) else value for name, value in row.items()}
            for row in rows
        ]

    def _check_names(self, columns: Iterable[str]) -> None:
        """Refuse a file whose first line is a row of data: names of columns are written as they are.

        Raises:
            BadRequest: a name holds personal data; the message does not repeat it.
        """
        from luban.data.mask import Masker

        for number, name in enumerate(columns, 1):
            if isinstance(self._how, Masker) and (found := self._how.mask(name).found):
                raise BadRequest(
                    f"the name of column {number} holds personal data: {found[0].kind}",
                    hint="put a line with the columns' names first, or give the column another name",
                )

    def _is_meant(self, name: str) -> bool:
        return not self._columns or name in self._columns

    def _value(self, name: str, value: Any, change: Callable[[str, str], str]) -> Any:
        if isinstance(value, str):
            return change(name, value)
        if isinstance(value, list):
            return [self._value(name, one, change) for one in value]
        if isinstance(value, dict):
            return {key: self._value(str(key), one, change) for key, one in value.items()}
        if isinstance(value, int) and not isinstance(value, bool):
            changed = change(name, str(value))
            return value if changed == str(value) else changed
        return value

    def _counted(self, done: _Done) -> str:
        text, counts = done
        self.counts.update(counts)
        return text

    def _texts(self, values: list[tuple[str, str]]) -> dict[tuple[str, str], _Done]:
        """Return for each column's name and text what becomes of it."""
        from luban.data.mask import Tokens, unmask

        done: dict[tuple[str, str], _Done] = {}
        if isinstance(self._how, Tokens):
            for name, text in values:
                back, n_back, n_left = unmask(text, self._how)
                counts = {"turned back": n_back, "not of this key": n_left}
                done[name, text] = back, {kind: n for kind, n in counts.items() if n}
            return done
        found = dict(zip(values, self._how.mask_all([text for _, text in values]), strict=True))
        done = {value: (one.text, _kinds(one.found)) for value, one in found.items()}
        short = [one for one in values if not found[one].found and len(one[1]) <= _SHORT]
        leads = [f"{name}: " for name, _ in short]
        told = self._how.mask_all([lead + text for lead, (_, text) in zip(leads, short, strict=True)])
        for value, lead, one in zip(short, leads, told, strict=True):
            if one.found and one.found[0].start >= len(lead):
                done[value] = one.text[len(lead) :], _kinds(one.found)
        return done


def _kinds(found: Iterable[Personal]) -> Counter[str]:
    return Counter(one.kind for one in found)
