"""A registry without keys: everybody is let in, until one is made.

What reads keys is imported, with the database's library, only where there is a registry.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from luban.errors import LubanError
from luban.serve.access import Headers, Open, Principal

if TYPE_CHECKING:
    from luban.serve.keyring import Keyring

_LOOK_S = 1.0
"""How often it is asked whether there are keys now, in seconds."""
_log = logging.getLogger(__name__)


class Unlocked:
    """Lets everybody do everything until the registry has a key; from then on, its keys count.

    Looked for once a second from a thread, which keeps them fresh afterwards. A registry that can't be read then
    changes nothing: it had no key before.
    """

    def __init__(self, registry: str, *, n_processes: int = 1) -> None:
        self._open = Open()
        self._ring: Keyring | None = None
        self._registry, self._n_processes = registry, n_processes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="luban-keys", daemon=True)
        self._thread.start()

    async def principal(self, headers: Headers) -> Principal:
        """Return anyone, or who sends a request; see `Keyring.principal`."""
        # Asked for None: with its last key revoked a ring lets nobody in, and is no less a ring.
        return await (self._open if self._ring is None else self._ring).principal(headers)

    def close(self) -> None:
        """Look no more, and let go of the keys."""
        self._stopping.set()
        self._thread.join()
        if self._ring is not None:
            self._ring.close()

    def _look(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            if not may_hold_keys(self._registry):
                continue
            from luban.serve.keyring import read

            try:
                self._ring = read(self._registry, self._n_processes)
            except LubanError as error:
                _log.warning("the registry can't be read: %s", error.message)
            if self._ring is not None:
                _log.warning("a key was made: from now on every request needs one")
                self._ring.keep_fresh(self._stopping)
                return


def may_hold_keys(registry: str) -> bool:
    """Tell whether there is something that could be a registry: a folder, or any URL."""
    return "://" in registry or Path(registry).exists()
