"""The registry: bundles come in whole and once, and are found again by name and number or alias.

Publishing is atomic across database and objects. A row says that an object is being written; its files are written,
compared and flushed; then one transaction marks it whole and makes the version. Killed before that, nothing is
visible, and after an hour `collect` removes what was left. A writer that is slower than this hour finds its row gone,
and fails: the two never race.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from luban import files
from luban.bundle import seal
from luban.errors import BadRequest, Conflict, CorruptBundle, LubanError, NotFound, did_you_mean
from luban.models.packaged import cache_folder
from luban.records import Score
from luban.registry import audit, card
from luban.registry.judge import Evidence, open_answers
from luban.registry.version import Reference, Version, parse, wanted_name
from luban.store.database import Database, open_database
from luban.store.objects import Objects, new_key, open_objects
from luban.store.tables import ALIASES, CARDS, MODELS, OBJECTS, SETTINGS, VERSIONS

ORPHAN_S = 3600.0
"""Age in seconds from which what no version needs is removed."""
_OBJECTS = "objects"


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version, and whether it was made just now."""

    version: Version
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed from the object store."""

    names: tuple[str, ...]
    size_bytes: int


class Registry:
    """Versions in a database, their bundles among objects. Open one with `open_registry`."""

    def __init__(self, database: Database, objects: Objects, cache: Path) -> None:
        self.database = database
        self.objects = objects
        self._cache = cache

    def register(
        self,
        source: Path,
        *,
        name: str,
        who: str,
        note: str = "",
        parent: str = "",
        latency_ms: float | None = None,
        stated: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Registered:
        """Make a bundle a version; the same bundle under the same name stays the version that it is.

        Args:
            source: the sealed folder.
            name: the model's name.
            who: who does it.
            note: anything worth knowing.
            parent: the version it was made from, `NAME@NUMBER` or `NAME@ALIAS`.
            latency_ms: median time of one answer, where it was measured.
            stated: what the card is to state beside the bundle's own: `licence`, `use`, `limits`.
            facts: what `facts_of(source)` returned a moment ago; then only the copy is verified.

        Raises:
            NotFound: the folder is no bundle, or there is no such parent.
            CorruptBundle: a file of it is missing, added or changed; the message names it. Nothing is registered.
            Conflict: writing took more than an hour.
        """
        facts = facts_of(source) if facts is None else facts
        from_whom = self._parent(parent, name, facts) if parent else ""
        row = {
            "name": wanted_name(name), "who": who, "note": note, "parent": from_whom, "latency_ms": latency_ms, **facts,
        }  # fmt: skip
        found = self._known(name, facts["digest"])
        if found is None:
            key, is_ours = self._key(facts["digest"])
            try:
                if is_ours:
                    self.objects.put(key, source)
                made = self._publish(key, row)
            except BaseException:
                if is_ours:
                    self._forget(key)
                raise
            if made.version.object != key and is_ours:
                self._forget(key)
        else:
            made = Registered(version=found, is_new=False)
        wanted = {what: text.strip() for what, text in (stated or {}).items() if text.strip()}
        return Registered(version=self.state(made.version, wanted, who=who), is_new=made.is_new) if wanted else made

    def _parent(self, reference: str, name: str, facts: Mapping[str, Any]) -> str:
        """Return a parent as NAME@NUMBER. It may have another base, as what a smaller one was distilled from.

        Raises:
            NotFound: there is no such version.
            BadRequest: it answers another task.
        """
        parent = self.version(reference, beside=name)
        if parent.task != facts["task"]:
            raise BadRequest(
                f"{parent} answers the task {parent.task}, and this bundle {facts['task']}: it was not made from it",
                hint="name the version that it was trained on from, compressed or distilled from",
            )
        return str(parent)

    def state(self, version: Version, stated: Mapping[str, str], *, who: str) -> Version:
        """State something of a version, beside its bundle's own card, and return it.

        Raises:
            BadRequest: something else than `licence`, `use` and `limits` is stated.
        """
        if unknown := set(stated) - set(card.STATED):
            raise BadRequest(f"a card does not state {min(unknown)!r}", hint=f"known: {', '.join(card.STATED)}")
        with self.database.writing() as connection:
            audit.lock(connection)
            here = (CARDS.c.name == version.name) & (CARDS.c.number == version.number)
            there = {row.what: row.text for row in connection.execute(select(CARDS).where(here))}
            new = {what: text for what, text in stated.items() if there.get(what) != text}
            if new:
                connection.execute(delete(CARDS).where(here & CARDS.c.what.in_(new)))
                rows = [
                    {"name": version.name, "number": version.number, "what": what, "text": new[what]} for what in new
                ]
                connection.execute(insert(CARDS), rows)
                audit.append(connection, who=who, action="card", subject=str(version), facts=new)
        return self.version(str(version))

    def names(self) -> dict[str, int]:
        """Return every model's name -> how many versions it has."""
        with self.database.reading() as connection:
            return {row.name: row.n_versions for row in connection.execute(select(MODELS).order_by(MODELS.c.name))}

    def versions(self, name: str) -> list[Version]:
        """Return every version of a name, the oldest first.

        Raises:
            NotFound: there is none.
        """
        with self.database.reading() as connection:
            self._want_model(connection, name)
            query = select(VERSIONS).where(VERSIONS.c.name == name).order_by(VERSIONS.c.number)
            return _versions(connection, connection.execute(query).all())

    def version(self, reference: str | Reference, beside: str = "") -> Version:
        """Return the version that is named.

        Args:
            reference: `NAME@NUMBER`, `NAME@ALIAS`, `NAME` for its champion, or `@ALIAS`.
            beside: the name that is meant by `@ALIAS`.

        Raises:
            NotFound: there is none; the message says what there is.
        """
        wanted = parse(reference, beside) if isinstance(reference, str) else reference
        with self.database.reading() as connection:
            return self._version(connection, wanted)

    def bundle(self, version: Version) -> Path:
        """Return the folder of a version's bundle on this machine, for `bundle.Engine.open`, which verifies its files.

        Raises:
            NotFound: its object is not there.
            CorruptBundle: it is not the bundle that was registered.
        """
        return self.objects.folder(version.object, self._cache)

    def evidence(self, version: Version) -> Evidence:
        """Return what a version is judged by; of its bundle only small files are read.

        Raises:
            CorruptBundle: one of them can't be used.
        """
        try:
            raw = self.objects.read(version.object, seal.ANSWERS)
            found = open_answers(raw, f"{version}: {seal.ANSWERS}")
        except NotFound:
            found = None
        told, metrics, text = (
            self.objects.read(version.object, name) for name in (seal.BUNDLE, seal.METRICS, seal.CARD)
        )
        made = card.read(told, metrics, text, version.card)
        project = json.loads(self.objects.read(version.object, seal.PROJECT))
        return Evidence(version=version, card=made, project=project, answers=found)

    def collect(self, older_than_s: float = ORPHAN_S) -> Collected:
        """Remove objects that no version needs and that nobody has written to for so long, and say which.

        Safe beside any number of writers: what a writer has begun is claimed in the database first.
        """
        before = time.time() - older_than_s
        with self.database.writing() as connection:
            abandoned = ~OBJECTS.c.whole & (OBJECTS.c.since < before)
            connection.execute(delete(OBJECTS).where(abandoned))
        # What lies there is listed first: a row is there before its files are, so that none is missed.
        there = list(self.objects.stored())
        with self.database.reading() as connection:
            needed = set(connection.execute(select(OBJECTS.c.key)).scalars())
        orphans = [one for one in there if one.name not in needed and one.age_s > older_than_s]
        for one in orphans:
            self.objects.remove(one.name)
        names = tuple(sorted(one.name for one in orphans))
        return Collected(names=names, size_bytes=sum(one.size_bytes for one in orphans))

    def entries(self, *, subject: str = "", last: int = 0) -> list[audit.Entry]:
        """Return entries of the audit, the oldest first: of one model or subject, and only the `last` ones."""
        with self.database.reading() as connection:
            return audit.entries(connection, subject=subject, last=last)

    def verify_audit(self, noted: str = "") -> audit.Verified:
        """Check the whole audit; `noted` is `SEQ:HASH` as an earlier check told it."""
        with self.database.reading() as connection:
            return audit.verify(connection, noted)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _known(self, name: str, digest: str) -> Version | None:
        with self.database.reading() as connection:
            return _of_digest(connection, name, digest)

    def _key(self, digest: str) -> tuple[str, bool]:
        """Return the key of the object with this digest, and whether we are to write it."""
        with self.database.reading() as connection:
            query = select(OBJECTS.c.key).where(OBJECTS.c.whole & (OBJECTS.c.digest == digest))
            for key in connection.execute(query).scalars():
                if self._is_there(key):
                    return key, False
        key = new_key(digest)
        with self.database.writing() as connection:
            connection.execute(insert(OBJECTS).values(key=key, digest=digest, whole=False, since=time.time()))
        return key, True

    def _is_there(self, key: str) -> bool:
        try:
            self.objects.read(key, seal.BUNDLE)
        except (NotFound, CorruptBundle):
            return False
        return True

    def _publish(self, key: str, row: Mapping[str, Any]) -> Registered:
        """Mark the object whole and make the version, in one transaction."""
        name, digest = row["name"], row["digest"]
        with self.database.writing() as connection:
            audit.lock(connection)
            if (found := _of_digest(connection, name, digest)) is not None:
                return Registered(version=found, is_new=False)
            marked = connection.execute(update(OBJECTS).where(OBJECTS.c.key == key).values(whole=True))
            if marked.rowcount != 1:
                raise Conflict(
                    f"{name}: writing the bundle took more than {ORPHAN_S / 60:g} minutes, and it was given up",
                    hint="register it again",
                )
            newest = select(MODELS.c.n_versions).where(MODELS.c.name == name)
            number = (connection.execute(newest).scalar_one_or_none() or 0) + 1
            if number == 1:
                connection.execute(insert(MODELS).values(name=name, n_versions=1))
            else:
                connection.execute(update(MODELS).where(MODELS.c.name == name).values(n_versions=number))
            connection.execute(insert(VERSIONS).values(**row, number=number, object=key, at=audit.now()))
            told = {field: row[field] for field in ("digest", "note", "parent", "data_digest", "project_digest")}
            audit.append(connection, who=row["who"], action="register", subject=f"{name}@{number}", facts=told)
            made = self._version(connection, Reference(name, number))
        return Registered(version=made, is_new=True)

    def _forget(self, key: str) -> None:
        """Give an object up that no version has come to need; what can't be removed now, `collect` finds."""
        with self.database.writing() as connection:
            gone = connection.execute(delete(OBJECTS).where((OBJECTS.c.key == key) & ~OBJECTS.c.whole)).rowcount
        if gone:
            self.objects.remove(key)

    def _version(self, connection: Connection, wanted: Reference) -> Version:
        self._want_model(connection, wanted.name)
        number = wanted.number
        if number is None:
            here = select(ALIASES).where(ALIASES.c.name == wanted.name)
            aliases = {row.alias: row.number for row in connection.execute(here)}
            if wanted.alias not in aliases:
                hint = did_you_mean(wanted.alias, aliases) or f"luban promote {wanted.name}@NUMBER --to {wanted.alias}"
                raise NotFound(f"{wanted.name} has no alias {wanted.alias!r}", hint=hint)
            number = aliases[wanted.alias]
        query = select(VERSIONS).where((VERSIONS.c.name == wanted.name) & (VERSIONS.c.number == number))
        found = _versions(connection, connection.execute(query).all())
        if not found:
            n = connection.execute(select(MODELS.c.n_versions).where(MODELS.c.name == wanted.name)).scalar_one()
            raise NotFound(
                f"{wanted.name} has no version {number}",
                hint=f"it has {'1 alone' if n == 1 else f'1 to {n}'}: luban versions {wanted.name}",
            )
        return found[0]

    def _want_model(self, connection: Connection, name: str) -> None:
        names = connection.execute(select(MODELS.c.name)).scalars().all()
        if name not in names:
            hint = did_you_mean(name, names) or f"`luban register BUNDLE --name {name}` makes its first version"
            raise NotFound(f"no model {name!r} is registered in {self.database.place}", hint=hint)


def open_registry(place: str, *, objects: str = "", create: bool = False) -> Registry:
    """Open a registry.

    Args:
        place: a folder, or `postgresql://USER@HOST/NAME`.
        objects: where bundles are kept: a folder, or `s3://BUCKET/PREFIX`. The database remembers it; without it
            they are in the folder's own `objects`.
        create: make the registry where there is none.

    Raises:
        NotFound: there is none.
        Conflict: its objects are kept elsewhere than `objects` says.
        RegistryError: it can't be opened, or its schema is newer than this Luban.
        MissingExtra: a package that this needs is not installed.
    """
    if objects and create:
        open_objects(objects)  # before anything is made: the package for it may be missing
    database = open_database(place, create=create)
    try:
        kept = _kept_at(database, objects if "://" in objects or not objects else str(Path(objects).absolute()))
        if not kept and "://" in place:
            raise LubanError(
                f"{database.place} does not know yet where bundles are kept",
                hint="say it once: luban register ... --objects s3://BUCKET/PREFIX, or a folder that all machines see",
            )
        return Registry(database, open_objects(kept or str(Path(place) / _OBJECTS)), cache_folder() / "bundles")
    except BaseException:
        database.close()
        raise


def _kept_at(database: Database, wanted: str) -> str:
    """Return where the database says that objects are, having told it where it did not know."""
    query = select(SETTINGS.c.value).where(SETTINGS.c.name == _OBJECTS)
    with database.reading() as connection:
        found = connection.execute(query).scalar_one_or_none()
    if wanted and found is None:
        with database.writing() as connection:
            audit.lock(connection)
            found = connection.execute(query).scalar_one_or_none()
            if found is None and connection.execute(select(func.count()).select_from(OBJECTS)).scalar_one() == 0:
                connection.execute(insert(SETTINGS).values(name=_OBJECTS, value=wanted))
                found = wanted
    if wanted and found != wanted:
        raise Conflict(
            f"{database.place} keeps its bundles at {found or 'its own folder'}, not at {wanted}",
            hint="leave --objects and LUBAN_OBJECTS out: the registry knows where they are",
        )
    return str(found or "")


def facts_of(source: Path) -> dict[str, Any]:
    """Verify a bundle, and return the columns of a version that it decides itself.

    Raises:
        NotFound, CorruptBundle: it is none, or not whole.
    """
    bundle = seal.open_bundle(source)
    manifest = files.read_json(source / files.MANIFEST)
    metrics = files.read_json(source / seal.METRICS)
    told = files.read_json(source / seal.BUNDLE)
    try:
        scores = {str(name): Score(**found).to_json() for name, found in metrics["scores"].items()}
        digests = {name: str(metrics["digests"].get(name, "")) for name in ("data", "project")}
        base = str(told["base"]["name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(
            f"{source / seal.METRICS} has no scores: {error!r}", hint="run `luban run` again"
        ) from error
    return {
        "digest": bundle.digest, "task": bundle.task, "base": base, "data_digest": digests["data"],
        "project_digest": digests["project"], "scores": json.dumps(scores),
        "size_bytes": sum(int(noted["bytes"]) for noted in manifest["files"].values()),
    }  # fmt: skip


def _of_digest(connection: Connection, name: str, digest: str) -> Version | None:
    query = select(VERSIONS).where((VERSIONS.c.name == name) & (VERSIONS.c.digest == digest))
    return next(iter(_versions(connection, connection.execute(query).all())), None)


def _versions(connection: Connection, rows: Sequence[Row[Any]]) -> list[Version]:
    """Return rows of versions with their aliases and what their cards state."""
    if not rows:
        return []
    name = rows[0].name
    aliases: dict[int, list[str]] = {}
    for row in connection.execute(select(ALIASES).where(ALIASES.c.name == name).order_by(ALIASES.c.alias)):
        aliases.setdefault(row.number, []).append(row.alias)
    cards: dict[int, dict[str, str]] = {}
    for row in connection.execute(select(CARDS).where(CARDS.c.name == name).order_by(CARDS.c.what)):
        cards.setdefault(row.number, {})[row.what] = row.text
    return [
        Version(**{
            **row._mapping,
            "scores": {key: Score(**found) for key, found in json.loads(row.scores).items()},
            "aliases": tuple(aliases.get(row.number, ())), "card": cards.get(row.number, {}),
        })
        for row in rows
    ]  # fmt: skip
