"""A room imports only from lower floors; rooms on one floor do not import each other; no file is in an import cycle.

A name that only a type checker reads may come from a room on the same floor, never from a higher one.
"""

from __future__ import annotations

import ast
import re

import pytest
from house.source import imports, modules, room, tree

FLOORS = {
    "errors": 0,
    "records": 0,
    "plugins": 0,
    "files": 0,
    "client": 1,
    "project": 1,
    "data": 1,
    "store": 1,
    "models": 2,
    "metrics": 2,
    "tasks": 3,
    "adapters": 3,
    "objectives": 3,
    "train": 4,
    "evaluate": 4,
    "bundle": 4,
    "compress": 5,
    "registry": 6,
    "serve": 7,
    "monitor": 7,
    "improve": 7,
    "stages": 8,
    "tune": 8,
    "luban": 8,
    "cli": 9,
    "console": 9,
}
# The ground's own files build on each other in this order, and the front door and the tuner stand on the stages.
WITHIN_A_FLOOR = {("plugins", "errors"), ("files", "errors"), ("tune", "stages"), ("luban", "stages")}


def reasons_against(module: str, target: str, for_types_only: bool = False) -> str:
    """Return why a module may not import another of Luban's; empty where it may."""
    here, there = room(module), room(target)
    if here == there or (here, there) in WITHIN_A_FLOOR:
        return ""
    if there == "luban":
        return "imports its own root" if FLOORS[here] < 9 else ""
    if FLOORS[there] < FLOORS[here] or (for_types_only and FLOORS[there] == FLOORS[here]):
        return ""
    same = "on the same floor" if FLOORS[there] == FLOORS[here] else "on a higher floor"
    return f"imports {target}, {same}"


@pytest.mark.parametrize("module", modules())
def test_imports_only_from_lower_floors(module: str) -> None:
    assert room(module) in FLOORS, f"{room(module)} has no floor: give it one in this table and in CONTRIBUTING.md"
    wrong = [
        f"line {found.line}: {why}"
        for found in imports(module)
        if found.name.split(".")[0] == "luban" and (why := reasons_against(module, found.name, found.for_types_only))
    ]
    assert not wrong


def test_no_import_cycle() -> None:
    edges = {
        module: {found.name for found in imports(module) if found.name in modules() and not found.for_types_only}
        for module in modules()
    }
    assert cycles(edges) == []


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, in a circle or themselves (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in edges[node]:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return found


class TestTheRulesThemselves:
    """A rule that finds nothing proves nothing until it has been seen to find something."""

    def test_imports_in_functions_and_submodules_are_seen(self) -> None:
        found = {(item.name, item.for_types_only) for item in imports("luban")}
        assert ("luban.bundle.engine", True) in found
        assert ("luban.bundle.engine", False) in found, "the import inside `load`"
        assert "luban.plugins" in {item.name for item in imports("luban.project.plugged")}

    def test_wrong_directions_are_found(self) -> None:
        assert "higher" in reasons_against("luban.data.read", "luban.tasks.tag")
        assert "same" in reasons_against("luban.data.read", "luban.project.load")
        assert "higher" in reasons_against("luban.data.read", "luban.tasks.tag", for_types_only=True)
        assert "root" in reasons_against("luban.train.loop", "luban")
        assert not reasons_against("luban.train.loop", "luban.tasks")
        assert not reasons_against("luban.data.read", "luban.project.schema", for_types_only=True)
        assert not reasons_against("luban.tasks.tag", "luban.tasks.chain")

    def test_cycles_are_found(self) -> None:
        assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]

    @pytest.mark.parametrize("module", modules())
    def test_dynamic_imports_do_not_get_round_the_table(self, module: str) -> None:
        """Only the catalogues and the front door import by name across rooms; others import by name in their own."""
        wrong = [
            ast.unparse(node)
            for node in ast.walk(tree(modules()[module]))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
            if not re.match(rf"f?['\"](luban\.{room(module)}\.|(?!luban)\w)", ast.unparse(node.args[0]))
        ]
        assert not wrong or room(module) in ("plugins", "luban")
