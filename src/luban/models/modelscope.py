"""ModelScope, asked over its HTTP interface with the standard library alone: list, download, resume, check.

Its SDK is not used: it brings a second stack of its own, and can run code that comes with a model.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luban.errors import Conflict, LubanError
from luban.files import digest_json
from luban.models.facts import KEPT
from luban.models.remote import Listing, RemoteFile, Report, Unreachable, absent, check
from luban.records import Progress

DEFAULT_REVISION = "master"
ATTEMPTS = 5
TIMEOUT_S = 30.0
MAX_LISTING_BYTES = 32 * 2**20
_BLOCK_BYTES = 2**20
_AWAY = "check the network; set MODELSCOPE_ENDPOINT to a mirror, or name an `hf:` base or one of `luban bases`"


class ModelScope:
    """A client of ModelScope, or of whatever MODELSCOPE_ENDPOINT names; partial downloads are kept in a folder."""

    def __init__(self, partial: Path) -> None:
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://modelscope.cn").rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise LubanError(
                f"MODELSCOPE_ENDPOINT is {self.endpoint!r}, wanted an http(s) address", hint="correct or unset it"
            )
        self.partial = partial

    def listing(self, repository: str, revision: str) -> Listing:
        """Return the files of a revision and what pins it.

        That is the commit, where the hub tells it; otherwise `revision#digest`, the digest over the files' SHA-256,
        so that a branch which has moved on is noticed.
        """
        branch, _, pinned = revision.partition("#")
        query = urllib.parse.urlencode({"Revision": branch, "Recursive": "True"})
        address = f"{self.endpoint}/api/v1/models/{repository}/repo/files?{query}"
        name = f"ms:{repository}"
        try:
            with self._open(address) as answer:
                value: Any = json.loads(answer.read(MAX_LISTING_BYTES))
            data: dict[str, Any] = (value.get("Success", True) and value["Data"]) or {}
            files = {
                str(part["Path"]): RemoteFile(int(part["Size"]), str(part.get("Sha256") or "").lower())
                for part in data.get("Files") or () if part.get("Type", "blob") == "blob"
            }  # fmt: skip
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404):
                hint = f"check the spelling at {self.endpoint}/models/{repository}; private models can't be had"
                raise absent(f"{name}@{branch}", f"a public model at {self.endpoint}", hint) from error
            raise Unreachable(f"{self.endpoint} answers HTTP {error.code} about {repository}", hint=_AWAY) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{self.endpoint} can't be asked about {repository}: {_reason(error)}", hint=_AWAY
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreachable(
                f"{self.endpoint} does not answer as ModelScope does: {_reason(error)}", hint=_AWAY
            ) from error
        if not files:
            raise absent(
                f"{name}@{branch}", "a model and revision with files", f"see {self.endpoint}/models/{repository}"
            )
        commit = str((data.get("LatestCommitter") or {}).get("Id") or "")
        if not commit or pinned:
            contents = digest_json({path: file.sha256 for path, file in files.items() if KEPT.fullmatch(path)})[:16]
            if pinned and pinned != contents:
                raise Conflict(
                    f"{name}@{branch} has changed since the project was locked to {revision}",
                    hint="remove the lock to take what is there now, or name a tag or commit as revision",
                )
            commit = f"{branch}#{contents}"
        return Listing(commit, files)

    def bring(self, repository: str, listing: Listing, names: list[str], folder: Path, tell: Report) -> None:
        """Download files, going on where an earlier attempt broke off, and check each against its SHA-256."""
        source, total = f"ms:{repository}@{listing.commit}", sum(listing.files[name].size for name in names)
        branch, done, started = listing.commit.partition("#")[0], 0, time.monotonic()
        for name in names:
            address = (
                f"{self.endpoint}/models/{repository}/resolve/{urllib.parse.quote(branch)}/{urllib.parse.quote(name)}"
            )
            part = self.partial / f"{name.replace('/', '--')}.part"
            part.parent.mkdir(parents=True, exist_ok=True)

            def report(here: int, before: int = done) -> None:
                rate = (before + here) / max(time.monotonic() - started, 1e-3)
                left_s = (total - before - here) / rate if rate else None
                tell(Progress("bases", f"downloading {source}", before + here, total, "bytes", rate, left_s))

            self._download(address, part, name, listing.files[name].size, source, report)
            try:
                check(part, name, listing.files[name], source)
            except LubanError:
                part.unlink()
                raise
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            part.replace(folder / name)
            done += listing.files[name].size

    def _download(
        self, address: str, part: Path, name: str, size: int, source: str, report: Callable[[int], None]
    ) -> None:
        """Append to `part` until it has all bytes; give up after some attempts in a row that brought nothing."""
        in_vain, reason = 0, ""
        part.touch()
        while (before := part.stat().st_size) != size:
            if before > size:  # left by another version of the file, or sent by a server that does not stop
                part.write_bytes(b"")
                before = 0
            try:
                reason = f"the server sent {self._append(address, part, before, size, report)} of {size} bytes"
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}"
                in_vain += ATTEMPTS if error.code in (401, 403, 404) else 0
            except (OSError, http.client.HTTPException) as error:
                reason = _reason(error)
            after = part.stat().st_size
            in_vain = 0 if before < after <= size else in_vain + 1
            if in_vain >= ATTEMPTS:
                raise Unreachable(f"{name} of {source} could not be downloaded whole: {reason}",
                                  hint="run this again: it goes on where it stopped. Or " + _AWAY)  # fmt: skip
            if in_vain:
                time.sleep(min(0.1 * 2**in_vain, 5.0))

    def _append(self, address: str, part: Path, have: int, size: int, report: Callable[[int], None]) -> int:
        """Ask for the bytes that are missing, write what comes, and return how many there are then."""
        with self._open(address, {"Range": f"bytes={have}-"} if have else {}) as answer, part.open("ab") as file:
            if have and answer.status != 206:  # the server does not resume
                file.truncate(0)
                have = 0
            while have <= size and (block := answer.read(_BLOCK_BYTES)):
                file.write(block)
                have += len(block)
                report(have)
        return have

    def _open(self, address: str, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(address, headers={"User-Agent": "luban", **(headers or {})})
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__
