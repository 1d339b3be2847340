"""One database, SQLite by default and PostgreSQL by URL, behind two verbs: read in a snapshot, write in a transaction.

SQLite: write-ahead log, every commit flushed to the disk, foreign keys held, writers queue at `BEGIN IMMEDIATE`. Its
versions from 3.7.0 to 3.51.2 can corrupt a write-ahead log that two connections reset at once
(https://sqlite.org/wal.html#walresetbug): with such a one databases are made with a rollback journal, which is slower
and safe, and one that has a write-ahead log is refused.

What a failed flush leaves behind nobody knows (Rebello et al. 2020): after one, this process does not use the database
again.
"""

from __future__ import annotations

import fcntl
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, text
from sqlalchemy.engine import URL, make_url

from luban.errors import Conflict, LubanError, MissingExtra, NotFound, RegistryError, install, system_mend
from luban.files import flush, write_text, written
from luban.records import Finding

SAFE_SQLITE = (3, 51, 3)
"""The first version without the fault of the write-ahead log."""
BUSY_S = 30
"""How long a writer waits for the others."""
_TURN_S = 0.001
_NONE = "0000"
FILE = "registry.db"
_MIGRATIONS = Path(__file__).resolve().parent / "migrations"
_STEP = re.compile(r"s(\d{4})_\w+\.py")
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_MIGRATION_LOCK = 0x6C7562616E
"""Key of PostgreSQL's advisory lock while the schema is made: "luban" in ASCII."""
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26


class Database:
    """An open database of the newest schema; threads may share it, processes may not."""

    def __init__(self, engine: Engine, place: str) -> None:
        self.place = place
        """Where it is, for messages: no password."""
        self._engine = engine
        self._writer = engine.execution_options(luban_writes=True)
        self._broken = ""
        self._is_named = False

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database, whatever others write meanwhile."""
        with self._told(), self._engine.connect() as connection:
            if self.kind == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection whose changes are on the disk when the block has ended, all of them or none.

        Raises:
            RegistryError: the database could not be written; the message says what is known of the changes.
        """
        with self._told(), self._turn(), self._writer.begin() as connection:
            self._keep_name()
            yield connection

    def schema(self) -> str:
        """Return the number of the schema, `0000` where there is none."""
        with self._told(), self._engine.connect() as connection:
            return _revision(connection)

    def version(self) -> str:
        """Return what the database is: `SQLite 3.53.4, write-ahead log` or `PostgreSQL 15.18`."""
        with self.reading() as connection:
            if self.kind == "sqlite":
                how = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
                log = "write-ahead log" if how == "wal" else f"rollback journal ({how})"
                return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar_one()}, {log}"
            number = str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]
            return f"PostgreSQL {number}"

    def migrate(self) -> None:
        """Bring the schema up to date, in one transaction; others that do the same wait."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.set_main_option("version_locations", str(_MIGRATIONS / "versions").replace("%", "%%"))
        config.set_main_option("path_separator", "newline")
        with self.writing() as connection:
            if self.kind == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            _want_known(_revision(connection), self.place)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a turn to write SQLite. Its own waiting sleeps ever longer, so that some writers get few turns."""
        if self.kind != "sqlite":
            yield
            return
        until = time.monotonic() + BUSY_S
        with written(self.place):
            lock = open(f"{self.place}-turn", "a", encoding="utf-8")  # noqa: SIM115
        with lock as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise self._busy("another process is writing") from None
                    time.sleep(_TURN_S)
            yield

    def _keep_name(self) -> None:
        """Flush the folder that names the write-ahead log, once: SQLite does so too, and passes over a failure."""
        if self.kind != "sqlite" or self._is_named:
            return
        folder = Path(self.place).parent
        try:
            flush(folder)
        except OSError as error:
            self._broken = f"{folder} can't be flushed: {error.strerror}; nothing was changed in {self.place}"
            raise RegistryError(self._broken, hint=system_mend(error)) from error
        self._is_named = True

    def _busy(self, said: str) -> Conflict:
        return Conflict(f"{self.place} was busy for {BUSY_S} s: {said}", hint="wait for the other process, or end it")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the errors of SQLAlchemy and of the drivers into Luban's."""
        if self._broken:
            raise RegistryError(self._broken, hint="look after the disk, then start this process again")
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translated(error.orig, lost=isinstance(error, exc.OperationalError)) from error
        except exc.SQLAlchemyError as error:
            raise RegistryError(f"{self.place}: {_first_line(error)}") from error
        except self._engine.dialect.loaded_dbapi.Error as error:  # while a connection was opened
            raise self._translated(error, lost=True) from error

    def _translated(self, error: BaseException | None, *, lost: bool) -> RegistryError:
        said, place = _first_line(error), self.place
        if self.kind == "postgresql":
            if lost:
                hint = "see that the server runs and lets you in; run the same command again: what is done stays done"
                return RegistryError(f"{place} can't be reached, or was lost: {said}", hint=hint)
            return RegistryError(f"{place}: {said}", hint="look at the database's own log")
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (_BUSY, _LOCKED):
            return self._busy(said)
        if code == _FULL:
            return RegistryError(f"{place}: {said}; nothing was changed", hint="free some space and run it again")
        if code == _READONLY:
            return RegistryError(f"{place} can't be written: {said}", hint="give yourself the right to write it")
        if code == _CANTOPEN:
            return RegistryError(f"{place} can't be opened: {said}", hint="look at the folder and its rights")
        if code in (_CORRUPT, _NOTADB):
            return RegistryError(f"{place} is damaged: {said}", hint="put back a copy from before, and keep this one")
        if code == _IOERR:
            self._broken = f"{place}: the disk failed ({said}); whether the last change was kept is not known"
            return RegistryError(self._broken, hint="look after the disk; nothing is tried again by itself")
        return RegistryError(f"{place}: {said}")


def open_database(place: str, *, create: bool = False) -> Database:
    """Open a database.

    Args:
        place: a folder, which then holds `registry.db`, or `postgresql://USER@HOST/NAME`.
        create: make it, or its tables, where there are none.

    Raises:
        NotFound: there is none.
        RegistryError: its schema is newer than this Luban, or older; or it can't be opened.
        MissingExtra: the driver of PostgreSQL is not installed.
    """
    database = _postgres(place) if "://" in place else _sqlite(Path(place), create)
    try:
        found = database.schema()
        _want_known(found, database.place)
        if found == _NONE and not create:
            raise NotFound(f"{database.place} holds no registry", hint="`luban register BUNDLE --name NAME` makes one")
        if found == _NONE:
            database.migrate()
        elif found < newest():
            raise RegistryError(
                f"{database.place} has schema {found}; this Luban wants {newest()}",
                hint="`luban registry upgrade` brings it up to date; older Lubans can't use it then",
            )
    except BaseException:
        database.close()
        raise
    return database


def upgrade(place: str) -> str:
    """Bring the schema of a database up to date, and return its number.

    Raises:
        NotFound: there is no database.
        RegistryError: its schema is newer than this Luban.
    """
    database = _postgres(place) if "://" in place else _sqlite(Path(place), create=False)
    try:
        database.migrate()
        return database.schema()
    finally:
        database.close()


@cache
def newest() -> str:
    """Return the number of the newest schema that this Luban knows."""
    return max(match[1] for path in (_MIGRATIONS / "versions").iterdir() if (match := _STEP.fullmatch(path.name)))


@cache
def sqlite_driver() -> ModuleType:
    """Return the driver with the newer SQLite: `pysqlite3`, which brings its own, or Python's."""
    try:
        from pysqlite3 import dbapi2 as brought
    except ImportError:
        return sqlite3
    newer: ModuleType = brought if brought.sqlite_version_info > sqlite3.sqlite_version_info else sqlite3
    return newer


def finding() -> Finding:
    """Return whether the SQLite here can be trusted with a write-ahead log, for `luban doctor`."""
    driver = sqlite_driver()
    facts = {"version": driver.sqlite_version}
    if driver.sqlite_version_info >= SAFE_SQLITE:
        return Finding("sqlite", "PASS", f"SQLite {driver.sqlite_version} keeps a registry", facts=facts)
    wanted = ".".join(map(str, SAFE_SQLITE))
    return Finding(
        "sqlite", "WARN",
        f"SQLite {driver.sqlite_version} can corrupt a write-ahead log; registries have none, and are slower",
        f"pip install 'pysqlite3>=0.6.1', or use a Python with SQLite {wanted}", facts=facts,
    )  # fmt: skip


def _sqlite(folder: Path, create: bool) -> Database:
    file = folder / FILE
    if not file.is_file():
        if not create:
            hint = "`luban register BUNDLE --name NAME` makes one; or name another: --registry, or LUBAN_REGISTRY"
            raise NotFound(f"{folder} holds no registry", hint=hint)
        try:
            # Models are not for version control. That the file is written durably makes the folder durable, too.
            write_text(folder / ".gitignore", "*\n")
        except OSError as error:
            said = error.strerror or str(error)
            hint = "name a folder that can be written, or made: --registry, or LUBAN_REGISTRY"
            raise RegistryError(f"no registry can be made in {folder}: {said}", hint=hint) from error
    driver = sqlite_driver()
    url = URL.create("sqlite", database=str(file.absolute()))
    engine = create_engine(url, module=driver, connect_args={"timeout": BUSY_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where this module begins them
        # What is deleted, or moved from page to page, is overwritten: a text that must go is not left in the file.
        for pragma in ("foreign_keys = ON", "synchronous = EXTRA", "trusted_schema = OFF", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}").close()
        _journal(connection, driver, file)

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("luban_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return Database(engine, str(file))


def _journal(connection: Any, driver: ModuleType, file: Path) -> None:
    """Hold to the kind of journal that this SQLite can be trusted with.

    Raises:
        RegistryError: the database has a write-ahead log, and this SQLite may corrupt it.
    """
    safe = driver.sqlite_version_info >= SAFE_SQLITE
    # Reading the header opens no log, so that one which may be corrupted by it is not touched.
    with file.open("rb") as header:
        start = header.read(20)
    if not safe and start[18:20] == b"\2\2":
        wanted = ".".join(map(str, SAFE_SQLITE))
        raise RegistryError(
            f"{file} has a write-ahead log, which SQLite {driver.sqlite_version} can corrupt",
            hint=f"use a SQLite from {wanted} on: pip install 'pysqlite3>=0.6.1'",
        )
    if safe and not start:
        connection.execute("PRAGMA journal_mode = WAL").close()


def _postgres(place: str) -> Database:
    try:
        url = make_url(place)
    except exc.ArgumentError as error:
        raise LubanError("the registry's URL can't be read", hint="postgresql://USER@HOST/NAME, or a folder") from error
    shown = url.render_as_string(hide_password=True)
    if url.drivername not in _POSTGRES:
        raise LubanError(f"{shown}: a registry is a folder, or postgresql://USER@HOST/NAME")
    try:
        engine = create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{shown} needs the package psycopg, which is not installed", hint=install("postgres")
        ) from error
    return Database(engine, shown)


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table("alembic_version"):
        return _NONE
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
    return _NONE if found is None else str(found)


def _want_known(found: str, place: str) -> None:
    if found > newest():
        raise RegistryError(
            f"{place} has schema {found}; this Luban knows {newest()} and older",
            hint="a newer Luban has written it: use that one, or a newer one still",
        )


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
