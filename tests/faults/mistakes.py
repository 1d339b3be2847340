"""Mistakes made on purpose: each changes what runs in the process that calls it, and each must be found.

A harness that finds none of them would find none of ours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from luban import files
from luban.errors import LubanError, RegistryError
from luban.models import checkpoint
from luban.registry import aliases, audit, feedback, store
from luban.registry.store import Registry
from luban.store import database, objects, tables
from luban.store.database import Database

Mistake = Callable[[], None]


def row_before_object() -> None:
    """The version is visible before its files are there."""
    publish, put = Registry._publish, objects.LocalObjects.put
    later: list[Any] = []
    objects.LocalObjects.put = lambda self, key, source: later.append((self, key, source))  # type: ignore[method-assign]

    def early(self: Registry, key: str, row: Any) -> Any:
        made = publish(self, key, row)
        for one in later:
            put(*one)
        later.clear()
        return made

    Registry._publish = early  # type: ignore[method-assign]


def files_in_place() -> None:
    """Files are copied straight to where they are read, and the row says whole before they are."""

    def put(self: objects.LocalObjects, key: str, source: Path) -> None:
        target = self.root / key
        target.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            shutil.copyfile(path, target / path.name)

    whole = store.Registry._key

    def key(self: Registry, digest: str) -> tuple[str, bool]:
        found = whole(self, digest)
        with self.database.writing() as connection:
            connection.execute(update(tables.OBJECTS).values(whole=True))
        return found

    objects.LocalObjects.put = put  # type: ignore[method-assign]
    store.Registry._key = key  # type: ignore[method-assign]


def audit_in_a_transaction_of_its_own() -> None:
    """What was done is written down when it has been done."""
    append, writing = audit.append, Database.writing
    waiting: list[Any] = []

    @contextmanager
    def two(self: Database) -> Iterator[Connection]:
        with writing(self) as connection:
            yield connection
        entries = waiting.copy()
        waiting.clear()
        for one in entries:
            with writing(self) as connection:
                append(connection, **one)

    audit.append = lambda connection, **entry: waiting.append(entry)  # type: ignore[assignment]
    Database.writing = two  # type: ignore[method-assign]


def number_taken_apart() -> None:
    """A number is given out in a transaction before the one that makes the version."""
    publish = Registry._publish

    def apart(self: Registry, key: str, row: Any) -> Any:
        n = self.names().get(row["name"], 0)
        with self.database.writing() as connection:
            values = {"name": row["name"], "n_versions": n + 1}
            model = tables.MODELS
            made = update(model).values(n_versions=n + 1) if n else insert(model).values(**values)
            connection.execute(made)
        return publish(self, key, row)

    Registry._publish = apart  # type: ignore[method-assign]


def each_statement_by_itself() -> None:
    """There is no transaction around the statements of one change."""
    writing = Database.writing

    @contextmanager
    def apart(self: Database) -> Iterator[Connection]:
        with writing(self) as connection:
            connection.exec_driver_sql("COMMIT")
            yield connection

    Database.writing = apart  # type: ignore[method-assign]


def change_without_an_entry() -> None:
    """Changes of keys are not in the audit."""
    audit.append = lambda connection, **entry: None  # type: ignore[assignment]


def log_not_flushed() -> None:
    """A commit is not on the disk when it returns."""
    journal = database._journal

    def quick(connection: Any, driver: Any, file: Path) -> None:
        journal(connection, driver, file)
        connection.execute("PRAGMA synchronous = OFF").close()

    database._journal = quick


def failed_commit_passed_over() -> None:
    """What the database refuses is not told."""
    writing = Database.writing

    @contextmanager
    def quiet(self: Database) -> Iterator[Connection]:
        with suppress(RegistryError), writing(self) as connection:
            yield connection

    Database.writing = quiet  # type: ignore[method-assign]


def failed_copy_passed_over() -> None:
    """A version is made though its files could not be copied."""
    put = objects.LocalObjects.put

    def quiet(self: objects.LocalObjects, key: str, source: Path) -> None:
        with suppress(LubanError):
            put(self, key, source)

    objects.LocalObjects.put = quiet  # type: ignore[method-assign]


def taken_back_twice() -> None:
    """A rollback that is asked for again, after its answer was lost, takes back another version."""
    rollback = aliases.rollback

    def again(*arguments: Any, expected: int | None = None, **more: Any) -> Any:
        return rollback(*arguments, **more)

    aliases.rollback = again


def files_not_flushed() -> None:
    """Files are renamed to where they are read before they are on the disk."""
    flush = files.flush
    files.flush = lambda path: flush(path) if path.is_dir() else None


def folders_not_flushed() -> None:
    """What was renamed can have its old name again after a power cut."""
    flush = files.flush
    files.flush = lambda path: None if path.is_dir() else flush(path)


def failed_flush_passed_over() -> None:
    """A flush that failed is taken for one that did not."""
    flush = files.flush

    def quiet(path: Path) -> None:
        with suppress(OSError):
            flush(path)

    files.flush = quiet


def old_removed_before_new() -> None:
    """What is replaced is gone before the new one has its place."""

    def exchange(new: Path, old: Path) -> None:
        shutil.rmtree(old)
        new.rename(old)

    files._exchange = exchange


def partial_manifest() -> None:
    """The manifest is written before the last file is there, and does not list it."""
    from luban.train import resume

    def seal(folder: Path, facts: Mapping[str, Any]) -> str:
        (folder / resume.TENSORS).rename(folder.parent / "late")
        digest = files.seal(folder, facts)
        (folder.parent / "late").rename(folder / resume.TENSORS)
        return digest

    resume.seal = seal


def left_aside() -> None:
    """What could not be made whole stays on the disk."""
    files._remove = lambda path: None


def bare_error() -> None:
    """What the system refuses is raised as it is."""
    checkpoint.written = objects.written = lambda place: nullcontext()  # type: ignore[assignment]


def error_without_place() -> None:
    """An error says that something failed, and not what."""

    @contextmanager
    def written(place: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RegistryError("it could not be written") from error

    checkpoint.written = objects.written = written  # type: ignore[assignment]


def rows_before_the_key_of_their_post() -> None:
    """Rows are kept in a transaction of their own, and that their post was taken is written later."""
    claimed = feedback._claimed
    later: list[Any] = []

    def known(connection: Connection, post: Any, ids: tuple[str, ...], now: str) -> Any:
        here = select(tables.FEEDBACK_POSTS.c.ids).where(tables.FEEDBACK_POSTS.c.once == post.once)
        found = connection.execute(here).scalar_one_or_none()
        if found is None:
            later.append((post, ids, now))
        return None if found is None else tuple(json.loads(found))

    add = feedback.add

    def both(database: Database, posts: Any) -> Any:
        found = add(database, posts)
        with database.writing() as connection:
            for one in later:
                claimed(connection, *one)
        return found

    feedback._claimed = known
    feedback.add = both


def post_kept_again() -> None:
    """What was sent under a key before is kept again."""
    feedback._claimed = lambda *_: None


class Shown(NamedTuple):
    """Where a mistake shows."""

    operation: str
    call: str = ""
    """Kind of call at which a fault shows it; empty where a run without one does."""
    error: str = "KILL"


MISTAKES: dict[Mistake, Shown] = {
    row_before_object: Shown("publish", "mkdir"),
    files_in_place: Shown("publish"),
    audit_in_a_transaction_of_its_own: Shown("promote", "fsync"),
    number_taken_apart: Shown("publish"),
    each_statement_by_itself: Shown("promote", "fsync"),
    change_without_an_entry: Shown("key"),
    log_not_flushed: Shown("promote"),
    failed_commit_passed_over: Shown("promote", "pwrite64", "EIO"),
    failed_copy_passed_over: Shown("publish", "fsync", "ENOSPC"),
    taken_back_twice: Shown("rollback"),
    rows_before_the_key_of_their_post: Shown("feedback", "fsync"),
    post_kept_again: Shown("feedback"),
    files_not_flushed: Shown("publish"),
    folders_not_flushed: Shown("checkpoint"),
    failed_flush_passed_over: Shown("state", "fsync", "EIO"),
    old_removed_before_new: Shown("checkpoint", "rename"),
    partial_manifest: Shown("state"),
    left_aside: Shown("checkpoint", "fsync", "ENOSPC"),
    bare_error: Shown("checkpoint", "fsync", "ENOSPC"),
    error_without_place: Shown("checkpoint", "fsync", "EIO"),
}
