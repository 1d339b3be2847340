"""The registry through the command line: from a real bundle to answers by name, and everything a person is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import registries
from flows.told import as_json
from unit.bundle.made import Made, made

import luban
from luban.errors import NotFound
from luban.stages import registering


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUBAN_WHO", "ann")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("LUBAN_REGISTRY", "LUBAN_OBJECTS"):
        monkeypatch.delenv(name, raising=False)
    for number, wrong in enumerate((0.05, 0.5, 0.06), 1):
        registries.bundle(
            tmp_path / f"b{number}", seed=number, wrong=wrong, gates={"accuracy": 0.9} if wrong < 0.1 else {}
        )
    return tmp_path


def test_the_whole_way(here: Path, said: Any) -> None:
    assert "registered bank@1" in said("register", "b1", "--no-measure", "--name", "bank", "--note", "first")
    again = said("register", "b1", "--no-measure", "--name", "bank", "--use", "a trial")
    assert "registered already: bank@1" in again and "use: a trial" in again
    said("register", "b2", "--no-measure", "--name", "bank", "--parent", "bank@1")
    said("register", "b3", "--no-measure", "--name", "bank")
    assert "promoted bank@champion = 1" in said("promote", "bank@1")
    refused = said("promote", "bank@2", exit_code=6)
    assert "worse than that of bank@1 on the same 300 test rows" in refused and "--force" in refused
    forced = said("promote", "bank@2", "--force", "--why", "a trial")
    assert "overruled" in forced
    assert "rolled back bank@champion = 1" in said("rollback", "bank", "--from", "2")
    assert "done before" in said("rollback", "bank", "--from", "2")
    assert "on the same 300 test rows" in said("promote", "bank@3", "--lose-at-most", "0.2")
    listed = said("versions", "bank")
    assert listed.index("bank@3") < listed.index("bank@1") and "champion" in listed and "first" in listed
    assert "made from" in said("versions", "bank@2")
    assert "train.seed" in said("diff", "bank@1", "@champion")
    verified = said("audit", "verify")
    assert "holds 8 entries" in verified
    head = verified.split("note elsewhere: ")[1].strip()
    again = said("audit", "verify", "--noted", head)
    assert "holds" in again and "entries 1 to 8 are what was there when entry 8 was noted" in again
    assert "a trial" in said("audit", "list", "bank", "--last", "3")
    assert "nothing to remove" in said("registry", "collect")
    assert "3, " in said("registry")
    assert (here / ".luban/registry/registry.db").is_file()


def test_programs_get_json(here: Path, said: Any) -> None:
    first = as_json(said("register", "b1", "--no-measure", "--name", "bank", "--json"))
    assert first["version"]["number"] == 1 and first["is_new"]
    said("register", "b3", "--no-measure", "--name", "bank")
    assert as_json(said("promote", "bank@1", "--json"))["move"]["after"] == 1
    models = as_json(said("versions", "--json"))["models"]
    assert [one["aliases"] for one in models["bank"]] == [["champion"], []]
    assert models["bank"][0]["scores"]["accuracy"]["n"] == 300
    diff = as_json(said("diff", "bank@1", "bank@3", "--json", exit_code=7))
    assert diff["kind"] == "NotFound"
    diff = as_json(said("diff", "bank@1", "bank@2", "--json"))
    assert {one["name"] for one in diff["scores"] if one["difference"]} >= {"accuracy", "macro_f1"}
    assert as_json(said("audit", "verify", "--json"))["holds"] is True
    assert len(as_json(said("audit", "list", "--json"))["entries"]) == 3
    refused = as_json(said("register", "nowhere", "--json", exit_code=7))
    assert refused["kind"] == "NotFound"


def test_a_tampered_audit_has_an_exit_code(here: Path, said: Any) -> None:
    said("register", "b1", "--no-measure", "--name", "bank")
    with registering.opened(None) as registry, registry.database.writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit SET who = 'eve'")
    assert "broken at entry 1" in said("audit", "verify", exit_code=7)


def test_a_registry_is_found_from_below_and_where_it_is_said(
    here: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said("register", "b1", "--no-measure", "--name", "bank")
    (here / "deep/down").mkdir(parents=True)
    monkeypatch.chdir(here / "deep/down")
    assert registering.registry_place() == str(here / ".luban/registry")
    monkeypatch.setenv("LUBAN_REGISTRY", str(here / "other"))
    assert "holds no registry" in said("versions", exit_code=7)
    assert "bank@1" in said("versions", "--registry", str(here / ".luban/registry"))


def test_a_command_that_is_used_wrongly_says_so(here: Path, said: Any) -> None:
    assert "--force goes with --why" in said("promote", "bank@1", "--force", exit_code=2)
    assert "--noted goes with" in said("audit", "list", "--noted", "1:x", exit_code=2)
    said("register", "b1", "--no-measure", "--name", "bank")
    assert "names no version" in said("promote", "bank@@", exit_code=8)


def test_what_can_not_be_registered_leaves_no_registry(here: Path, said: Any) -> None:
    said("register", "nowhere", exit_code=7)
    (here / "b1/card.md").write_text("changed")
    said("register", "b1", "--no-measure", exit_code=7)
    said("register", "b2", "--no-measure", "--name", "a b", exit_code=8)
    assert "holds no registry" in said("register", "b2", "--no-measure", "--parent", "bank@1", exit_code=7)
    assert "no run under" in said("register", exit_code=7)
    assert not (here / ".luban").exists()


def test_what_is_meant_by_what_is_no_bundle_is_offered(here: Path, said: Any) -> None:
    shutil.copytree(here / "b1", here / "runs/demo/bundle")
    assert "name the bundle itself: runs/demo/bundle" in said("register", "runs/demo", exit_code=7)
    said("register", "b1", "--no-measure", "--name", "bank")
    assert "of that name: bank@1" in said("predict", "--text", "x", "--bundle", "bank", exit_code=7)
    said("promote", "bank@1")
    for name in ("bank", "bank@"):
        assert "of that name: bank@champion, bank@1" in said("predict", "--text", "x", "--bundle", name, exit_code=7)
        with pytest.raises(NotFound, match="no such folder"):
            luban.load(name)
    assert "it has 1 alone" in said("versions", "bank@2", exit_code=7)


def test_a_hint_names_options_that_the_command_has(here: Path, said: Any) -> None:
    assert "--bundle" not in said("register", exit_code=7)
    for command in (
        ["predict", "--text", "x"],
        ["evaluate", "--data", "rows.csv"],
        ["export", "--for", "onnx", "-o", "x"],
    ):
        assert "--registry" in said(*command, "--bundle", "bank@1", exit_code=7)
        assert "no model 'bank'" in said(*command, "--bundle", "bank@1", "--registry", _empty(here), exit_code=7)


def _empty(here: Path) -> str:
    with registering.opened(str(here / "other"), create=True):
        return str(here / "other")


def test_two_aliases_with_no_model_are_told_as_they_were_given(here: Path, said: Any) -> None:
    said("register", "b1", "--no-measure", "--name", "bank")
    assert "'@challenger' does not say of which model" in said("diff", "@champion", "@challenger", exit_code=8)
    said("promote", "bank@1")
    assert "bank@1" in said("diff", "@champion", "bank@1")


def test_a_place_where_no_registry_can_be_is_told(here: Path, said: Any) -> None:
    (here / "file").write_text("")
    for place in ("/proc/nope", str(here / "file")):
        told = said("register", "b1", "--no-measure", "--registry", place, exit_code=7)
        assert f"no registry can be made in {place}" in told and "--registry, or LUBAN_REGISTRY" in told


def test_what_is_not_said_is_not_guessed(here: Path, said: Any) -> None:
    said("register", "b1", "--no-measure", "--name", "bank")
    assert "the newest: luban promote bank@1" in said("promote", "bank", exit_code=8)
    assert "a letter or digit first" in said("register", "b1", "--no-measure", "--name", "-bank", exit_code=8)
    with registering.opened(str(here / "other"), create=True):
        pass
    assert "no entries" in said("audit", "list", "--registry", str(here / "other"))


def test_who_answers_from_a_folder_does_not_wait_for_a_database(real: Made) -> None:
    script = "import sys, luban; luban.load(sys.argv[1]); print({'sqlalchemy', 'alembic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script, str(real.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture
def real(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "classify", "onnx")


def test_a_version_answers_by_name(here: Path, said: Any, real: Made) -> None:
    shutil.copytree(real.folder, here / "runs/made/bundle")
    found = as_json(said("register", "--name", "cards", "--licence", "MIT", "--json"))
    assert found["version"]["latency_ms"] > 0, "it was opened, and timed"
    said("promote", "cards@1")
    answers = luban.load("cards@champion").predict(["where is my card"])
    assert answers[0].labels == luban.load(real.folder).predict(["where is my card"])[0].labels
    assert "label" in as_json(said("predict", "--text", "我的卡", "--bundle", "cards@champion"))
    with pytest.raises(NotFound, match="no version 9"):
        luban.load("cards@9")
    assert (
        as_json(said("register", "cards@1", "--name", "copy", "--licence", "MIT", "--json"))["version"]["name"]
        == "copy"
    )
    # A folder that has an @ in its name is a folder.
    shutil.copytree(real.folder, here / "cards@1")
    shutil.rmtree(here / ".luban")
    assert luban.load("cards@1").name == "made"
