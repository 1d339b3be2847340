"""A file without its personal data, for who may not see it; and back, for who has the key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import BadRequest, Conflict, did_you_mean
from luban.records import Listener, Progress, ignore

if TYPE_CHECKING:
    from luban.data.mask import Masker, Tokens
    from luban.data.personal import Finder
    from luban.data.raw import Raw

_ROWS = 4096
_SHORT = 64
"""Characters up to which a value is read together with its column's name: 'name: 王伟' says what '王伟' is."""
_NO_ROWS = ("conll", "folder")
MEANS = {
    "per": "name", "person": "name", "name": "name", "人名": "name", "姓名": "name", "loc": "address",
    "location": "address", "address": "address", "gpe": "address", "地址": "address", "地点": "address",
}  # fmt: skip
"""What labels of a bundle that tags names are taken for, in small letters."""


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
    bundle: str | None = None,
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
        bundle: a bundle, or version, that tags names: finds those that no word before or after gives away.
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
    finders = [names_finder(bundle)] if bundle else []
    masker = Masker(kinds or KINDS, tokens=tokens, finders=finders)
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


def names_finder(bundle: str) -> Finder:
    """Return what finds names and places by a bundle that tags them.

    Raises:
        BadRequest: it tags nothing, or nothing of the kind.
    """
    from luban.bundle.engine import Engine
    from luban.data.personal import Personal
    from luban.stages.registering import find_bundle

    engine = Engine.open(find_bundle(bundle))
    means = {label: MEANS[label.lower()] for label in engine.labels if label.lower() in MEANS}
    if not engine.task.per_token or not means:
        raise BadRequest(f"{bundle} does not tag names", hint=f"labels that are known: {', '.join(sorted(MEANS))}")

    def find(text: str) -> Iterator[Personal]:
        for span in engine.predict([text])[0].spans if text.strip() else ():
            if span.label in means:
                yield Personal(means[span.label], span.start, span.end)

    return find


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
        after = [
            {name: self._value(name, value) if self._is_meant(name) else value for name, value in row.items()}
            for row in before
        ]
        self.n_rows += len(before)
        self.n_changed += sum(one != other for one, other in zip(before, after, strict=True))
        return after

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

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(name, value)
        if isinstance(value, list):
            return [self._value(name, one) for one in value]
        if isinstance(value, dict):
            return {key: self._value(str(key), one) for key, one in value.items()}
        if isinstance(value, int) and not isinstance(value, bool):
            masked = self._text(name, str(value))
            return value if masked == str(value) else masked
        return value

    def _text(self, name: str, text: str) -> str:
        from luban.data.mask import Tokens, unmask

        if isinstance(self._how, Tokens):
            text, done, left = unmask(text, self._how)
            self.counts.update({kind: n for kind, n in (("turned back", done), ("not of this key", left)) if n})
            return text
        found = self._how.mask(text)
        if not found.found and len(text) <= _SHORT:
            lead = f"{name}: "
            told = self._how.mask(lead + text)
            if told.found and told.found[0].start >= len(lead):
                found = told
                self.counts.update(one.kind for one in found.found)
                return found.text[len(lead) :]
        self.counts.update(one.kind for one in found.found)
        return found.text
