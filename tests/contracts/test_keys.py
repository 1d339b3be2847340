"""What access keys promise, held by SQLite and PostgreSQL alike."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy import text, update

from luban.errors import BadRequest, Conflict, NotFound, Unauthenticated, Unavailable
from luban.registry import audit
from luban.serve import keyring, keys
from luban.serve.keyring import Keyring
from luban.store.database import Database, open_database
from luban.store.tables import KEY_SECRETS, KEYS

WHO = "ann@shop"
DAY_S = 86_400.0
PROMISED_S = 5.0


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(place: str) -> Iterator[Database]:
    opened = open_database(place, create=True)
    yield opened
    opened.close()


def verified(database: Database) -> audit.Verified:
    with database.reading() as connection:
        return audit.verify(connection)


def test_a_key_is_made_once_and_opens_what_it_is_for(database: Database) -> None:
    key, secret = keys.create(
        database, "shop", ["client"], who=WHO, tenant="north", models=["bank-*", "faq"], rate=50, expires_s=DAY_S
    )
    assert (key.scopes, key.models, key.tenant, key.burst) == (("predict", "feedback"), ("bank-*", "faq"), "north", 50)
    assert keys.listed(database) == [key] and [keys.secret_id(secret)] == [one.id for one in key.live()]
    caller = Keyring(database).check(secret)
    assert (caller.name, caller.tenant, sorted(caller.scopes)) == ("shop", "north", ["feedback", "predict"])
    assert [caller.may_use(one) for one in ("bank-intents", "faq", "bank", "faq2")] == [True, True, False, False]
    with pytest.raises(Conflict, match="there is a key 'shop'"):
        keys.create(database, "shop", ["predict"], who=WHO)


@pytest.mark.parametrize("wrong", [
    {"name": "a b"}, {"name": ""}, {"scopes": ["predict", "everything"]}, {"scopes": []}, {"tenant": "../x"},
    {"models": ["a/b"]}, {"models": []}, {"rate": 0}, {"rate": -1.0}, {"rate": float("nan")}, {"burst": 5},
    {"rate": 5, "burst": 0}, {"expires_s": 0}, {"expires_s": -1.0}, {"expires_s": float("inf")},
])  # fmt: skip
def test_what_can_not_be_is_refused_and_leaves_nothing(database: Database, wrong: dict[str, object]) -> None:
    given = {"name": "shop", "scopes": ["predict"], **wrong}
    with pytest.raises(BadRequest):
        keys.create(database, str(given.pop("name")), given.pop("scopes"), who=WHO, **given)  # type: ignore[arg-type]
    assert keys.listed(database) == [] and verified(database).n_entries == 0


def test_rotation_leaves_two_secrets_and_then_one(database: Database) -> None:
    first = keys.create(database, "shop", ["predict"], who=WHO, expires_s=90 * DAY_S).secret
    key, second = keys.rotate(database, "shop", who=WHO, grace_s=60)
    ring = Keyring(database)
    assert ring.check(first) == ring.check(second)
    newest, older = key.live()
    assert 89.9 * DAY_S < keys.expiry(newest) - time.time() <= 90 * DAY_S, "as long a life as the one before"
    assert 0 < keys.expiry(older) - time.time() <= 60
    with pytest.raises(Conflict, match="2 live secrets") as found:
        keys.rotate(database, "shop", who=WHO)
    assert "luban keys revoke shop --older" in found.value.hint
    assert [one.id for one in keys.revoke(database, "shop", who=WHO, older=True).live()] == [newest.id]
    ring.refresh()
    assert ring.check(second).name == "shop"
    with pytest.raises(Unauthenticated):
        ring.check(first)
    third = keys.rotate(database, "shop", who=WHO, grace_s=0).secret
    ring.refresh()
    assert ring.check(third).name == "shop"
    with pytest.raises(Unauthenticated):
        ring.check(second)


def test_an_old_secret_ends_with_its_grace(database: Database) -> None:
    first = keys.create(database, "shop", ["predict"], who=WHO).secret
    keys.rotate(database, "shop", who=WHO, grace_s=60)
    ahead = [0.0]
    ring = Keyring(database, wall=lambda: time.time() + ahead[0])
    assert ring.check(first).name == "shop"
    ahead[0] = 61
    with pytest.raises(Unauthenticated):
        ring.check(first)


def test_a_revoked_key_stays_revoked(database: Database) -> None:
    keys.create(database, "shop", ["predict"], who=WHO)
    revoked = keys.revoke(database, "shop", who=WHO, why="left on a train")
    assert revoked.revoked and revoked.live() == ()
    assert keys.revoke(database, "shop", who="bob") == revoked
    for again in (keys.rotate, lambda *a, **b: keys.create(*a, ["predict"], **b)):
        with pytest.raises(Conflict):
            again(database, "shop", who=WHO)
    with pytest.raises(NotFound, match="no key 'shpo'") as found:
        keys.revoke(database, "shpo", who=WHO)
    assert "did you mean 'shop'?" in found.value.hint
    with database.reading() as connection:
        entries = audit.entries(connection, subject="key:shop")
    assert [(one.action, one.facts["why"]) for one in entries] == [
        ("key-create", ""),
        ("key-revoke", "left on a train"),
    ]


TAMPERING = {
    "a secret of one's own": text(
        "UPDATE key_secrets SET sha256 = substr(id || sha256, 1, 64) WHERE id = (SELECT min(id) FROM key_secrets)"
    ),
    "a life without end": update(KEY_SECRETS).values(expires=None),
    "another scope": update(KEYS).values(scopes='["admin"]'),
    "another tenant": update(KEYS).values(tenant="south"),
    "all models": update(KEYS).values(models='["*"]'),
    "no limit": update(KEYS).values(rate=None),
    "not revoked": update(KEYS).values(revoked=None),
    "no key": text("DELETE FROM key_secrets"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_the_audit_tells_of_a_key_that_was_changed_behind_it(database: Database, how: str) -> None:
    keys.create(database, "shop", ["predict"], who=WHO, models=["bank"], rate=5, expires_s=DAY_S)
    keys.rotate(database, "shop", who=WHO)
    keys.revoke(database, "shop", who=WHO)
    assert verified(database).broken is None and verified(database).n_entries == 3
    with database.writing() as connection:
        connection.execute(TAMPERING[how])
    found = verified(database)
    assert found.broken == 3 and "key:shop" in found.problem


def test_when_a_secret_was_seen_is_written_down_and_is_no_change(database: Database) -> None:
    secret = keys.create(database, "shop", ["predict"], who=WHO).secret
    ring = Keyring(database)
    before = time.time()
    ring.check(secret)
    ring.close()
    used = keys.listed(database)[0].secrets[0].used
    assert used is not None and audit.now()[:10] == used[:10]
    assert verified(database).broken is None and verified(database).n_entries == 1
    # What another process saw later is not overwritten by what this one saw before.
    keys.note_used(database, {keys.secret_id(secret): before - 3600})
    assert keys.listed(database)[0].secrets[0].used == used


def guard(place: str, secret: str, said: Connection) -> None:
    """Serve as another process does: tell when it lets the key in first, and when it refuses it."""
    database = open_database(place)
    ring = Keyring(database)
    ring.start()
    ring.check(secret)
    said.send(time.monotonic())
    until = time.monotonic() + 3 * PROMISED_S
    while time.monotonic() < until:
        try:
            ring.check(secret)
        except Unauthenticated:
            said.send(time.monotonic())
            break
        said.poll(0.01)
    ring.close()
    database.close()


def test_every_process_refuses_a_revoked_key_within_five_seconds(place: str, database: Database) -> None:
    secret = keys.create(database, "shop", ["predict"], who=WHO).secret
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(2)]
    guards = [spawn.Process(target=guard, args=(place, secret, theirs)) for _, theirs in pipes]
    for one in guards:
        one.start()
    for ours, _ in pipes:
        assert ours.poll(60)
        ours.recv()
    revoked = time.monotonic()
    keys.revoke(database, "shop", who=WHO)
    for ours, _ in pipes:
        assert ours.poll(3 * PROMISED_S), "it was never refused"
        assert ours.recv() - revoked < PROMISED_S
    for one in guards:
        one.join(30)
        assert one.exitcode == 0


def test_nobody_gets_in_when_the_database_can_not_be_read_for_long(place: str, database: Database) -> None:
    secret = keys.create(database, "shop", ["predict"], who=WHO).secret
    now = [0.0]
    ring = Keyring(database, clock=lambda: now[0])
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE audit_head RENAME TO gone"))
    now[0] = keyring.STALE_S - 0.01
    with pytest.raises(Exception, match="audit_head"):
        ring.refresh()
    assert ring.check(secret).name == "shop"
    now[0] = keyring.STALE_S
    with pytest.raises(Unavailable, match="database has not answered"):
        ring.check(secret)
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO audit_head"))
    ring.refresh()
    assert ring.check(secret).name == "shop"


def test_no_secret_is_in_the_database(place: str, database: Database, kind: str) -> None:
    secrets = [keys.create(database, f"k{number}", ["predict"], who=WHO).secret for number in range(20)]
    secrets += [keys.rotate(database, f"k{number}", who=WHO).secret for number in range(20)]
    if kind == "sqlite":
        kept = b"".join(path.read_bytes() for path in Path(place).iterdir())
    else:
        kept = b""
        with database.reading() as connection:
            for table in ("keys", "key_secrets", "audit", "audit_head", "settings"):
                kept += repr(connection.execute(text(f"SELECT * FROM {table}")).all()).encode()
    for secret in secrets:
        assert keys.secret_id(secret).encode() in kept and keys.hashed(secret).hex().encode() in kept
        for form in (secret.encode(), secret[-43:].encode(), secret[-43:-3].encode()):
            assert form not in kept
