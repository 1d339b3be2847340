"""Catalogues of plug-ins: one file a plug-in, the file's stem is its name, and only the one asked for is imported.

A plug-in file holds a frozen dataclass named `Options` (or none, where there is nothing to set) and whatever its
room's protocol asks for. Packages outside Luban add plug-ins by an entry point in the group `luban.<room>`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from luban.errors import MissingExtra, PluginError, UnknownPlugin, did_you_mean, install


class Catalogue:
    """The plug-ins of one kind, found by looking at file names, so that a broken one does no harm to its siblings."""

    def __init__(self, package: str, what: str, *, ignore: frozenset[str] = frozenset()) -> None:
        """Store where to look.

        Args:
            package: dotted name of the room whose files are the plug-ins, e.g. `luban.tasks`.
            what: the word for one plug-in in messages, e.g. `task`.
            ignore: stems in that room that are not plug-ins.
        """
        self.package = package
        self.what = what
        self._ignore = ignore
        self._outside: dict[str, str] | None = None

    def names(self) -> tuple[str, ...]:
        """Return every plug-in's name, sorted, without importing any."""
        return tuple(sorted({*self._files(), *self._entry_points()}))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def load(self, name: str) -> ModuleType:
        """Import one plug-in and return its module.

        Raises:
            UnknownPlugin: no such name; the hint has the nearest.
            MissingExtra: the plug-in's own imports are not installed.
            PluginError: the file is there and fails to import.
        """
        if name in (files := self._files()):
            module = f"{self.package}.{files[name]}"
        elif name in (outside := self._entry_points()):
            module = outside[name]
        else:
            raise UnknownPlugin(f"no {self.what} is called {name!r}", hint=did_you_mean(name, self.names()))
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or "a package"
            if missing.split(".")[0] == "luban":
                raise PluginError(f"{self.what} {name!r} can't be imported: {error}") from error
            raise MissingExtra(
                f"{self.what} {name!r} needs the package {missing!r}, which is not installed",
                hint=install("train"),
            ) from error
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(
                f"{self.what} {name!r} can't be imported: {type(error).__name__}: {error}",
                hint=f"mend {module.replace('.', '/')}.py",
            ) from error

    def about(self, name: str) -> str:
        """Return the first line of a plug-in's docstring, read without importing it; empty where there is none."""
        if name not in (files := self._files()):
            return ""
        source = self._folder() / f"{files[name]}.py"
        try:
            text = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
        except (OSError, SyntaxError):
            return ""
        return text.split("\n")[0]

    def _folder(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise PluginError(f"the package {self.package} is not there")
        return Path(next(iter(spec.submodule_search_locations)))

    def _files(self) -> dict[str, str]:
        """Return plug-in name -> module stem; a dash in a name is an underscore in its file."""
        stems = (path.stem for path in self._folder().glob("*.py"))
        return {stem.replace("_", "-"): stem for stem in stems if stem[0] != "_" and stem not in self._ignore}

    def _entry_points(self) -> dict[str, str]:
        """Return plug-in name -> module, of other packages; looked for once, since that reads every package's facts."""
        if self._outside is None:
            self._outside = {point.name: point.value for point in metadata.entry_points(group=self.package)}
        return self._outside


def room(package: str) -> Catalogue:
    """Return the catalogue of a room by the room's dotted name, e.g. `luban.tasks`."""
    catalogue = getattr(importlib.import_module(package), "catalogue", None)
    if not isinstance(catalogue, Catalogue):
        raise PluginError(f"the package {package} has no catalogue")
    return catalogue


@lru_cache(maxsize=256)
def field_docs(section: type) -> dict[str, str]:
    """Return field name -> the string beneath it, for the fields that a dataclass itself declares and documents."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for above, below in zip(tree.body, tree.body[1:], strict=False):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return docs
