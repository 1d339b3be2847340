"""Access keys through the command line: made, listed, rotated, revoked, and each in the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flows.told import as_json

from luban.errors import Unauthenticated
from luban.serve.keyring import Keyring
from luban.serve.keys import note_used
from luban.store.database import open_database


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUBAN_WHO", "ann")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("LUBAN_REGISTRY", raising=False)
    return tmp_path


def test_the_whole_way(here: Path, said: Any) -> None:
    made = said(
        "keys", "create", "--name", "shop", "--scopes", "predict,feedback", "--rate", "600/min", "--expires", "90d"
    )
    first = next(line for line in made.splitlines() if line.startswith("luban_"))
    assert "10/s, 10 at once" in made and "shown this once" in made
    second = as_json(said("keys", "rotate", "shop", "--grace", "2h", "--json"))["secret"]
    listed = said("keys", "list")
    assert first[6:22] in listed and second[6:22] in listed
    database = open_database(str(here / ".luban/registry"))
    ring = Keyring(database)
    assert ring.check(first).name == ring.check(second).name == "shop"
    assert "ended" in said("keys", "revoke", "shop", "--older")
    assert f"ended {first[6:22]}" in said("audit", "list", "key:shop")
    assert "revoked shop" in said("keys", "revoke", "--name", "shop", "--why", "lost")
    ring.refresh()
    for secret in (first, second):
        with pytest.raises(Unauthenticated):
            ring.check(secret)
        assert secret[-43:] not in listed
    database.close()
    audit = said("audit", "list", "key:shop")
    assert audit.count("key:shop") == 4 and "key-rotate" in audit and "lost" in audit and first[-43:] not in audit
    assert "keys are as they say" in said("audit", "verify")
    assert "revoked" in said("keys", "list")


def test_a_narrow_terminal_has_every_id_whole_and_each_secret_when_it_was_seen(
    here: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first = as_json(said("keys", "create", "shop", "--role", "operator", "--rate", "50/s", "--json"))["secret"]
    second = as_json(said("keys", "rotate", "shop", "--json"))["secret"]
    database = open_database(str(here / ".luban/registry"))
    note_used(database, {first[6:22]: 1_790_000_000.0})
    database.close()
    lines = said("keys", "list").splitlines()
    (older,) = [line for line in lines if first[6:22] in line]
    (newer,) = [line for line in lines if second[6:22] in line]
    assert "2026-09-21 14:13" in older and newer.split()[-1] == "never"
    assert any("50/s" in line for line in lines) and max(map(len, lines)) <= 80


def test_programs_get_json_and_no_hash(here: Path, said: Any) -> None:
    made = as_json(said("keys", "create", "desk", "--role", "viewer", "--models", "bank-*,faq", "--json"))
    assert made["scopes"] == ["read"] and made["models"] == ["bank-*", "faq"] and made["secret"].startswith("luban_")
    (key,) = as_json(said("keys", "list", "--json"))["keys"]
    assert key["secrets"][0]["live"] and "secret" not in key and "sha256" not in key["secrets"][0]
    refused = as_json(said("keys", "rotate", "desc", "--json", exit_code=7))
    assert refused["kind"] == "NotFound"


@pytest.mark.parametrize(("arguments", "exit_code", "told"), [
    (("create", "--scopes", "predict"), 2, "name the key"),
    (("create", "shop"), 2, "say what it may do"),
    (("create", "shop", "--name", "shop", "--role", "client"), 2, "given twice"),
    (("list", "shop"), 2, "takes no name"),
    (("rotate", "shop", "--scopes", "read"), 2, "--scopes goes with `create`"),
    (("revoke", "shop", "--grace", "1d"), 2, "--grace goes with `rotate`"),
    (("create", "shop", "--scopes", "predict,fly"), 8, "no scope 'fly'"),
    (("create", "shop", "--scopes", "predict", "--rate", "fast"), 8, "'fast' is no rate"),
    (("create", "shop", "--scopes", "predict", "--expires", "soon"), 8, "'soon' is no length of time"),
    (("create", "shop", "--scopes", "predict", "--expires", "2020-01-01"), 8, "its end has passed"),
    (("rotate", "shop"), 7, "holds no registry"),
])  # fmt: skip
def test_what_is_used_wrongly_says_so(
    here: Path, said: Any, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    assert told in said("keys", *arguments, exit_code=exit_code)


def test_nothing_yet_is_said(here: Path, said: Any) -> None:
    open_database(str(here / ".luban/registry"), create=True).close()
    assert "no key yet" in said("keys", "list")
