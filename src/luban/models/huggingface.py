"""The Hugging Face hub, asked through huggingface_hub: its endpoint, token, proxy and cache settings count here too."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from luban.errors import LubanError, MissingExtra, install
from luban.models.remote import Listing, RemoteFile, Report, Unreachable, absent, check
from luban.records import Progress

DEFAULT_REVISION = "main"
_AWAY = (
    "check the network; behind a firewall set HF_ENDPOINT to a mirror, or name an `ms:` base or one of `luban bases`"
)


class HuggingFace:
    """A client of the Hugging Face hub, or of whatever HF_ENDPOINT names."""

    def __init__(self) -> None:
        self.endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    def listing(self, repository: str, revision: str) -> Listing:
        """Return the files of a revision and the commit that it means now."""
        try:
            from huggingface_hub import HfApi, errors
        except ModuleNotFoundError as error:
            raise MissingExtra("bases from a hub need huggingface_hub, which is not installed",
                               hint=install("train")) from error  # fmt: skip
        name = f"hf:{repository}"
        try:
            found = HfApi(endpoint=self.endpoint).model_info(repository, revision=revision, files_metadata=True)
        except errors.GatedRepoError as error:
            hint = f"accept its terms at {self.endpoint}/{repository}, then `hf auth login`"
            raise absent(name, "a model that may be had without more ado", hint) from error
        except errors.RevisionNotFoundError as error:
            raise absent(
                f"{name}@{revision}", "a branch, tag or commit that it has", f"see {self.endpoint}/{repository}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise absent(
                name, f"a model at {self.endpoint}", "check the spelling; a private one needs `hf auth login`"
            ) from error
        except errors.HFValidationError as error:
            raise absent(name, "an id as `organisation/name`", str(error)) from error
        except Exception as error:  # the HTTP library beneath is huggingface_hub's own choice, and so are its errors
            raise Unreachable(
                f"{self.endpoint} can't be asked about {repository}: {_first_line(error)}", hint=_AWAY
            ) from error
        files = {
            part.rfilename: RemoteFile(
                part.size if part.size is not None else -1, part.lfs.sha256 if part.lfs else "", part.blob_id or ""
            )
            for part in found.siblings or ()
        }
        return Listing(str(found.sha), files)

    def bring(self, repository: str, listing: Listing, names: list[str], folder: Path, tell: Report) -> None:
        """Download files into the hub's own cache, check each against its SHA-256, and link or copy them here.

        The cache keeps whole files when a download is interrupted, and other tools share it.
        """
        from huggingface_hub import snapshot_download

        arguments: dict[str, Any] = {"allow_patterns": names, "endpoint": self.endpoint}
        source = f"hf:{repository}@{listing.commit}"
        try:
            kept = Path(
                snapshot_download(repository, revision=listing.commit, tqdm_class=_bar(source, tell), **arguments)
            )
        except Exception as error:
            raise Unreachable(f"{source} could not be downloaded whole: {_first_line(error)}", hint=_AWAY) from error
        for name in names:
            path = (kept / name).resolve()
            try:
                check(path, name, listing.files[name], source)
            except FileNotFoundError as error:
                raise LubanError(f"{name} of {source} was not downloaded", hint="run this again") from error
            except LubanError:
                path.unlink(missing_ok=True)  # else the cache would hand out the damaged file for ever
                raise
            link_or_copy(path, folder / name)


def link_or_copy(path: Path, to: Path) -> None:
    """Give a file a second name, which costs no space, or copy it where the file system can't."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _bar(source: str, tell: Report) -> type:
    """Return a class that stands for tqdm and turns what it is told into Progress."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.bytes_at = (
                time.monotonic() if kwargs.get("unit") == "B" and "Reconstruct" in str(kwargs.get("desc")) else None
            )
            total = kwargs.get("total")
            super().__init__(*args, **{**kwargs, "disable": True})
            self.total = total

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.bytes_at is None:
                return
            rate = self.n / max(time.monotonic() - self.bytes_at, 1e-3)
            left_s = (self.total - self.n) / rate if self.total and rate else None
            tell(Progress("bases", f"downloading {source}", int(self.n), int(self.total or 0), "bytes", rate, left_s))

    return Bar
