"""`init`: what is refused before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from luban.errors import DataError
from luban.stages import init


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [f"some words {n},{'ab'[n % 2]}" for n in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]), "utf-8")
    (tmp_path / "other.csv").write_text("\n".join(["words,kind", *lines]), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"test": "row.csv"}, ["row.csv: got no file of this name", "did you mean 'rows.csv'"]),
        ({"test": "no.csv", "validation": "none.csv"}, ["2 problems", "no.csv: got no file", "none.csv: got no file"]),
        ({"validation": "other.csv"}, ["other.csv", "words"]),
    ],
)
def test_test_and_validation_rows_are_looked_at_first(rows: Path, files: Mapping[str, str], told: list[str]) -> None:
    given = {name: rows / file for name, file in files.items()}
    with pytest.raises(DataError) as caught:
        init(rows / "rows.csv", out=rows / "luban.yaml", base=str(rows / "no-base"), **given)  # type: ignore[arg-type]
    for part in told:
        assert part in str(caught.value)
    assert not (rows / "luban.yaml").exists()
