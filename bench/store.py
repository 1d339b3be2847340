"""How many commits a second does the registry's database take, from one writer and from eight at once?

    python bench/store.py                                  # 5 s each, in a new folder under the system's own for such
    python bench/store.py --folder /data                   # on another disk
    python bench/store.py --registry postgresql://USER@HOST/NAME      # leaves a few thousand rows in `settings`
    python bench/store.py --smoke                          # half a second each

Every commit is flushed to the disk before it counts. Beside it: how many times a second the disk flushes 4 KiB
that are appended to a file, which no database with one commit a flush can pass.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text

from luban.store.database import open_database


class Wrote(NamedTuple):
    """What one writer did."""

    commits: int
    longest_s: float
    errors: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the database and the trial of the disk are made")
    parser.add_argument("--registry", help="a database that is there; without it a new SQLite")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/store.json"))
    given = parser.parse_args()
    seconds = 0.5 if given.smoke else given.seconds
    folder = tempfile.mkdtemp(prefix="luban-bench-", dir=given.folder)
    try:
        found: dict[str, Any] = {"flushes_per_s": flushes(folder, seconds), "writers": {}}
        print(f"| flushes of 4 KiB | {found['flushes_per_s']:,.0f}/s | |")
        for writers in (1, 8):
            place = given.registry or f"{folder}/{writers}"
            database = open_database(place, create=True)
            name = database.version()
            database.close()
            with multiprocessing.get_context("fork").Pool(writers) as pool:
                wrote = pool.starmap(write, [(place, seconds)] * writers)
            commits, errors = sum(one.commits for one in wrote) / seconds, sum(one.errors for one in wrote)
            longest = max(one.longest_s for one in wrote)
            found["writers"][writers] = {"commits_per_s": commits, "longest_s": longest, "errors": errors}
            print(
                f"| {name}, {writers} at once | {commits:,.0f} commits/s | longest {longest:.2f} s, {errors} errors |"
            )
    finally:
        shutil.rmtree(folder)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")


def flushes(folder: str, seconds: float) -> float:
    """Return how many times a second the disk takes 4 KiB for good."""
    handle, n, until = os.open(f"{folder}/flushed", os.O_CREAT | os.O_WRONLY), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        os.pwrite(handle, b"x" * 4096, n * 4096)
        os.fdatasync(handle)
        n += 1
    os.close(handle)
    return n / seconds


def write(place: str, seconds: float) -> Wrote:
    """Commit one row after another."""
    database, who = open_database(place), secrets.token_hex(8)
    until, n, longest, errors = time.monotonic() + seconds, 0, 0.0, 0
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            with database.writing() as connection:
                connection.execute(text("INSERT INTO settings VALUES (:name, '')"), {"name": f"{who}-{n}"})
            n += 1
        except Exception as error:
            print(error)
            errors += 1
        longest = max(longest, time.monotonic() - began)
    database.close()
    return Wrote(n, longest, errors)


if __name__ == "__main__":
    main()
