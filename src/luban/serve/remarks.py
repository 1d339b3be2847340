"""What callers say of answers, as it comes in: checked against the task's labels, masked, and made ready to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from luban.errors import BadRequest, TooLarge, did_you_mean
from luban.serve.answer_ids import AnswerIds, Given, in_order

if TYPE_CHECKING:
    from luban.data.mask import Masked, Masker
    from luban.registry.feedback import Said
    from luban.tasks import Task

TEXT_CHARACTERS = 20_000
COMMENT_CHARACTERS = 2000
SOURCE_CHARACTERS = 200
ONCE_CHARACTERS = 200
SPANS = 1000


class Stretch(Struct, forbid_unknown_fields=True, kw_only=True):
    """A labelled stretch of a text, as it should have been found."""

    start: int
    """First character, counted from 0 in code points."""
    end: int
    """One past the last character."""
    label: str


class Remark(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is said of one answer, or of one text."""

    id: str | UnsetType = UNSET
    """Id of the answer, as it came with it where `ids` were asked for."""
    text: str | UnsetType = UNSET
    """The text; with `id` the one that was answered. Without a text nothing can be learnt from it."""
    right: bool | UnsetType = UNSET
    """Whether the answer was right."""
    label: str | UnsetType = UNSET
    """The right label."""
    labels: list[str] | UnsetType = UNSET
    """The right labels, where a text may have several; none where none is right."""
    spans: list[Stretch] | UnsetType = UNSET
    """The right entities, where texts are tagged; none where there are none."""
    source: str | UnsetType = UNSET
    """Who or what it comes from, such as a user's id or a review's name: by it, it can be deleted."""
    comment: str | UnsetType = UNSET


class Remarks(Struct, forbid_unknown_fields=True, kw_only=True):
    """Feedback on a few answers: all of it is kept, or none."""

    items: list[Remark]
    once: str | UnsetType = UNSET
    """A key of your own making, another one for each request: what is sent again under it is not kept again."""


class Taken(Struct, kw_only=True):
    """What was kept."""

    ids: list[str]
    """One an item, in their order; the same where it was sent before."""
    state: str
    """`quarantined`: nothing is learnt from it before it was approved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What remarks are about."""

    model: str
    """Name in the registry."""
    version: int | None
    """The one that answers now."""
    task: Task
    labels: frozenset[str]
    tenant: str


class Reader:
    """Turns remarks into rows. Threads may share it."""

    def __init__(self, ids: AnswerIds, secret: bytes, masker: Masker | None) -> None:
        """Store how.

        Args:
            ids: reads the ids of answers.
            secret: makes pseudonyms.
            masker: masks personal data; None keeps it as it is.
        """
        self._ids = ids
        self._secret = secret
        self._masker = masker

    def rows(self, remarks: Sequence[Remark], about: About, *, until: str | None) -> tuple[Said, ...]:
        """Return rows as they are to be kept.

        Raises:
            BadRequest: one can't be; the message has its index.
            TooLarge: a text is too long.
        """
        return tuple(self._row(one, f"items[{place}]", about, until) for place, one in enumerate(remarks))

    def _row(self, one: Remark, place: str, about: About, until: str | None) -> Said:
        from luban.registry.feedback import Said, pseudonym

        given = self._given(one, place, about)
        text = _text(one.text, f"{place}.text", TEXT_CHARACTERS)
        truth = _truth(one, place, about)
        if given is None and text is None:
            raise BadRequest(
                f"{place}: wanted `id` or `text`", hint="the id of the answer, or the text that the right label is of"
            )
        if truth is None and one.right is UNSET:
            wanted = _form(about.task)
            raise BadRequest(f"{place}: wanted `{wanted}`, what is right, or with an `id` whether the answer was right")
        if given is None and one.right is not UNSET:
            raise BadRequest(
                f"{place}.right: wanted the `id` of the answer that it is about",
                hint='ask for ids: {"texts": [...], "ids": true}',
            )
        if given is not None and text is not None and self._ids.of_text(one.text) != given.text:
            raise BadRequest(
                f"{place}.text: it is not the text that this answer was given to", hint="send it as it was asked"
            )
        wrong = None if given is None else self._is_wrong(one, truth, given, place)
        known = None if given is None else self._said(given, about)
        if wrong is False and truth is None:
            truth = known
        source = _text(one.source, f"{place}.source", SOURCE_CHARACTERS) or ""
        comment = _text(one.comment, f"{place}.comment", COMMENT_CHARACTERS) or ""
        if self._masker is not None:
            comment = self._masker.mask(comment).text
            source = pseudonym(self._secret, source) if self._masker.mask(source).found else source
            if text is not None:
                masked = self._masker.mask(text)
                truth = _moved(truth, masked)
                text = masked.text
        return Said(
            model=about.model, version=about.version if given is None else given.version,
            answer=given.answer if given else "", rollout=given.rollout if given else None,
            unit=given.unit if given and given.rollout else "", wrong=wrong, text=text, truth=truth, said=known,
            source=source, comment=comment, masked=self._masker is not None, until=until,
        )  # fmt: skip

    def _given(self, one: Remark, place: str, about: About) -> Given | None:
        if isinstance(one.id, UnsetType):
            return None
        try:
            return self._ids.read(one.id, model=about.model, tenant=about.tenant)
        except BadRequest as error:
            raise BadRequest(f"{place}.id: {error.message}", hint=error.hint) from None

    def _is_wrong(self, one: Remark, truth: Any, given: Given, place: str) -> bool:
        same = None if truth is None else self._ids.of_answer(truth) == given.said
        if one.right is UNSET:
            return not same
        if same is not None and same != one.right:
            said = "another one than the answer's" if one.right else "the answer's own"
            raise BadRequest(
                f"{place}: `right` is {str(one.right).lower()}, and what is right is {said}",
                hint="leave one of them out",
            )
        return not one.right

    def _said(self, given: Given, about: About) -> dict[str, Any] | None:
        """Return what the answer was: found by its hash among the labels; of several labels, and of spans, not."""
        if _form(about.task) != "label":
            return None
        each = ({"label": label} for label in (*about.labels, None))
        return next((one for one in each if self._ids.of_answer(one) == given.said), None)


def _truth(one: Remark, place: str, about: About) -> dict[str, Any] | None:
    """Return what is said to be right, in the form of answers; None where nothing is."""
    wanted = _form(about.task)
    for name in ("label", "labels", "spans"):
        if getattr(one, name) is not UNSET and name != wanted:
            raise BadRequest(f"{place}.{name}: {about.model} is told by `{wanted}`, not by `{name}`")
    if not isinstance(one.label, UnsetType):
        _want_known([one.label], f"{place}.label", about)
        return {"label": one.label}
    if not isinstance(one.labels, UnsetType):
        _want_known(one.labels, f"{place}.labels", about)
        return {"labels": sorted(set(one.labels))}
    if isinstance(one.spans, UnsetType):
        return None
    if isinstance(one.text, UnsetType):
        raise BadRequest(f"{place}.spans: wanted the `text` that they are of")
    if len(one.spans) > SPANS:
        raise TooLarge(f"{place}.spans: got {len(one.spans)}, wanted {SPANS} at most")
    _want_known([span.label for span in one.spans], f"{place}.spans", about)
    for number, span in enumerate(one.spans):
        if not 0 <= span.start < span.end <= len(one.text):
            raise BadRequest(
                f"{place}.spans[{number}]: got {span.start} to {span.end}, wanted a stretch of {len(one.text)}"
            )
    return {"spans": in_order({"start": s.start, "end": s.end, "label": s.label} for s in one.spans)}


def _form(task: Task) -> str:
    """Return how what is right is said."""
    return "spans" if task.per_token else "labels" if getattr(task, "multi_label", False) else "label"


def _want_known(labels: Sequence[str], place: str, about: About) -> None:
    for label in labels:
        if label not in about.labels:
            shown = label if len(label) <= 60 else f"{label[:60]}..."
            raise BadRequest(
                f"{place}: got {shown!r}, wanted a label of {about.model}", hint=did_you_mean(shown, about.labels)
            )


def _text(given: str | UnsetType, place: str, most: int) -> str | None:
    """Return a text as every database can keep it; None where there is none.

    Raises:
        BadRequest: it is blank.
        TooLarge: it has more characters than it may.
    """
    if isinstance(given, UnsetType):
        return None
    if len(given) > most:
        raise TooLarge(f"{place}: got {len(given)} characters, wanted {most} at most")
    if not given.strip():
        raise BadRequest(f"{place}: it is blank", hint="leave it out")
    # Half characters have no UTF-8, and PostgreSQL has no U+0000; one for one, so that spans stay where they are.
    return "".join("�" if "\ud800" <= one <= "\udfff" or one == "\0" else one for one in given)


def _moved(truth: dict[str, Any] | None, masked: Masked) -> dict[str, Any] | None:
    """Return what is right with its spans where they are in the masked text; one within what was masked covers it."""
    if truth is None or "spans" not in truth or not masked.found:
        return truth
    ends: list[tuple[int, int, int, int]] = []
    shift = 0
    for one in masked.found:
        start = one.start + shift
        end = masked.text.index(">", start) + 1
        ends.append((one.start, one.end, start, end))
        shift = end - one.end

    def moved(at: int, *, is_end: bool) -> int:
        shift = 0
        for start, end, new_start, new_end in ends:
            if start < at < end:
                return new_end if is_end else new_start
            if at <= start:
                break
            shift = new_end - end
        return at + shift

    found = [
        {"start": moved(one["start"], is_end=False), "end": moved(one["end"], is_end=True), "label": one["label"]}
        for one in truth["spans"]
    ]
    return {"spans": in_order({tuple(one.values()): one for one in found}.values())}
