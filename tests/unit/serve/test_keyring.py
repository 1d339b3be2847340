"""Who gets in: every kind of bad key is refused alike, rates hold, and nothing of a secret is in an error or a log."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.errors import Forbidden, Overloaded, Unauthenticated, codes
from luban.serve import keyring, keys
from luban.serve.access import SCOPES, Principal, Scope
from luban.serve.keyring import Bucket, Keyring, sent
from luban.store.database import Database, open_database


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(str(tmp_path_factory.mktemp("registry")), create=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def made(database: Database) -> dict[str, str]:
    """Return the secrets of keys of every kind."""
    secrets = {scope: keys.create(database, scope, [scope], who="ann").secret for scope in SCOPES}
    for name, more in {"expired": {"expires_s": 1e-6}, "revoked": {}, "slow": {"rate": 2.0, "burst": 3}}.items():
        secrets[name] = keys.create(database, name, SCOPES, who="ann", **more).secret  # type: ignore[arg-type]
    secrets["north"] = keys.create(database, "north", SCOPES, who="ann", tenant="north", models=["bank-*"]).secret
    keys.revoke(database, "revoked", who="ann")
    return secrets


@pytest.fixture
def ring(database: Database, made: dict[str, str]) -> Keyring:
    return Keyring(database)


def bad_keys(made: dict[str, str]) -> dict[str, str]:
    good = made["predict"]
    other = "A" if good[-1] != "A" else "B"
    return {
        "none": "", "malformed": "let-me-in", "cut": good[:-1], "longer": good + "A", "without its beginning": good[6:],
        "unknown": f"luban_{'0' * 16}_{'A' * 43}", "another secret": good[:-1] + other, "in capitals": good.upper(),
        "the id of one, the secret of another": made["read"][:22] + good[22:], "its hash": keys.hashed(good).hex(),
        "expired": made["expired"], "revoked": made["revoked"], "no ASCII": good[:-1] + "ä", "a surrogate": "\udcff",
        "with a space": good + " x", "a line more": good + "\n",
    }  # fmt: skip


@pytest.mark.parametrize("scope", SCOPES)
def test_every_bad_key_is_refused_alike_and_the_log_says_which(
    ring: Keyring, made: dict[str, str], scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "luban")
    errors = set()
    for secret in bad_keys(made).values():
        with pytest.raises(Unauthenticated) as found:
            ring.check(secret).want(scope)
        errors.add((str(found.value), codes(found.value)))
        assert len(secret) < 10 or secret[-20:] not in caplog.text
    assert len(errors) == 1
    for why in ("none was sent", "not the form", "not known", "expired", "revoked"):
        assert why in caplog.text
    assert made["expired"][6:22] in caplog.text, "the id of a known one"


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("key", SCOPES)
def test_a_key_may_what_its_scopes_say_and_no_more(ring: Keyring, made: dict[str, str], key: str, scope: Scope) -> None:
    caller = ring.check(made[key])
    if key == scope:
        caller.want(scope, "bank-intents")
        return
    with pytest.raises(Forbidden) as found:
        caller.want(scope, "bank-intents")
    assert codes(found.value).http == 403


def test_a_key_of_other_models_is_refused(ring: Keyring, made: dict[str, str]) -> None:
    caller = ring.check(made["north"])
    caller.want("predict", "bank-intents")
    assert caller.tenant == "north" and ring.check(made["predict"]).tenant == keys.TENANT
    for other in ("support", "bank", "a-bank-b", "BANK-intents", ""):
        with pytest.raises(Forbidden):
            caller.want("predict", other)


def test_nothing_is_allowed_that_was_not_said() -> None:
    for scope in SCOPES:
        with pytest.raises(Forbidden):
            Principal(name="nobody").want(scope)


def test_a_rate_holds_and_says_when_to_come_again(database: Database, made: dict[str, str]) -> None:
    now = [0.0]
    ring = Keyring(database, clock=lambda: now[0])
    for _ in range(3):
        ring.check(made["slow"])
    with pytest.raises(Overloaded) as found:
        ring.check(made["slow"])
    assert found.value.retry_after_s == pytest.approx(0.5)
    now[0] = 0.5
    assert ring.check(made["slow"]).name == "slow"
    keys.create(database, "another", ["predict"], who="ann")
    ring.refresh()
    with pytest.raises(Overloaded):
        ring.check(made["slow"])
    assert ring.check(made["predict"]).name == "predict", "others are not held up"


def test_a_rate_is_shared_among_processes(database: Database, made: dict[str, str]) -> None:
    ring = Keyring(database, n_processes=3, clock=lambda: 0.0)
    ring.check(made["slow"])
    with pytest.raises(Overloaded) as found:
        ring.check(made["slow"])
    assert found.value.retry_after_s == pytest.approx(1.5)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.floats(0.1, 20), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_a_bucket_never_lets_more_through_than_its_rate_and_burst(gaps: list[float], rate: float, burst: int) -> None:
    now = [0.0]
    bucket, passed = Bucket(rate, burst, lambda: now[0]), 0
    for gap in gaps:
        now[0] += gap
        wait_s = bucket.take()
        passed += wait_s == 0
        assert 0 <= wait_s <= 1 / rate + 1e-9
        assert passed <= burst + rate * now[0] + 1e-6


def test_threads_share_a_bucket() -> None:
    bucket, passed = Bucket(1.0, 1000, lambda: 0.0), []

    def take() -> None:
        passed.extend(bucket.take() == 0 for _ in range(1000))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 1000


@pytest.mark.parametrize(("headers", "found"), [
    ([(b"authorization", b"Bearer abc")], "abc"),
    ([(b"authorization", b"bearer  abc ")], "abc"),
    ([(b"x-api-key", b"abc")], "abc"),
    ([(b"host", b"a"), (b"x-api-key", b"abc"), (b"accept", b"*/*")], "abc"),
    ([], ""),
    ([(b"host", b"a")], ""),
    ([(b"authorization", b"Basic abc")], "?"),
    ([(b"authorization", b"Bearer")], "?"),
    ([(b"authorization", b"")], "?"),
    ([(b"x-api-key", b"abc"), (b"authorization", b"Bearer abc")], "?"),
    ([(b"authorization", b"Bearer abc"), (b"authorization", b"Bearer abd")], "?"),
])  # fmt: skip
def test_one_secret_is_taken_from_the_headers(headers: list[tuple[bytes, bytes]], found: str) -> None:
    assert sent(headers) == found


def test_it_is_what_a_server_asks(ring: Keyring, made: dict[str, str]) -> None:
    headers = [(b"authorization", b"Bearer " + made["read"].encode())]
    assert asyncio.run(ring.principal(headers)).name == "read"
    with pytest.raises(Unauthenticated):
        asyncio.run(ring.principal([]))


def test_secrets_are_compared_in_constant_time(
    ring: Keyring, made: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def digest(one: bytes, other: bytes) -> bool:
        compared.append(len(one) == len(other) == 32)
        return right(one, other)

    right = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", digest)
    assert ring.check(made["read"]).name == "read"
    for secret in bad_keys(made).values():
        with pytest.raises(Unauthenticated):
            ring.check(secret)
    assert compared == [True] * (1 + len(bad_keys(made))), "once for each, known or not, on hashes alone"
    assert "==" not in inspect.getsource(Keyring.check)


@given(st.text(max_size=100))
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_refused_or_known(text: str) -> None:
    assert keys.secret_id(text) == "" and len(keys.hashed(text)) == 32


def test_secrets_are_never_alike_and_have_256_bits(database: Database) -> None:
    made = [keys.create(database, f"many{number}", ["predict"], who="ann").secret for number in range(50)]
    assert len({secret[23:] for secret in made}) == 50 and {len(secret) for secret in made} == {66}
    assert keys._SECRET_BYTES * 8 == 256


def test_the_reader_notices_by_itself_and_ends(tmp_path: Path) -> None:
    database = open_database(str(tmp_path), create=True)
    ring = Keyring(database)
    assert not ring.has_keys
    ring.start()
    secret = keys.create(database, "shop", ["predict"], who="ann").secret
    until = time.monotonic() + 3 * keyring.STALE_S
    arrived = threading.Event()
    while not ring.has_keys and time.monotonic() < until:
        arrived.wait(0.02)
    assert ring.check(secret).name == "shop"
    ring.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "luban-keys"]
    assert keys.listed(database)[0].secrets[0].used is not None
    database.close()


def test_a_check_costs_microseconds(ring: Keyring, made: dict[str, str]) -> None:
    secret, n = made["read"], 5000
    best = min(timed(ring, secret, n) for _ in range(5))
    assert best < 50e-6


def timed(ring: Keyring, secret: str, n: int) -> float:
    began = time.perf_counter()
    for _ in range(n):
        ring.check(secret)
    return (time.perf_counter() - began) / n
