"""Packages: a finished bundle as a folder that others serve with their own tools, proven to answer as the engine does.

One file a kind. A package is no bundle: its files have the names and endings that its tool wants. None is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luban import files
from luban.errors import LubanError
from luban.plugins import Catalogue

if TYPE_CHECKING:
    from luban.bundle.engine import Engine

catalogue = Catalogue("luban.bundle.packages", "kind of package")
README = "README.md"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The bundle that a package is made from."""

    folder: Path
    """Sealed and verified."""
    engine: Engine

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What `bundle.json` says."""
        found: Mapping[str, Any] = files.read_json(self.folder / "bundle.json")
        return found

    @property
    def runtime(self) -> str:
        """The runtime that the engine runs it by."""
        return str(self.facts["runtime"]["kind"])

    def graph(self) -> bytes:
        """Return the ONNX graph.

        Raises:
            LubanError: the bundle has none.
        """
        file = self.folder / str(self.facts["runtime"].get("file", ""))
        if file.suffix != ".onnx":
            raise LubanError(
                f"{self.folder} runs on {self.runtime} and has no graph that other tools could take",
                hint="set `export.runtime: onnx` and `luban run`, or package it `--for sagemaker`",
            )
        return file.read_bytes()


class Package(Protocol):
    """What the module of a kind offers."""

    def write(self, source: Source, folder: Path) -> None:
        """Fill a folder with all but its README.md.

        Raises:
            LubanError: this bundle can't be packaged so.
            MissingExtra: a package that this needs is not installed.
        """
        ...

    def prove(self, source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
        """Open what `write` left with the tool it is for, and compare its answers to rows with the engine's.

        Args:
            source: the bundle.
            folder: what `write` filled.
            rows: texts, or for tagging also lists of tokens; one at least.
            max_difference: largest difference of a logit, or of a probability, that is accepted.

        Returns:
            `max_difference`, `allowed`, `labels_agree`, `n` (answers compared), and more.

        Raises:
            ParityFailed: the answers differ.
        """
        ...

    def readme(self, source: Source, proof: Mapping[str, Any]) -> str:
        """Return the text of README.md: how to run it, what goes in, what comes out, and what the proof has shown."""
        ...


def make(
    kind: str, source: Source, folder: Path, rows: Sequence[Any], rows_from: str, max_difference: float
) -> Mapping[str, Any]:
    """Write a package and prove it; the folder appears when it is proven, or not at all.

    Args:
        kind: name of the package's module.
        source: the bundle.
        folder: where the package will be.
        rows: what answers are compared on.
        rows_from: says what these are, for its README.md.
        max_difference: largest difference that is accepted.

    Returns:
        What `Package.prove` found, and `rows_from`.

    Raises:
        UnknownPlugin: there is no such kind.
        Conflict: the folder is there already.
        ParityFailed: the package answers otherwise than the engine.
    """
    package: Package = catalogue.load(kind)
    with files.new_folder(folder) as aside:
        package.write(source, aside)
        proof = {**package.prove(source, aside, rows, max_difference), "rows_from": rows_from}
        files.write_text(aside / README, package.readme(source, proof))
    return proof


def rendered(template: str, **values: Any) -> str:
    """Return a template of this folder, filled in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    # Its own filter for JSON writes every letter beyond ASCII as an escape.
    environment.filters["quoted"] = partial(json.dumps, ensure_ascii=False)
    return environment.get_template(template).render(**values)
