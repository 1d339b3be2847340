"""What a registry promises, held by SQLite and PostgreSQL alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import registries
from children import CHILDREN
from sqlalchemy import delete, insert, text, update

from luban import files
from luban.errors import BadRequest, BelowGate, Conflict, CorruptBundle, GateError, LubanError, NotFound, RegistryError
from luban.registry import aliases, audit, compare
from luban.registry.lineage import lineage
from luban.registry.store import Registry, facts_of, open_registry
from luban.store import tables
from luban.store.database import Database

WHO = "ann@shop"


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def registry(place: str, tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(place, objects=str(tmp_path / "objects"), create=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "good": registries.bundle(folder / "good", seed=1, wrong=0.05),
        "like": registries.bundle(folder / "like", seed=2, wrong=0.055),
        "bad": registries.bundle(folder / "bad", seed=3, wrong=0.5),
        "gated": registries.bundle(folder / "gated", seed=4, wrong=0.2, gates={"accuracy": 0.99, "macro_f1": 0.1}),
        "bare": registries.bundle(folder / "bare", seed=5, wrong=0.02, licence=""),
        "old": registries.bundle(folder / "old", seed=6, wrong=0.05, with_answers=False),
        "other": registries.bundle(folder / "other", seed=7, wrong=0.5, test_seed=9),
        "small": registries.bundle(folder / "small", seed=8, wrong=0.5, lose_at_most=0.6),
    }


def add(registry: Registry, bundle: Path, name: str = "bank", **more: Any) -> str:
    return str(registry.register(bundle, name=name, who=WHO, **more).version)


def test_versions_are_numbered_by_name_and_found_again(registry: Registry, made: dict[str, Path]) -> None:
    assert [add(registry, made[one]) for one in ("good", "like")] == ["bank@1", "bank@2"]
    assert add(registry, made["good"], "shop") == "shop@1"
    first = registry.version("bank@1")
    assert (first.who, first.task, first.base, first.digest) == (WHO, "classify", "tiny", digest(made["good"]))
    assert first.main is not None and first.main[0] == "accuracy" and first.main[1].n == 300
    assert registry.names() == {"bank": 2, "shop": 1}
    assert files.verify(registry.bundle(first))["digest"] == first.digest
    # The same files are kept once, whatever they are called.
    assert len(list(registry.objects.stored())) == 2


def digest(folder: Path) -> str:
    found: str = files.read_json(folder / files.MANIFEST)["digest"]
    return found


def test_the_same_bundle_stays_the_version_that_it_is(registry: Registry, made: dict[str, Path]) -> None:
    first = registry.register(made["good"], name="bank", who=WHO, note="first")
    again = registry.register(made["good"], name="bank", who="bob", note="again")
    assert first.is_new and not again.is_new
    assert again.version == first.version
    assert len(registry.entries()) == 1


def test_what_is_not_there_is_told_with_what_is(registry: Registry, made: dict[str, Path]) -> None:
    add(registry, made["good"])
    with pytest.raises(NotFound, match="no model 'bnak'") as found:
        registry.version("bnak@1")
    assert "did you mean 'bank'?" in found.value.hint
    with pytest.raises(NotFound, match="no version 7"):
        registry.version("bank@7")
    with pytest.raises(NotFound, match="bank has no alias 'champion'"):
        registry.version("bank")
    aliases.promote(registry, "bank@1", who=WHO)
    with pytest.raises(NotFound, match="bank has no alias 'champoin'") as found:
        registry.version("bank@champoin")
    assert "did you mean 'champion'?" in found.value.hint
    for wrong in ("bank@", "@champion", "a/b@1", "bank@1@2", "bänk@1", ""):
        with pytest.raises(BadRequest):
            registry.version(wrong)


def test_a_damaged_bundle_is_refused_by_file_and_leaves_nothing(
    registry: Registry, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(made["good"], folder)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(CorruptBundle, match=r"model\.onnx was changed"):
        add(registry, folder)
    assert registry.names() == {} and registry.entries() == [] and list(registry.objects.stored()) == []


def test_a_file_of_another_kind_is_refused_though_it_is_sealed(registry: Registry, tmp_path: Path) -> None:
    for number, name in enumerate(("weights.pkl", "model.zip", "more/inside.json")):
        folder = registries.bundle(tmp_path / f"b{number}", seed=number)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        (folder / files.MANIFEST).unlink()
        files.seal(folder, {"kind": "bundle"})
        with pytest.raises(CorruptBundle, match=name):
            add(registry, folder)
    assert registry.names() == {} and list(registry.objects.stored()) == []


def test_an_object_that_was_changed_or_lost_is_told(registry: Registry, made: dict[str, Path]) -> None:
    version = registry.version(add(registry, made["good"]))
    folder = registry.bundle(version)
    # A whole bundle, but not the one that was registered.
    shutil.rmtree(folder)
    shutil.copytree(made["like"], folder)
    with pytest.raises(CorruptBundle, match="another digest"):
        registry.bundle(version)
    with pytest.raises(CorruptBundle):
        registry.evidence(version)
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match="is not there"):
        registry.bundle(version)
    # Registered anew under another name, the bundle is stored anew.
    again = registry.version(add(registry, made["good"], "rescued"))
    assert files.verify(registry.bundle(again))["digest"] == version.digest


def test_promotion_is_refused_below_the_gates_by_how_much(registry: Registry, made: dict[str, Path]) -> None:
    version = registry.version(add(registry, made["gated"]))
    with pytest.raises(BelowGate, match=r"accuracy 0\.\d+ is below the gate 0\.99, by 0\.\d+") as found:
        aliases.promote(registry, "bank@1", who=WHO)
    assert found.value.allowed == 0.99 and found.value.measured == version.scores["accuracy"].value
    assert registry.version("bank@1").aliases == ()
    with pytest.raises(BadRequest, match="say why"):
        aliases.promote(registry, "bank@1", who=WHO, force=True)
    move = aliases.promote(registry, "bank@1", who=WHO, force=True, why="the demo is today")
    assert move.evidence["refused"] and registry.version("bank@champion").number == 1
    told = registry.entries()[-1]
    assert (told.action, told.facts["why"]) == ("promote", "the demo is today")
    assert told.facts["evidence"]["refused"] == move.evidence["refused"]


def test_what_is_surely_worse_is_refused_and_what_may_be_as_good_is_not(
    registry: Registry, made: dict[str, Path]
) -> None:
    for one in ("good", "bad", "like", "old", "other", "small"):
        add(registry, made[one])
    aliases.promote(registry, "bank@1", who=WHO)
    with pytest.raises(GateError, match=r"accuracy is 0\.\d+ worse than that of bank@1 on the same 300 test rows"):
        aliases.promote(registry, "bank@2", who=WHO)
    like = aliases.promote(registry, "bank@3", who=WHO)
    assert like.evidence["difference"]["n"] == 300 and like.before == 1
    assert "has no answers" in aliases.promote(registry, "bank@4", who=WHO).evidence["not_compared"]
    assert "has no answers" in aliases.promote(registry, "bank@1", who=WHO).evidence["not_compared"]
    assert "different test rows" in aliases.promote(registry, "bank@5", who=WHO).evidence["not_compared"]
    aliases.promote(registry, "bank@1", who=WHO)
    with pytest.raises(GateError):
        aliases.promote(registry, "bank@2", who=WHO)
    assert aliases.promote(registry, "bank@2", who=WHO, lose_at_most=0.9).after == 2
    aliases.promote(registry, "bank@1", who=WHO)
    assert aliases.promote(registry, "bank@6", who=WHO).evidence["allowed"] == 0.6, "so much compression may lose"
    assert registry.verify_audit().broken is None


def test_other_aliases_are_free(registry: Registry, made: dict[str, Path]) -> None:
    add(registry, made["bare"])
    assert aliases.promote(registry, "bank@1", to="challenger", who=WHO).after == 1
    assert registry.version("bank@challenger").aliases == ("challenger",)
    for wrong in ("3", "a b", "", "../x"):
        with pytest.raises(BadRequest):
            aliases.promote(registry, "bank@1", to=wrong, who=WHO)


def test_a_card_that_is_not_complete_says_what_is_missing_and_how_to_add_it(
    registry: Registry, made: dict[str, Path]
) -> None:
    add(registry, made["bare"])
    with pytest.raises(RegistryError, match="does not state: licence") as found:
        aliases.promote(registry, "bank@1", who=WHO)
    assert 'luban register bank@1 --name bank --licence "..."' in found.value.hint
    again = registry.register(made["bare"], name="bank", who=WHO, stated={"licence": "Apache-2.0"})
    assert not again.is_new and again.version.card == {"licence": "Apache-2.0"}
    assert aliases.promote(registry, "bank@1", who=WHO).after == 1
    assert registry.entries()[1].facts == {"licence": "Apache-2.0"}
    with pytest.raises(BadRequest):
        registry.state(again.version, {"colour": "red"}, who=WHO)
    assert registry.verify_audit().broken is None


def test_rollback_goes_back_along_the_promotions(registry: Registry, made: dict[str, Path]) -> None:
    for one in ("good", "like", "old"):
        add(registry, made[one])
        aliases.promote(registry, "bank@" + str(registry.names()["bank"]), who=WHO)
    assert aliases.rollback(registry, "bank", who=WHO).after == 2
    aliases.promote(registry, "bank@3", who=WHO)
    assert [aliases.rollback(registry, "bank", who=WHO).after for _ in range(2)] == [2, 1]
    with pytest.raises(NotFound, match="named no version before 1"):
        aliases.rollback(registry, "bank", who=WHO)
    with pytest.raises(NotFound, match="has no alias 'canary'"):
        aliases.rollback(registry, "bank", alias="canary", who=WHO)
    assert [one.kind for one in aliases.moves(registry, "bank")].count("rollback") == 3


def test_what_was_done_is_not_done_again(registry: Registry, made: dict[str, Path]) -> None:
    for one in ("good", "like", "old"):
        add(registry, made[one])
        aliases.promote(registry, f"bank@{registry.names()['bank']}", who=WHO)
    before = len(registry.entries())
    assert not aliases.promote(registry, "bank@3", who=WHO).changed
    assert aliases.rollback(registry, "bank", who=WHO, expected=3).changed
    again = aliases.rollback(registry, "bank", who=WHO, expected=3)
    assert not again.changed and again.after == 2
    with pytest.raises(Conflict, match="is version 2, not 1"):
        aliases.rollback(registry, "bank", who=WHO, expected=1)
    first = aliases.rollback(registry, "bank", who=WHO, once="job-7")
    assert first.changed and first.after == 1
    assert aliases.rollback(registry, "bank", who=WHO, once="job-7").id == first.id
    with pytest.raises(Conflict, match="was used to rollback"):
        aliases.promote(registry, "bank@2", who=WHO, once="job-7")
    assert len(registry.entries()) == before + 2


def test_lineage_and_diff(registry: Registry, made: dict[str, Path]) -> None:
    add(registry, made["good"])
    add(registry, made["bad"], parent="bank@1")
    third = registry.version(add(registry, made["like"], parent="@2"))
    assert [str(one) for one in lineage(registry, third)] == ["bank@2", "bank@1"]
    with pytest.raises(NotFound):
        add(registry, made["old"], parent="bank@9")
    with pytest.raises(BadRequest, match="answers the task classify, and this bundle tag"):
        add(registry, made["old"], parent="bank@1", facts={**facts_of(made["old"]), "task": "tag"})
    found = compare.diff(registry, registry.version("bank@1"), registry.version("bank@2"))
    assert found.same_data and found.same_test_rows
    accuracy = next(one for one in found.scores if one.name == "accuracy")
    assert accuracy.before and accuracy.after and accuracy.difference
    assert accuracy.difference.value == pytest.approx(accuracy.after.value - accuracy.before.value)
    assert accuracy.difference.high < 0 < found.only_before
    assert {one.by for one in found.slices} >= {"shop", "length"}
    halves = [one for one in found.slices if one.by == "shop"]
    assert sum(one.one for one in halves) / 2 == pytest.approx(accuracy.after.value)
    assert [one.path for one in found.settings] == ["train.seed"]


class TestAudit:
    @pytest.fixture
    def filled(self, registry: Registry, made: dict[str, Path]) -> Registry:
        for one in ("good", "like"):
            add(registry, made[one])
        aliases.promote(registry, "bank@1", who=WHO)
        aliases.promote(registry, "bank@2", who=WHO)
        aliases.rollback(registry, "bank", who=WHO)
        return registry

    def test_the_chain_holds_and_can_be_noted(self, filled: Registry) -> None:
        found = filled.verify_audit()
        assert (found.n_entries, found.broken) == (5, None)
        assert filled.verify_audit(found.head).broken is None
        assert [one.seq for one in filled.entries(last=2)] == [4, 5]
        assert [one.action for one in filled.entries(subject="bank@champion")] == ["promote", "promote", "rollback"]
        with pytest.raises(BadRequest):
            filled.verify_audit("3")

    @pytest.mark.parametrize("table", ["audit", "versions", "moves"])
    def test_rows_that_are_written_once_can_not_be_changed(self, filled: Registry, table: str) -> None:
        for statement in (f"UPDATE {table} SET who = 'nobody'", f"DELETE FROM {table}"):
            with pytest.raises(RegistryError, match="written once"), filled.database.writing() as connection:
                connection.execute(text(statement))
        assert filled.verify_audit().broken is None

    TAMPERINGS = (
        ("changed", 2, [update(tables.AUDIT).where(tables.AUDIT.c.seq == 2).values(who="eve")]),
        ("removed", 3, [delete(tables.AUDIT).where(tables.AUDIT.c.seq == 3)]),
        ("the last one removed", 5, [delete(tables.AUDIT).where(tables.AUDIT.c.seq == 5)]),
        ("all removed", 1, [delete(tables.AUDIT)]),
        ("reordered", 3, [
            update(tables.AUDIT).where(tables.AUDIT.c.seq == 3).values(seq=99),
            update(tables.AUDIT).where(tables.AUDIT.c.seq == 4).values(seq=3),
            update(tables.AUDIT).where(tables.AUDIT.c.seq == 99).values(seq=4),
        ]),
        ("the alias moved by hand", 5, [update(tables.ALIASES).values(number=2)]),
        ("an alias made by hand", 5, [insert(tables.ALIASES).values(name="bank", alias="live", number=2)]),
        ("the head removed", 6, [delete(tables.AUDIT_HEAD)]),
        ("a card written by hand", 5, [insert(tables.CARDS).values(name="bank", number=1, what="use", text="all")]),
    )  # fmt: skip

    @pytest.mark.parametrize("case", TAMPERINGS, ids=lambda case: case[0])
    def test_tampering_is_noticed_and_the_first_broken_entry_named(self, filled: Registry, case: Any) -> None:
        _, broken, statements = case
        unfreeze(filled.database)
        with filled.database.writing() as connection:
            for statement in statements:
                connection.execute(statement)
        found = filled.verify_audit()
        assert found.broken == broken and found.problem

    def test_a_chain_written_anew_is_noticed_by_who_noted_an_entry(self, filled: Registry) -> None:
        noted = filled.verify_audit().head
        unfreeze(filled.database)
        with filled.database.writing() as connection:
            kept = audit.entries(connection)
            connection.execute(delete(tables.AUDIT))
            connection.execute(update(tables.AUDIT_HEAD).values(seq=0, hash=audit.START))
            for one in kept:
                audit.append(connection, who="eve", action=one.action, subject=one.subject, facts=one.facts)
        assert filled.verify_audit().broken is None, "the chain alone can't tell"
        assert filled.verify_audit(noted).broken == 5


def unfreeze(database: Database) -> None:
    """Take away what refuses changes, as one who owns the database can."""
    with database.writing() as connection:
        if database.kind == "sqlite":
            for name in (
                connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
            ):
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("DROP FUNCTION luban_written_once CASCADE"))


class TestObjectsAndRows:
    def test_orphans_go_after_an_hour_and_versions_stay(self, registry: Registry, made: dict[str, Path]) -> None:
        version = registry.version(add(registry, made["good"]))
        key, ours = registry._key(digest(made["like"]))
        assert ours
        registry.objects.put(key, made["like"])
        assert registry.collect().names == (), "somebody may be at it"
        assert registry.collect(older_than_s=-1.0).names == (key,)
        assert files.verify(registry.bundle(version))["digest"] == version.digest
        assert add(registry, made["like"]) == "bank@2"

    def test_a_writer_that_was_given_up_fails_and_makes_no_version(
        self, registry: Registry, made: dict[str, Path]
    ) -> None:
        class Slow:
            """Another process collects while this one has stored its bundle and not yet made the row."""

            def __getattr__(self, name: str) -> Any:
                return getattr(registry.objects, name)

            def put(self, key: str, source: Path) -> None:
                registry.objects.put(key, source)
                assert registry.collect(older_than_s=-1.0).names == (key,)

        slow = Registry(registry.database, Slow(), Path())  # type: ignore[arg-type]
        with pytest.raises(Conflict, match="given up"):
            add(slow, made["good"])
        assert registry.names() == {}
        assert add(registry, made["good"]) == "bank@1"

    def test_a_database_of_a_newer_luban_is_refused(self, registry: Registry, place: str) -> None:
        with registry.database.writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(RegistryError, match=r"schema 9999; this Luban knows \d+ and older"):
            open_registry(place)

    def test_where_bundles_are_is_remembered_and_can_not_be_confused(
        self, registry: Registry, place: str, tmp_path: Path
    ) -> None:
        again = open_registry(place)
        assert again.objects.place == str(tmp_path / "objects")
        again.close()
        with pytest.raises(Conflict, match="keeps its bundles at"):
            open_registry(place, objects=str(tmp_path / "elsewhere"))


def test_a_registry_that_is_not_there_is_not_made_by_looking(place: str) -> None:
    with pytest.raises(LubanError, match=r"holds no registry"):
        open_registry(place)


def _registers(place: str, folders: list[Path]) -> list[str]:
    registry = open_registry(place)
    made = [str(registry.register(folder, name="bank", who=WHO).version) for folder in folders]
    for one in made:
        aliases.promote(registry, one, who=WHO, to="latest")
    registry.close()
    return made


def test_eight_processes_number_without_gaps_or_repeats(registry: Registry, place: str, tmp_path: Path) -> None:
    folders = [registries.bundle(tmp_path / f"b{number}", seed=number, rows=60) for number in range(17)]
    shared, own = folders[-1], folders[:-1]
    registry.database.close()
    with CHILDREN.Pool(8, CHILDREN.Barrier(8).wait) as pool:
        found = pool.starmap(_registers, [(place, [*own[number::8], shared]) for number in range(8)], chunksize=1)
    assert len({one for part in found for one in part}) == 17, "the one that all registered is one version"
    assert [one.number for one in registry.versions("bank")] == list(range(1, 18))
    checked = registry.verify_audit()
    assert checked.broken is None
    assert sum(one.action == "register" for one in registry.entries()) == 17
    moves = aliases.moves(registry, "bank", "latest")
    assert [one.before for one in moves[1:]] == [one.after for one in moves[:-1]]
    assert json.loads(json.dumps(moves[0].evidence)) == {}
    assert len(list(registry.objects.stored())) == 17, "what two stored at once is kept once"


def test_the_migrations_make_what_the_tables_say(registry: Registry) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with registry.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.METADATA) == []
