"""Who calls, and whether they may: every live key in memory, read anew each second, so that a check costs microseconds.

A server must notice within 5 s that a key was revoked. So what is in memory counts for `STALE_S` from the beginning of
the read that it came from; after that, if the database could not be read again, nobody gets in. Whoever changes a key
also moves the head of the audit: one row tells whether anything must be read at all.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from luban.errors import LubanError, NotFound, Overloaded, Unauthenticated, Unavailable
from luban.registry import audit
from luban.serve import keys
from luban.serve.access import Headers, Principal
from luban.store.database import Database, open_database

STALE_S = 4.0
"""How long what was read counts, in seconds: under the 5 s in which a revoked key must be refused."""
REFRESH_S = 1.0
"""How often the database is asked, in seconds."""
USED_S = 10.0
"""How often it is written down which secrets were seen, in seconds."""
_DUMMY = bytes(32)
_BEARER = b"bearer "
_log = logging.getLogger(__name__)


def sent(headers: Headers) -> str:
    """Return the secret that headers carry: `Authorization: Bearer KEY`, or `X-API-Key: KEY`; empty where none does.

    Two of them are none: what stands before this server might have looked at the other one.
    """
    found = ""
    for name, value in headers:
        if name == b"authorization":
            one = value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b"?"
        elif name == b"x-api-key":
            one = value.strip()
        else:
            continue
        if found:
            return "?"
        found = one.decode("latin-1") or "?"
    return found


class Bucket:
    """A token bucket: `rate` requests a second, and `burst` at once. Threads may share it."""

    __slots__ = ("_at", "_clock", "_left", "_lock", "burst", "rate")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst = rate, burst
        self._clock, self._left, self._at = clock, burst, clock()
        self._lock = threading.Lock()

    def take(self) -> float:
        """Take one and return 0; or take nothing and return in how many seconds there will be one."""
        with self._lock:
            now = self._clock()
            self._left = min(self.burst, self._left + (now - self._at) * self.rate)
            self._at = now
            if self._left >= 1:
                self._left -= 1
                return 0.0
            return (1 - self._left) / self.rate


@dataclass(frozen=True, slots=True)
class _Entry:
    """A secret, and what it opens."""

    sha256: bytes
    expires: float
    revoked: bool
    principal: Principal
    bucket: Bucket | None


class Keyring:
    """The keys of a database. `start` keeps it fresh from a thread; without it, call `refresh`.

    Threads may share it. A process that was forked makes its own.
    """

    def __init__(
        self,
        database: Database,
        *,
        n_processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Read every key.

        Args:
            database: holds the keys; `close` closes it.
            n_processes: processes that share the requests: each lets its share of every rate through.
            clock: seconds of which only differences count.
            wall: seconds since 1970.
        """
        self._database = database
        self._n_processes = n_processes
        self._clock, self._wall = clock, wall
        self._entries: dict[str, _Entry] = {}
        self._buckets: dict[str, Bucket] = {}
        self._head = ""
        self._fresh_until = float("-inf")
        self._fault = ""
        self._used: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.refresh()

    @property
    def has_keys(self) -> bool:
        """Whether any key was made, though it may be revoked by now."""
        return bool(self._entries)

    async def principal(self, headers: Headers) -> Principal:
        """Return who sends a request with these headers; see `check`."""
        return self.check(sent(headers))

    def check(self, secret: str) -> Principal:
        """Return who sent a secret, and take one request off its rate.

        Args:
            secret: as it came; empty where none did.

        Raises:
            Unauthenticated: it opens nothing. Why is in the log, and never in the error.
            Overloaded: the key's rate is used up; `retry_after_s` says for how long.
            Unavailable: the database could not be read for too long to know.
        """
        if self._clock() >= self._fresh_until:
            raise self._stale()
        id = keys.secret_id(secret)
        entry = self._entries.get(id)
        # The work is the same whether the id is known or not, and the time of comparing tells nothing.
        right = hmac.compare_digest(keys.hashed(secret), _DUMMY if entry is None else entry.sha256)
        now = self._wall()
        if entry is None or not right or entry.revoked or now >= entry.expires:
            raise self._refused(secret, id, entry, right)
        self._used[id] = now
        if entry.bucket is not None and (wait_s := entry.bucket.take()) > 0:
            _log.info("key %s (%s): its rate of %g/s is used up", entry.principal.name, id, entry.bucket.rate)
            raise Overloaded(
                "this key's rate is used up", retry_after_s=wait_s, hint=f"try again in {math.ceil(wait_s)} s"
            )
        return entry.principal

    def refresh(self) -> None:
        """Read what has changed.

        Raises:
            RegistryError: the database could not be read; what was read before counts a while longer.
        """
        began = self._clock()
        try:
            with self._database.reading() as connection:
                head = audit.head(connection)
                found = None if head == self._head else keys.read(connection)
        except LubanError as error:
            self._fault = error.message
            raise
        if found is not None:
            self._take(found)
            self._head = head
        self._fresh_until, self._fault = began + STALE_S, ""

    def start(self) -> None:
        """Keep it fresh from now on, from a thread of its own."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self.keep_fresh, args=(self._stopping,), name="luban-keys", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop keeping it fresh, write down which secrets were seen, and close the database."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self.flush_used()
        self._database.close()

    def flush_used(self) -> None:
        """Write down which secrets were seen; what can't be written is lost."""
        used, self._used = self._used, {}
        try:
            if used:
                keys.note_used(self._database, used)
        except LubanError as error:
            _log.warning("when keys were last used could not be written: %s", error.message)

    def keep_fresh(self, stopping: threading.Event) -> None:
        """Read what has changed, once a second, until told to stop."""
        flushed = self._clock()
        while not stopping.wait(REFRESH_S):
            try:
                self.refresh()
            except LubanError as error:
                _log.warning("keys could not be read: %s", error.message)
                continue
            except Exception:
                # Whatever it is, checks must end in refusal rather than this thread in silence.
                _log.exception("keys could not be read")
                continue
            if self._clock() - flushed >= USED_S:
                flushed = self._clock()
                self.flush_used()

    def _take(self, found: list[keys.Key]) -> None:
        buckets: dict[str, Bucket] = {}
        entries: dict[str, _Entry] = {}
        for key in found:
            bucket = self._bucket(key)
            if bucket is not None:
                buckets[key.name] = bucket
            principal = Principal(name=key.name, tenant=key.tenant, scopes=frozenset(key.scopes), models=key.models)
            for one in key.secrets:
                entries[one.id] = _Entry(
                    bytes.fromhex(one.sha256), keys.expiry(one), key.revoked is not None, principal, bucket
                )
        self._entries, self._buckets = entries, buckets

    def _bucket(self, key: keys.Key) -> Bucket | None:
        """Return the bucket that a key has had, as full as it is, or a new one."""
        if key.rate is None or key.burst is None:
            return None
        rate, burst = key.rate / self._n_processes, max(1.0, key.burst / self._n_processes)
        had = self._buckets.get(key.name)
        return had if had is not None and (had.rate, had.burst) == (rate, burst) else Bucket(rate, burst, self._clock)

    def _refused(self, secret: str, id: str, entry: _Entry | None, right: bool) -> Unauthenticated:
        """Return the one error for every kind of bad key; the log says which, and has nothing of what was sent."""
        if not secret:
            why = "none was sent"
        elif not id:
            why = "it has not the form of a key"
        elif entry is None or not right:
            why = "it is not known"
        elif entry.revoked:
            why = f"{entry.principal.name} ({id}) was revoked"
        else:
            why = f"{entry.principal.name} ({id}) has expired"
        _log.info("a key was refused: %s", why)
        return Unauthenticated("a valid key is needed", hint="send it as `Authorization: Bearer KEY`")

    def _stale(self) -> Unavailable:
        _log.error("keys have not been read for %g s: %s", STALE_S, self._fault or "the reader is late")
        return Unavailable(
            "keys can't be checked now: their database has not answered", hint="try again in some seconds"
        )


def opened(registry: str, *, n_processes: int = 1) -> Keyring | None:
    """Return the keys of a registry, kept fresh; None where there is no registry, or no key was ever made.

    Raises:
        RegistryError: it can't be read: whether there are keys is not known then, and nobody gets in.
    """
    ring = read(registry, n_processes)
    if ring is not None:
        ring.start()
    return ring


def read(registry: str, n_processes: int) -> Keyring | None:
    """Return the keys of a registry as they are now; None and errors as `opened`."""
    try:
        database = open_database(registry)
    except NotFound:
        return None
    try:
        ring = Keyring(database, n_processes=n_processes)
        if not ring.has_keys:
            database.close()
            return None
    except BaseException:
        database.close()
        raise
    return ring
