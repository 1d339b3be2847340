"""What callers say of answers, as a command has it: listed, written to a labelled file, deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import BadRequest, NotFound
from luban.stages.access import opened_database, span_s
from luban.stages.registering import whoami

if TYPE_CHECKING:
    from luban.registry.feedback import Kept, Which
    from luban.store.database import Database

_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What became of feedback in a file."""

    output: Path
    rows: int
    """Rows written: each has a text and what is right for it."""
    without: int
    """What was left out, as it lacks a text or says only that an answer was wrong."""
    replaced: int
    """What was left out, as something was said of the same answer later."""
    labels: Mapping[str, int]
    """Label -> rows; for tagging, spans."""


def list_feedback(
    reference: str = "",
    *,
    source: str = "",
    caller: str = "",
    tenant: str = "",
    state: str = "",
    last: int = 0,
    registry: str | None = None,
) -> list[Kept]:
    """Return what was said, the oldest first.

    Args:
        reference: a model, or a version of it as `bank@3`; empty for all.
        source: from whom; as it was given, or its pseudonym.
        caller: name of an access key.
        tenant: of the callers.
        state: `quarantined`, `approved` or `rejected`; empty for all.
        last: no more than so many, the newest; 0 for all.
        registry: a folder or URL; see `registry_place`.
    """
    from luban.registry import feedback

    which = _which(reference, source=source, caller=caller, tenant=tenant, state=state)
    with opened_database(registry) as database:
        return feedback.listed(database, which, last=last)


def export_feedback(
    reference: str,
    output: Path,
    *,
    source: str = "",
    caller: str = "",
    tenant: str = "",
    state: str = "",
    registry: str | None = None,
) -> Exported:
    """Write what was said to a file that `luban train` reads: one row a text with what is right for it.

    Of several remarks on one answer the last one counts. The columns beside text and label say where a row comes from.

    Args:
        reference: a model, or a version of it as `bank@3`.
        output: .jsonl, .csv, .tsv or .parquet; it appears when it is whole.
        source: from whom.
        caller: name of an access key.
        tenant: of the callers.
        state: `quarantined`, `approved` or `rejected`; empty for all.
        registry: a folder or URL.

    Raises:
        NotFound: nothing can be written: nobody said what is right for a text.
        BadRequest: several labels, or spans, are to be written as csv.
    """
    from luban.data.write import AnswerWriter

    which = _which(reference, source=source, caller=caller, tenant=tenant, state=state)
    if not which.model:
        raise BadRequest(
            "name the model whose feedback is to be written", hint="luban feedback export bank -o bank.jsonl"
        )
    counts: Counter[str] = Counter()
    n_rows = n_without = n_replaced = 0
    with opened_database(registry) as database:
        newest = _newest(database, which)
        try:
            with AnswerWriter(output) as writer:
                rows: list[dict[str, Any]] = []
                for one in _each(database, which):
                    if one.answer and newest[one.answer] != one.seq:
                        n_replaced += 1
                    elif one.text is None or one.truth is None:
                        n_without += 1
                    else:
                        rows.append(_row(one, output))
                        counts.update(_labels(one.truth))
                        n_rows += 1
                        if len(rows) >= _AT_ONCE:
                            writer.write(rows)
                            rows = []
                if not n_rows:
                    raise NotFound(
                        f"there is no feedback on {reference} that gives a text and what is right for it",
                        hint=f"{n_without} say less, and {n_replaced} were replaced: luban feedback list {reference}",
                    )
                writer.write(rows)
        except BaseException:
            output.with_name(f"{output.name}.part").unlink(missing_ok=True)
            raise
    return Exported(output=output, rows=n_rows, without=n_without, replaced=n_replaced, labels=dict(counts))


def delete_feedback(
    reference: str = "",
    *,
    source: str = "",
    caller: str = "",
    tenant: str = "",
    older: str = "",
    registry: str | None = None,
    who: str | None = None,
    why: str = "",
) -> int:
    """Delete what was said, and return how many rows that was; the audit keeps that it was done.

    Args:
        reference: a model, or a version of it as `bank@3`; empty for all.
        source: from whom; as it was given, or its pseudonym.
        caller: name of an access key.
        tenant: of the callers.
        older: kept longer ago than that, as `90d`, or before a day, as `2026-01-31`.
        registry: a folder or URL.
        who: who does it.
        why: the reason.

    Raises:
        BadRequest: nothing says which.
    """
    from luban.registry import feedback

    which = _which(reference, source=source, caller=caller, tenant=tenant, older=older)
    with opened_database(registry) as database:
        return feedback.remove(database, which, who=who or whoami(), why=why)


def _which(
    reference: str, *, source: str = "", caller: str = "", tenant: str = "", state: str = "", older: str = ""
) -> Which:
    from luban.registry.feedback import STATES, Which
    from luban.registry.version import parse, wanted_name

    model, version = "", None
    if "@" in reference:
        meant = parse(reference)
        if meant.number is None:
            raise BadRequest(f"{reference}: feedback is on versions, not on aliases", hint=f"{meant.name}@NUMBER")
        model, version = meant.name, meant.number
    elif reference:
        model = wanted_name(reference)
    if state and state not in STATES:
        raise BadRequest(f"there is no state {state!r}", hint=", ".join(STATES))
    before = ""
    if (seconds := span_s(older)) is not None:
        ago = -seconds if "-" in older else seconds  # a day, or a length of time
        if ago < 0:
            raise BadRequest(f"{older} is still to come", hint="a length of time as 90d, or a day that is over")
        moment = datetime.now(UTC) - timedelta(seconds=ago)
        before = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    found = next((one for one in STATES if one == state), None)
    return Which(model=model, version=version, source=source, caller=caller, tenant=tenant, state=found, before=before)


def _each(database: Database, which: Which) -> Iterator[Kept]:
    from luban.registry import feedback

    return feedback.each(database, which)


def _newest(database: Database, which: Which) -> dict[str, int]:
    """Return for each answer the number of what was said of it last."""
    return {one.answer: one.seq for one in _each(database, which) if one.answer}


def _row(one: Kept, output: Path) -> dict[str, Any]:
    assert one.truth is not None
    ((name, right),) = one.truth.items()
    if name != "label" and output.suffix.lower() in (".csv", ".tsv"):
        raise BadRequest(f"{output}: `{name}` are written as .jsonl or .parquet", hint="name such a file")
    return {
        "text": one.text, name: right, "feedback": one.id, "version": one.version, "wrong": one.wrong,
        "source": one.source, "caller": one.caller, "state": one.state, "at": one.at,
    }  # fmt: skip


def _labels(truth: Mapping[str, Any]) -> list[str]:
    if "spans" in truth:
        return [span["label"] for span in truth["spans"]]
    return list(truth["labels"]) if "labels" in truth else [truth["label"] or "(none)"]
