"""A registry without keys: everybody is let in."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from luban.errors import Unauthenticated
from luban.serve import keys
from luban.serve.access import Headers, Open
from luban.serve.process import Settings, access
from luban.serve.unlocked import Unlocked, may_hold_keys
from luban.store.database import open_database


def test_what_knows_the_keys(tmp_path: Path) -> None:
    found = access(Settings(models={}, registry=str(tmp_path / "none")))
    assert isinstance(found, Unlocked)
    found.close()
    assert isinstance(access(Settings(models={})), Open)


def test_without_its_last_key_it_stays_closed(tmp_path: Path) -> None:
    database = open_database(str(tmp_path), create=True)
    found = Unlocked(str(tmp_path))
    try:
        assert asyncio.run(found.principal([])).name == "anyone"
        secret = keys.create(database, "shop", ["predict"], who="ann").secret
        key = [(b"authorization", f"Bearer {secret}".encode())]
        refused(found, [])
        assert asyncio.run(found.principal(key)).name == "shop"
        keys.revoke(database, "shop", who="ann")
        refused(found, key)
        for headers in ([], key, [(b"x-api-key", b"made up")]):
            with pytest.raises(Unauthenticated):
                asyncio.run(found.principal(headers))
    finally:
        found.close()
        database.close()


def refused(found: Unlocked, headers: Headers) -> None:
    """Wait until it refuses."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            asyncio.run(found.principal(headers))
        except Unauthenticated:
            return
        threading.Event().wait(0.05)
    raise AssertionError("it lets in who should be kept out")


def test_what_may_hold_keys(tmp_path: Path) -> None:
    assert may_hold_keys(str(tmp_path)) and may_hold_keys("postgresql://me@here/there")
    assert not may_hold_keys(str(tmp_path / "none"))
