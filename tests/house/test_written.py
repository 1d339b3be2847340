"""What is written down: docstrings, options, sizes, names, and what may not stand in the source at all."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from house.source import ROOT, SOURCE, imports, modules, tree

from luban import plugins
from luban.project import schema
from luban.project.plugged import rooms

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "shared"}
BANNED_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "tarfile", "imp"}
BANNED_CALLS = {"eval", "exec", "__import__", "compile"}
BANNED_ATTRIBUTES = {"torch.load", "torch.save", "os.system", "yaml.full_load", "yaml.unsafe_load"}
BANNED_METHODS = {"extractall", "unpack_archive", "read_pickle", "to_pickle"}
BANNED_ARGUMENTS = {"trust_remote_code", "shell", "allow_pickle"}

ALLOWED = {("sagemaker.py", "tarfile")}
"""An archive is written for others there; to unpack one stays forbidden, there too."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = [pytest.param(path, id=named(path)) for path in modules().values()]


@pytest.mark.parametrize("path", FILES)
def test_no_file_is_too_long(path: Path) -> None:
    n_lines = len(path.read_text("utf-8").splitlines())
    assert n_lines <= 700, f"{named(path)} has {n_lines} lines: it holds more than one thing"


@pytest.mark.parametrize("path", FILES)
def test_names_say_what_is_held(path: Path) -> None:
    parts = {part.lower() for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert not parts & BANNED_NAMES
    classes = [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if name.endswith(("Manager", "Helper", "Utils", "Mixin"))]


@pytest.mark.parametrize("path", FILES)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{named(path)} does not say what it holds"
    missing = [f"{name}, line {node.lineno}" for name, node in public(tree(path)) if not ast.get_docstring(node)]
    assert not missing


def public(
    node: ast.Module | ast.ClassDef, above: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            decorators = [ast.unparse(decorator) for decorator in child.decorator_list]
            if not any(decorator.endswith((".setter", "overload")) for decorator in decorators):
                yield above + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{above}{child.name}.")


@pytest.mark.parametrize("path", FILES)
def test_nothing_dangerous_is_used(path: Path) -> None:
    assert [one for one in dangers(tree(path)) if (path.name, one) not in ALLOWED] == []


def dangers(module: ast.Module) -> list[str]:
    """Return what could run a stranger's code, or unpack a stranger's archive."""
    found = []
    constants = {
        ast.unparse(target): ast.unparse(node.value)
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in BANNED_IMPORTS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in BANNED_CALLS | BANNED_ATTRIBUTES or called.rpartition(".")[2] in BANNED_METHODS:
                found.append(called)
            given = {str(keyword.arg): ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "yaml.load" and given.get("Loader") not in ("yaml.SafeLoader", "yaml.BaseLoader"):
                found.append(called)
            for name in BANNED_ARGUMENTS & set(given):
                if constants.get(given[name], given[name]) != "False":
                    found.append(f"{name}={given[name]}")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import cloudpickle.x",
        "eval('1')",
        "torch.load(path)",
        "archive.extractall(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "TRUST = True\nAutoModel.from_pretrained(name, trust_remote_code=TRUST)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.load(text)",
    ],
)
def test_dangers_are_found(text: str) -> None:
    assert dangers(ast.parse(text))


def test_safe_code_is_not_blamed() -> None:
    safe = """
TRUST = False
model.eval()
re.compile("a")
f(trust_remote_code=False)
f(trust_remote_code=TRUST)
yaml.load(text, Loader=yaml.BaseLoader)
"""
    assert not dangers(ast.parse(safe))


@pytest.mark.parametrize("path", FILES)
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]
    assert not calls or "cli" in path.parts


SECTIONS = [
    value
    for value in vars(schema).values()
    if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == schema.__name__
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_says_what_it_means(section: type) -> None:
    undocumented = {field.name for field in dataclasses.fields(section)} - set(plugins.field_docs(section))
    assert section is schema.Room or not undocumented


def plugin_rooms() -> list[str]:
    return sorted({where.package for where, _ in rooms().values()})


@pytest.mark.parametrize("package", plugin_rooms())
def test_every_option_of_every_plugin_says_what_it_means(package: str) -> None:
    catalogue = plugins.room(package)
    assert len(catalogue.names()) > 0
    for name in catalogue:
        assert catalogue.about(name), f"{package}: {name} has no docstring"
        section = getattr(catalogue.load(name), "Options", None)
        if section is not None:
            assert section.__dataclass_params__.frozen, f"{package}: the options of {name} can be changed"
            assert {field.name for field in dataclasses.fields(section)} <= set(plugins.field_docs(section)), name


def test_data_files_are_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = [pattern for kinds in project["tool"]["setuptools"]["package-data"].values() for pattern in kinds]
    files = [path for path in (SOURCE / "luban").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    left_out = [path for path in files if path.suffix != ".py" and not any(fnmatch(path.name, one) for one in patterns)]
    assert not left_out


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [packages for name, packages in project["optional-dependencies"].items() if name != "dev"]
    wanted = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    declared = {re.split(r"[\[>=]", requirement)[0].strip().lower() for requirement in wanted}
    homes = metadata.packages_distributions()
    undeclared = {
        f"{module} imports {name}"
        for module in modules()
        for name in {found.name.split(".")[0] for found in imports(module)}
        if name in homes and name != "luban" and not {home.lower().replace("_", "-") for home in homes[name]} & declared
    }
    assert not undeclared


def test_every_package_that_the_tests_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {re.split(r"[\[>=]", requirement)[0] for requirement in wanted}
    homes = metadata.packages_distributions()
    undeclared = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} & set(homes) - {"luban"}:
                if not {home.lower().replace("_", "-") for home in homes[name]} & declared:
                    undeclared.add(f"{named(path)} imports {name}")
    assert not undeclared


def test_every_package_that_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    homes = metadata.packages_distributions()
    used = {
        home.lower().replace("_", "-")
        for module in modules()
        for found in imports(module)
        for home in homes.get(found.name.split(".")[0], ())
    }
    unused = {re.split(r"[\[>=]", requirement)[0] for requirement in wanted} - used - NEEDED_BY_OTHERS
    assert not unused


NEEDED_BY_OTHERS = {
    "httptools",  # by uvicorn's protocol
    "opencc-python-reimplemented",  # its dictionaries, which `data.clean` reads
    "onnxscript",  # by torch's exporter
    "tensorboard",  # by torch.utils.tensorboard
}


def test_every_pin_that_is_needed_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals and version and "+" not in version and "@" not in line, line
            pinned[name.lower().replace("_", "-")] = version
    missing = {re.split(r"[\[>=]", requirement)[0] for requirement in wanted} - set(pinned)
    assert not missing
