"""SQLite as it is opened here: durable, safe from the fault of its log, and honest about a disk that fails."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from children import CHILDREN
from sqlalchemy import text

from luban.errors import LubanError, MissingExtra, NotFound, RegistryError, install
from luban.store import database as databases
from luban.store.database import open_database


def pragma(folder: Path, name: str) -> object:
    database = open_database(str(folder))
    with database.reading() as connection:
        found = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
    database.close()
    return found


def test_every_commit_is_flushed_and_keys_are_held(tmp_path: Path) -> None:
    open_database(str(tmp_path), create=True).close()
    assert pragma(tmp_path, "synchronous") == 3, "extra: full, and the folder too"
    assert pragma(tmp_path, "foreign_keys") == 1
    assert pragma(tmp_path, "journal_mode") == "wal"
    assert pragma(tmp_path, "busy_timeout") == databases.BUSY_S * 1000
    assert (tmp_path / ".gitignore").read_text("utf-8") == "*\n"


@pytest.fixture
def old_sqlite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Have SQLite opened with the driver of Python, as if it were of the versions that are not safe."""
    fields = {name: getattr(sqlite3, name) for name in dir(sqlite3) if not name.startswith("__")}
    old = SimpleNamespace(**{**fields, "sqlite_version_info": (3, 51, 2), "sqlite_version": "3.51.2"})
    monkeypatch.setattr(databases, "sqlite_driver", lambda: old)
    return old  # type: ignore[return-value]


def test_an_unsafe_sqlite_makes_no_write_ahead_log(tmp_path: Path, old_sqlite: ModuleType) -> None:
    database = open_database(str(tmp_path), create=True)
    assert "rollback journal" in database.version()
    database.close()


def test_an_unsafe_sqlite_refuses_a_write_ahead_log(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    open_database(str(tmp_path), create=True).close()
    before = (tmp_path / databases.FILE).read_bytes()
    request.getfixturevalue("old_sqlite")
    with pytest.raises(RegistryError, match=r"write-ahead log, which SQLite 3\.51\.2 can corrupt") as found:
        open_database(str(tmp_path))
    assert "pip install 'pysqlite3>=0.6.1'" in found.value.hint
    assert (tmp_path / databases.FILE).read_bytes() == before


def test_doctor_tells_of_either(request: pytest.FixtureRequest) -> None:
    assert databases.finding().verdict == "PASS"
    request.getfixturevalue("old_sqlite")
    told = databases.finding()
    assert told.verdict == "WARN" and "3.51.2" in told.message and "pysqlite3" in told.mend


def test_the_safe_sqlite_is_taken() -> None:
    assert databases.sqlite_driver().sqlite_version_info >= databases.SAFE_SQLITE


def test_looking_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no registry"):
        open_database(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / databases.FILE).write_bytes(b"not a database, but long enough to have a header" * 100)
    with pytest.raises(RegistryError, match="is damaged"):
        open_database(str(tmp_path))


@pytest.mark.parametrize("url", ["mysql://host/x", "sqlite:///x.db", "http://"])
def test_other_databases_are_refused_by_name(url: str) -> None:
    with pytest.raises(LubanError, match="registry"):
        open_database(url)


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="can't be reached") as found:
        open_database(f"postgresql://ann:secret@/bank?host={tmp_path}")
    assert "secret" not in str(found.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra) as found:
        open_database("postgresql://ann@host/bank")
    assert found.value.hint == install("postgres")


def test_a_schema_of_an_older_luban_is_upgraded_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(str(tmp_path), create=True).close()
    monkeypatch.setattr(databases, "newest", lambda: "9999")
    with pytest.raises(RegistryError, match="has schema 0004; this Luban wants 9999") as found:
        open_database(str(tmp_path))
    assert "luban registry upgrade" in found.value.hint
    assert databases.upgrade(str(tmp_path)) == "0004", "there is no newer step yet"


def test_a_migration_that_is_killed_leaves_no_table(tmp_path: Path) -> None:
    """The process dies inside the transaction, after tables were made in it."""
    script = f"""
import os, signal, sys
from luban.store import database
from alembic import op
import sqlalchemy as sa
made = op.create_table
def die(name, *columns, **more):
    if name == "audit":
        os.kill(os.getpid(), signal.SIGKILL)
    return made(name, *columns, **more)
op.create_table = die
database.open_database({str(tmp_path)!r}, create=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(NotFound):
        open_database(str(tmp_path))
    database = open_database(str(tmp_path), create=True)
    assert database.schema() == databases.newest()
    database.close()


def _full_disk(folder: str) -> None:
    """Write until a limit on the size of files is met, as on a full disk."""
    database = open_database(folder)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = os.stat(f"{folder}/{databases.FILE}").st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 65_536, size + 65_536))
    said = []
    for number in range(3):
        try:
            with database.writing() as connection:
                insert = text("INSERT INTO settings VALUES (:name, :value)")
                connection.execute(insert, {"name": f"big{number}", "value": "x" * 400_000})
        except RegistryError as error:
            said.append(error.message)
    assert len(said) == 3, said
    assert "nothing was changed" in said[0] or ("the disk failed" in said[0] and said[1] == said[0]), said


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    open_database(str(tmp_path), create=True).close()
    process = CHILDREN.Process(target=_full_disk, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == 0
    database = open_database(str(tmp_path))
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM settings")).scalar_one() == 0
    database.close()


def test_after_a_failed_flush_nothing_is_tried_again(tmp_path: Path) -> None:
    database = open_database(str(tmp_path), create=True)
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = 1034  # SQLITE_IOERR_FSYNC
    assert "whether the last change was kept is not known" in str(database._translated(failed, lost=True))
    for use in (database.writing, database.reading):
        with pytest.raises(RegistryError, match="the disk failed"), use():
            pytest.fail("a database whose disk failed was used again")
    database.close()


def test_a_folder_that_can_not_be_flushed_is_told_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database(str(tmp_path), create=True).close()
    database = open_database(str(tmp_path))

    def failing(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(RegistryError, match="can't be flushed") as told, database.writing():
            pytest.fail("a change began")
    assert str(tmp_path) in told.value.message
    with pytest.raises(RegistryError, match="can't be flushed"), database.reading():
        pytest.fail("a database whose disk failed was used again")
    database.close()


def _makes(folder: str) -> None:
    open_database(folder, create=True).close()


def _writes(folder: str, who: int, n: int) -> None:
    database = open_database(folder)
    for number in range(n):
        with database.writing() as connection:
            insert = text("INSERT INTO settings VALUES (:name, 'x')")
            connection.execute(insert, {"name": f"{who}-{number}"})
    database.close()


def test_eight_writers_meet_no_lock(tmp_path: Path) -> None:
    """All make the database at once, too."""
    started = time.monotonic()
    makers = [CHILDREN.Process(target=_makes, args=(str(tmp_path),)) for _ in range(8)]
    writers = [CHILDREN.Process(target=_writes, args=(str(tmp_path), who, 12)) for who in range(8)]
    for group in (makers, writers):
        for process in group:
            process.start()
        for process in group:
            process.join()
        assert [process.exitcode for process in group] == [0] * 8
    database = open_database(str(tmp_path))
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM settings")).scalar_one() == 96
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    database.close()
    assert time.monotonic() - started < databases.BUSY_S
