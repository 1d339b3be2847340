"""The stage `package`: a finished bundle as a folder for other people's tools, proven on real rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.data.sample import evenly_by_length
from luban.errors import CorruptBundle, DataError, NotFound, Problem
from luban.files import read_json, verify
from luban.records import Listener, Progress, ignore
from luban.stages.places import DATA
from luban.stages.predicting import newest_bundle

if TYPE_CHECKING:
    from luban.bundle.engine import Engine

PARITY_ROWS = 256
"""Rows, of every length, that answers are compared on."""
_READ_ROWS = 10_000
"""Rows of a file from which those are chosen."""
_DIFFERENCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """What a package is, and how near its answers are."""

    kind: str
    folder: Path
    bundle: Path
    """What it was made from."""
    size_mb: float
    """All its files, in millions of bytes."""
    rows: int
    """How many were compared."""
    rows_from: str
    """Where they came from."""
    proof: Mapping[str, Any]
    """`max_difference` of a logit or a probability, `allowed`, `labels_agree` (a share), and more."""


def package(
    kind: str,
    folder: Path | str,
    *,
    bundle: Path | str | None = None,
    rows: Path | str | None = None,
    column: str | None = None,
    max_difference: float | None = None,
    threads: int = 0,
    on_progress: Listener = ignore,
) -> Packaged:
    """Package a finished bundle for other people's tools.

    `docker`, `kserve`, `mlflow`, `onnx`, `openvino`, `sagemaker` or `tensorflow`.

    The package is opened with the tool it is for, and its answers are compared with the engine's: on the rows of a
    file; else on validation rows of the run that made the bundle; else on rows made up to the bundle's drift reference.

    Args:
        kind: what it is for.
        folder: where it will be; nothing may be there.
        bundle: the sealed folder; without it the newest under `./runs`.
        rows: a file of texts to compare on.
        column: column of that file that holds the text; without it the one that the model was trained with.
        max_difference: largest difference of a logit that is accepted; without it `export.max_difference` of the
            project that made the bundle.
        threads: of the engine's matrix products; 0 uses every core.
        on_progress: told how far it has come.

    Raises:
        NotFound: there is no bundle.
        Conflict: the folder is there already.
        ParityFailed: the package answers otherwise than the engine; nothing of it is left.
        MissingExtra: a package that this needs is not installed.
    """
    from luban.bundle import packages
    from luban.bundle.engine import Engine

    packages.catalogue.load(kind)
    bundle = newest_bundle(Path.cwd()) if bundle is None else Path(bundle)
    folder = Path(folder)
    engine = Engine.open(bundle, threads=threads)
    if max_difference is None:
        settings = read_json(bundle / "project.json").get("export", {})
        max_difference = float(settings.get("max_difference", _DIFFERENCE))
    chosen, rows_from = _rows(engine, bundle, rows, column)
    on_progress(Progress("package", f"{bundle} for {kind}, to be compared on {len(chosen)} of {rows_from}"))
    source = packages.Source(folder=bundle, engine=engine)
    proof = packages.make(kind, source, folder, chosen, rows_from, max_difference)
    size_mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    return Packaged(
        kind=kind, folder=folder, bundle=bundle, size_mb=size_mb, rows=len(chosen), rows_from=rows_from, proof=proof,
    )  # fmt: skip


def _rows(engine: Engine, bundle: Path, file: Path | str | None, column: str | None) -> tuple[list[Any], str]:
    """Return what to compare on, and what that is.

    Raises:
        DataError: the file has no rows, or can't be read.
    """
    if file is not None:
        return _of_file(engine, Path(file), column), f"the rows of {Path(file).name}"
    if (table := _validation_rows(bundle)) is not None:
        return list(engine.task.inputs(evenly_by_length(table, PARITY_ROWS))), "the run's validation rows"
    from luban.bundle.reference import made_up

    made = engine.processor.decode(made_up(read_json(bundle / "reference.json"), PARITY_ROWS))
    return made, "the rows made up to the bundle's drift reference"


def _of_file(engine: Engine, file: Path, column: str | None) -> list[Any]:
    import pyarrow as pa

    from luban.data.raw import Named
    from luban.data.read import stream

    batches = stream(file, Named(column or engine.text_column, ""), engine.task.kind, 1024, labelled=False)
    read = [pa.Table.from_batches([batch]) for batch in islice(batches, -(-_READ_ROWS // 1024))]
    table = pa.concat_tables(read, promote_options="permissive") if read else None
    if table is None or not table.num_rows:
        raise DataError([Problem("rows", "none", "one at least")], source=str(file))
    chosen = evenly_by_length(table, PARITY_ROWS)
    texts = chosen.column("text").to_pylist()
    tokens = chosen.column("tokens").to_pylist() if "tokens" in chosen.column_names else [None] * len(texts)
    return [text if units is None else units for text, units in zip(texts, tokens, strict=True)]


def _validation_rows(bundle: Path) -> Any:
    """Return the table of validation rows that the bundle's run has kept; None where it isn't there any more."""
    from luban.data.write import open_dataset

    data = bundle.parent / DATA
    try:
        digest = verify(data)["digest"]
        if read_json(bundle / "metrics.json")["digests"].get("data") != digest:
            return None
    except (NotFound, CorruptBundle, KeyError):
        return None
    table = open_dataset(data / "validation.arrow").table
    return table if table.num_rows else None
