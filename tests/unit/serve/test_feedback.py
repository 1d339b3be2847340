"""Feedback within a server: ids that can't be forged, remarks that are checked and masked, posts that share a flush."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.bundle.made import LABELS, Made, made

from luban.bundle.names import NameFinder
from luban.data.mask import Masker
from luban.errors import BadRequest, Conflict, LubanError, NotFound, Overloaded, TooLarge, Unavailable
from luban.records import Prediction, Span
from luban.registry import feedback as kept
from luban.registry.feedback import Said
from luban.serve import feedback as feedbacks
from luban.serve.access import Principal
from luban.serve.answer_ids import AnswerIds
from luban.serve.batch import Batcher
from luban.serve.feedback import Feedback
from luban.serve.hosting import Answer, Hosting
from luban.serve.limits import Limits
from luban.serve.remarks import About, Reader, Remark, Stretch
from luban.serve.sources import FromFolder
from luban.serve.telemetry import Telemetry
from luban.store.database import open_database

SHOP = Principal(name="shop", tenant="north", scopes=frozenset({"predict", "feedback"}))
SECRET = bytes(range(32))
IDS = AnswerIds(SECRET)
CARD, LATE = "card lost", "refund | late"


def task(**changed: Any) -> Any:
    return SimpleNamespace(**{"per_token": False, "multi_label": False, **changed})


ABOUT = About(model="bank", version=3, task=task(), labels=frozenset(LABELS["classify"]), tenant="north")
TAGGED = replace(ABOUT, task=task(per_token=True), labels=frozenset({"person", "地点"}))
SEVERAL = replace(ABOUT, task=task(multi_label=True))
MASKING, RAW = Reader(IDS, SECRET, Masker()), Reader(IDS, SECRET, None)


def given(text: str, prediction: Prediction, about: About = ABOUT, *, rollout: int = 0, unit: bytes = b"") -> str:
    """Return the id of an answer that a version gave."""
    served: Any = SimpleNamespace(number=about.version, engine=SimpleNamespace(task=about.task))
    answered: Any = SimpleNamespace(predictions=[prediction])
    (id,) = IDS.made(Answer(served, answered, rollout, unit), [text], model=about.model, tenant=about.tenant)
    return id


def row(reader: Reader = MASKING, about: About = ABOUT, **said: Any) -> Said:
    (found,) = reader.rows([Remark(**said)], about, until=None)
    return found


class TestIds:
    def test_an_id_says_who_answered_what(self) -> None:
        id = given("a", Prediction(labels=(CARD,)), rollout=7, unit=b"12345678")
        found = IDS.read(id, model="bank", tenant="north")
        assert (found.version, found.rollout, found.unit) == (3, 7, b"12345678".hex())
        assert abs(found.at - time.time()) < 60
        assert found.text == IDS.of_text("a") != IDS.of_text("b")
        assert found.said == IDS.of_answer({"label": CARD}) != IDS.of_answer({"label": LATE})

    def test_no_two_answers_have_one(self) -> None:
        served: Any = SimpleNamespace(number=None, engine=SimpleNamespace(task=task()))
        answered: Any = SimpleNamespace(predictions=[Prediction(labels=(CARD,))] * 3)
        several = [IDS.made(Answer(served, answered), ["a"] * 3, model="bank", tenant="") for _ in range(2)]
        read = [IDS.read(id, model="bank", tenant="") for ids in several for id in ids]
        assert len({one.answer for one in read}) == 6
        assert [one.unit for one in read[:3]] == [read[0].unit] * 3 != [read[3].unit] * 3
        assert read[0].version is None and read[0].rollout is None

    def test_one_that_was_not_given_out_is_refused_wherever_it_was_changed(self) -> None:
        id = given("a", Prediction(labels=(CARD,)))
        for place in range(len(id)):
            changed = id[:place] + ("A" if id[place] != "A" else "B") + id[place + 1 :]
            with pytest.raises(BadRequest, match="no id of an answer of bank"):
                IDS.read(changed, model="bank", tenant="north")
        for wrong in ("", "x", id[:-1], id + "A", "é" * 84, "=" * 84):
            with pytest.raises(BadRequest, match="no id of an answer of bank"):
                IDS.read(wrong, model="bank", tenant="north")

    def test_it_is_good_for_its_model_tenant_and_registry_alone(self) -> None:
        id = given("a", Prediction(labels=(CARD,)))
        for ids, model, tenant in ((IDS, "faq", "north"), (IDS, "bank", "south"), (AnswerIds(b"x"), "bank", "north")):
            with pytest.raises(BadRequest):
                ids.read(id, model=model, tenant=tenant)


class TestRemarks:
    def test_what_was_wrong_and_what_is_right(self) -> None:
        id = given("我的卡", Prediction(labels=(CARD,)), rollout=7, unit=b"12345678")
        found = row(id=id, text="我的卡", label=LATE, source="user-7", comment="late")
        assert (found.version, found.rollout, found.unit, found.wrong) == (3, 7, b"12345678".hex(), True)
        assert (found.text, found.truth, found.said) == ("我的卡", {"label": LATE}, {"label": CARD})
        assert (found.source, found.comment, found.masked) == ("user-7", "late", True)
        assert row(id=id, label=CARD).wrong is False

    def test_a_right_answer_is_its_own_label(self) -> None:
        id = given("a", Prediction(labels=(CARD,)))
        found = row(id=id, text="a", right=True)
        assert (found.wrong, found.truth, found.said) == (False, {"label": CARD}, {"label": CARD})
        found = row(id=id, right=False)
        assert (found.wrong, found.truth, found.text) == (True, None, None)

    def test_a_text_without_an_answer_has_a_label_and_says_nothing_of_a_version(self) -> None:
        found = row(text="a", label=CARD)
        assert (found.answer, found.wrong, found.rollout, found.version) == ("", None, None, 3)

    def test_several_labels_have_no_order(self) -> None:
        id = given("a", Prediction(labels=(LATE, CARD)), SEVERAL)
        assert row(about=SEVERAL, id=id, labels=[CARD, LATE]).wrong is False
        assert row(about=SEVERAL, id=id, labels=[]).wrong is True
        assert row(about=SEVERAL, id=id, right=True, text="a").truth is None, "it is not known which they were"

    def test_entities(self) -> None:
        id = given("Ann in 北京", Prediction(spans=(Span(0, 3, "person", "Ann", 0.9),)), TAGGED)
        spans = [Stretch(start=7, end=9, label="地点"), Stretch(start=0, end=3, label="person")]
        assert row(RAW, TAGGED, id=id, text="Ann in 北京", spans=spans[1:]).wrong is False
        found = row(RAW, TAGGED, id=id, text="Ann in 北京", spans=spans)
        assert found.wrong is True and not found.masked
        assert [one["start"] for one in (found.truth or {})["spans"]] == [0, 7]

    @pytest.mark.parametrize(("said", "about", "wanted", "hint"), [
        ({"text": "a", "label": "card"}, ABOUT, r"items\[0\].label: got 'card', wanted a label of bank",
         "known: card lost, refund | late, 转账"),
        ({"text": "a", "labels": [CARD]}, ABOUT, r"items\[0\].labels: bank is told by `label`", ""),
        ({"text": "a", "label": CARD}, SEVERAL, r"items\[0\].label: bank is told by `labels`", ""),
        ({"text": "a"}, ABOUT, r"items\[0\]: wanted `label`, what is right", ""),
        ({"label": CARD}, ABOUT, r"items\[0\]: wanted `id` or `text`", ""),
        ({"text": "a", "right": True}, ABOUT, r"items\[0\].right: wanted the `id`", "ids"),
        ({"id": "x", "right": True}, ABOUT, r"items\[0\].id: got 'x', which is no id of an answer of bank", "tenant"),
        ({"text": " ", "label": CARD}, ABOUT, r"items\[0\].text: it is blank", ""),
        ({"text": "a", "spans": [Stretch(start=0, end=2, label="person")]}, TAGGED,
         r"items\[0\].spans\[0\]: got 0 to 2, wanted a stretch of 1", ""),
        ({"text": "a", "spans": [Stretch(start=0, end=1, label="persons")]}, TAGGED, r"got 'persons'", "did you mean"),
        ({"spans": []}, TAGGED, r"items\[0\].spans: wanted the `text`", ""),
    ])  # fmt: skip
    def test_what_can_not_be_is_refused_with_its_place(
        self, said: dict[str, Any], about: About, wanted: str, hint: str
    ) -> None:
        with pytest.raises(BadRequest, match=wanted) as found:
            row(about=about, **said)
        assert hint in found.value.hint

    def test_what_contradicts_the_answer_is_refused(self) -> None:
        id = given("a", Prediction(labels=(CARD,)))
        with pytest.raises(BadRequest, match="not the text that this answer was given to"):
            row(id=id, text="b", right=True)
        with pytest.raises(BadRequest, match="`right` is true, and what is right is another one"):
            row(id=id, right=True, label=LATE)
        with pytest.raises(BadRequest, match="`right` is false, and what is right is the answer's own"):
            row(id=id, right=False, label=CARD)

    def test_what_is_too_long_is_refused(self) -> None:
        for name, most in (("text", 20_000), ("comment", 2000), ("source", 200)):
            with pytest.raises(TooLarge, match=rf"items\[0\].{name}: got {most + 1} characters"):
                row(**{"text": "a", "label": CARD, name: "a" * (most + 1)})

    def test_personal_data_is_masked_and_a_source_that_is_some_gets_a_pseudonym(self) -> None:
        said = {
            "text": "call 13812345678",
            "label": CARD,
            "source": "ann@shop.example",
            "comment": "or ann@shop.example",
        }
        found = row(**said)
        assert (found.text, found.comment) == ("call <PHONE>", "or <EMAIL>")
        assert found.source == kept.pseudonym(SECRET, "ann@shop.example") and "ann" not in found.source
        raw = row(RAW, **said)
        assert (raw.text, raw.comment, raw.source, raw.masked) == (*list(said.values())[::3], said["source"], False)

    def test_an_answer_to_a_text_with_personal_data_is_found_by_the_text_as_it_was(self) -> None:
        id = given("call 13812345678", Prediction(labels=(CARD,)))
        assert row(id=id, text="call 13812345678", right=True).text == "call <PHONE>"

    def test_entities_are_where_they_are_in_the_masked_text(self) -> None:
        text = "mail ann@shop.example or 13812345678 late 北京"
        at = {part: text.index(part) for part in ("ann@", "shop", "late", "北京", "or")}
        spans = [
            Stretch(start=at["ann@"], end=at["ann@"] + 16, label="person"),
            Stretch(start=at["shop"], end=at["or"] + 2, label="地点"),
            Stretch(start=at["late"], end=at["late"] + 4, label="person"),
            Stretch(start=at["北京"], end=at["北京"] + 2, label="地点"),
        ]
        found = row(about=TAGGED, text=text, spans=spans)
        assert found.text == "mail <EMAIL> or <PHONE> late 北京"
        assert [(found.text[one["start"] : one["end"]], one["label"]) for one in (found.truth or {})["spans"]] == [
            ("<EMAIL>", "person"), ("<EMAIL> or", "地点"), ("late", "person"), ("北京", "地点"),
        ]  # fmt: skip

    def test_what_no_database_keeps_is_replaced(self) -> None:
        assert row(RAW, text="a\0b\ud800c", label=CARD).text == "a\ufffdb\ufffdc"


@dataclass(frozen=True)
class Inside:
    """A server's models and what takes feedback on them."""

    hosting: Hosting
    feedback: Feedback
    telemetry: Telemetry

    async def said(self, *remarks: Remark, once: str = "", principal: Principal = SHOP, limit_s: float = 20.0) -> Any:
        return await self.feedback.take(principal, "bank", remarks, once, time.monotonic() + limit_s)

    async def answered(self, *texts: str, principal: Principal = SHOP) -> tuple[Answer, list[str]]:
        answer = await self.hosting.predict("bank", texts, time.monotonic() + 20)
        return answer, await self.feedback.ids(principal, answer, texts)


@pytest.fixture
def place(tmp_path: Path) -> str:
    open_database(str(tmp_path), create=True).close()
    return str(tmp_path)


@pytest.fixture
def within(classify: Made, place: str) -> Iterator[Callable[..., Any]]:
    """Return what runs something with a server's inside, on an event loop."""
    batcher = Batcher()

    def run(main: Callable[[Inside], Awaitable[Any]], **given: Any) -> Any:
        async def whole() -> Any:
            telemetry = Telemetry()
            hosting = Hosting({"bank": FromFolder(classify.folder)}, batcher, telemetry, threads=1)
            inside = Inside(hosting, Feedback(hosting, Limits(), telemetry, **{"place": place, **given}), telemetry)
            try:
                async with asyncio.timeout(60):
                    return await main(inside)
            finally:
                await inside.feedback.close()
                await hosting.close()

        return asyncio.run(whole())

    yield run
    batcher.close()


def listed(place: str) -> list[kept.Kept]:
    database = open_database(place)
    try:
        return kept.listed(database)
    finally:
        database.close()


def test_from_an_answer_to_what_is_kept(within: Callable[..., Any], place: str) -> None:
    async def main(inside: Inside) -> Any:
        answer, ids = await inside.answered("ab 13812345678", "cd")
        label = answer.predictions[0].label
        other = next(one for one in LABELS["classify"] if one != label)
        taken = await inside.said(
            Remark(id=ids[0], text="ab 13812345678", label=other), Remark(id=ids[1], right=True), once="k"
        )
        again = await inside.said(
            Remark(id=ids[0], text="ab 13812345678", label=other), Remark(id=ids[1], right=True), once="k"
        )
        assert taken == again and taken.state == "quarantined"
        with pytest.raises(Conflict):
            await inside.said(Remark(id=ids[1], right=False), once="k")
        with pytest.raises(BadRequest, match="no id of an answer"):
            await inside.said(Remark(id=ids[1], right=True), principal=replace(SHOP, tenant="south"))
        assert b'luban_feedback_total{model="bank",said="wrong"}' in inside.telemetry.text()
        return label, other, taken.ids

    label, other, ids = within(main)
    first, second = listed(place)
    assert [first.id, second.id] == ids
    assert (first.text, first.wrong, first.truth, first.said) == (
        "ab <PHONE>",
        True,
        {"label": other},
        {"label": label},
    )
    assert (second.wrong, second.text, second.caller, second.tenant) == (False, None, "shop", "north")
    assert first.until is not None and 364 < (int(first.until[:4]) - int(first.at[:4])) * 365 < 366


def test_names_that_a_bundle_finds_are_masked_too(
    within: Callable[..., Any], place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle, text = made(tmp_path_factory, "tag", "onnx").folder, "so kind and warm , 13812345678"
    wanted = Masker(finders=[NameFinder.open(bundle)]).mask(text)
    assert "<NAME>" in wanted.text, "the random model tags something"

    async def main(inside: Inside) -> None:
        await inside.said(Remark(text=text, label=LABELS["classify"][0]))

    within(main, names_by=[str(bundle)])
    assert listed(place)[0].text == wanted.text


def test_an_id_is_good_after_a_restart_and_on_another_server(within: Callable[..., Any], place: str) -> None:
    async def answer(inside: Inside) -> str:
        return (await inside.answered("ab"))[1][0]

    id = within(answer)
    within(lambda inside: inside.said(Remark(id=id, right=False)), raw=True, keep_days=0)
    (row,) = listed(place)
    assert (row.wrong, row.masked, row.until) == (True, False, None)


def test_many_posts_at_once_share_transactions(
    within: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    add = kept.add
    monkeypatch.setattr(kept, "add", lambda database, posts: (batches.append(len(posts)), add(database, posts))[1])

    async def main(inside: Inside) -> list[str]:
        await inside.said(Remark(text="first", label=CARD))
        found = await asyncio.gather(
            *(
                inside.said(Remark(text=f"text {number % 20}", label=CARD), once=f"{number % 20}")
                for number in range(40)
            )
        )
        return [one.ids[0] for one in found]

    ids = within(main)
    assert ids[:20] == ids[20:] and len(set(ids)) == 20
    assert len(listed(place)) == 21
    assert sum(batches) == 41 and len(batches) < 20


def test_what_goes_wrong_on_the_disk_is_told_to_all_who_wait_and_kept_later(
    within: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = kept.add

    def full(*_: Any) -> Any:
        raise LubanError(f"{place}: the disk is full", hint="free some space")

    async def main(inside: Inside) -> None:
        monkeypatch.setattr(kept, "add", full)
        found = await asyncio.gather(
            *(inside.said(Remark(text="a", label=CARD), once=str(number)) for number in range(3)),
            return_exceptions=True,
        )
        assert [type(one) for one in found] == [Unavailable] * 3
        assert all(place not in str(one) and "same `once`" in str(one) for one in found)
        monkeypatch.setattr(kept, "add", add)
        await inside.said(Remark(text="a", label=CARD), once="0")

    within(main)
    assert len(listed(place)) == 1


def test_who_leaves_may_come_back(within: Callable[..., Any], place: str) -> None:
    async def main(inside: Inside) -> None:
        leaving = asyncio.create_task(inside.said(Remark(text="a", label=CARD), once="k"))
        staying = asyncio.create_task(inside.said(Remark(text="b", label=CARD)))
        while not inside.feedback._waiting and inside.feedback._writing is None:
            await asyncio.sleep(0)
        leaving.cancel()
        await staying
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await inside.said(Remark(text="a", label=CARD), once="k")

    within(main)
    assert sorted(one.text or "" for one in listed(place)) == ["a", "b"]


def test_more_than_the_disk_takes_is_turned_away(
    within: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedbacks, "_WAITING", 3)

    async def main(inside: Inside) -> list[Any]:
        await inside.said(Remark(text="first", label=CARD))
        posts = [inside.feedback._post(inside.feedback._reader, SHOP, [Remark(text="a", label=CARD)], ABOUT, "")]  # type: ignore[arg-type]
        return await asyncio.gather(*(inside.feedback._keep(post) for post in posts * 5), return_exceptions=True)

    found = within(main)
    assert sum(isinstance(one, Overloaded) for one in found) == 2 and len(listed(place)) == 4


def test_too_much_at_once_and_nothing_at_all(within: Callable[..., Any]) -> None:
    async def main(inside: Inside) -> None:
        with pytest.raises(BadRequest, match="items: got none"):
            await inside.said()
        with pytest.raises(TooLarge, match="items: got 33, wanted 32"):
            await inside.said(*[Remark(text="a", label=CARD)] * 33)
        with pytest.raises(TooLarge, match="once: got 201"):
            await inside.said(Remark(text="a", label=CARD), once="k" * 201)

    within(main)


@pytest.mark.parametrize("place_given", ["", "/nowhere/registry"])
def test_without_a_registry_it_says_so(within: Callable[..., Any], place_given: str) -> None:
    async def main(inside: Inside) -> None:
        with pytest.raises(NotFound, match="no registry"):
            await inside.said(Remark(text="a", label=CARD))
        with pytest.raises(NotFound, match="no registry"):
            await inside.answered("a")

    within(main, place=place_given)
