"""The source as the house tests see it: modules, their trees, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"


class Import(NamedTuple):
    """One import statement's target."""

    name: str
    """The module that is imported: of Luban's own the file that is meant, of others the dotted name."""
    line: int
    for_types_only: bool
    """It stands under `if TYPE_CHECKING`."""


@cache
def modules() -> dict[str, Path]:
    """Return dotted name -> file, for every module of Luban."""
    found = {}
    for path in sorted((SOURCE / "luban").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def room(module: str) -> str:
    """Return the room that a module is in: `tasks` for `luban.tasks.tag`; `luban` for the front door."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "luban"


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Return everything that a module imports, inside functions too."""
    return tuple(_walk(tree(modules()[module]), module, False))


def _walk(node: ast.AST, module: str, for_types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, for_types_only) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}, line {child.lineno}: write imports from `luban.` on"
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if inner in modules() else str(child.module), child.lineno, for_types_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from _walk(ast.Module([part], []), module, True)
            for part in child.orelse:
                yield from _walk(ast.Module([part], []), module, for_types_only)
        else:
            yield from _walk(child, module, for_types_only)
