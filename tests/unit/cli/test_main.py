"""The command `luban` itself: help, version, laziness, and errors as a process shows them."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import luban.cli
from luban.cli.main import COMMANDS, group, main

FOLDER = Path(luban.cli.__file__).parent


def luban_process(*arguments: str, cwd: Path, **given: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "luban.cli.main", *arguments],
        cwd=cwd,
        text=True,
        encoding="utf-8",
        capture_output=True,
        timeout=60,
        check=False,
        **given,
    )  # type: ignore[call-overload]


def test_every_command_has_a_file_and_every_file_a_command() -> None:
    stems = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "main", "options"}
    assert stems == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_documents_itself_and_its_options(name: str) -> None:
    command = importlib.import_module(f"luban.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)
    assert {"--json", "--quiet"} <= {option for parameter in options for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_thin(name: str) -> None:
    """A command's file imports click, the command line's own rooms and, inside the function, stages and load."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))
    at_top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert at_top <= {"__future__", "pathlib", "luban.cli", "luban.cli.show", "luban.errors"}


def test_help_lists_the_commands_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line[:2] == "  " != line[1:3]]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


def test_help_shows_the_first_commands_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    told = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "luban init reviews.csv --label sentiment" in told
    assert "luban predict new.jsonl -o answers.jsonl" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: luban {name}" in capsys.readouterr().out


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "luban init reviews.csv" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"luban {luban.__version__}\n"


def test_a_typo_offers_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chek"]) == 2
    assert "did you mean 'check'?" in capsys.readouterr().err


def test_a_missing_project_file_is_told_as_a_problem(tmp_path: Path) -> None:
    done = luban_process("check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "luban.yaml" in done.stderr
    assert "luban init" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_problem_of_a_project_file_comes_as_one_json_line(tmp_path: Path) -> None:
    (tmp_path / "luban.yaml").write_text("name: 'a b'\ntrain: {epochs: three}\n", "utf-8")
    done = luban_process("run", "--json", cwd=tmp_path)
    (said,) = map(json.loads, done.stdout.splitlines())
    assert done.returncode == said["exit"] == 2
    assert said["kind"] == "ProjectError"
    assert {"name", "train.epochs"} <= {problem["where"] for problem in said["problems"]}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom luban.cli.main import main\nmain(['--help'])\nmain(['predict', '--help'])\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'pyarrow', 'pydantic', 'numpy', 'rich.console', 'typer'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_a_reader_who_leaves_early_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "luban.cli.main", "--help"],
            cwd=tmp_path,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 1)


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    asks = {**os.environ, "_LUBAN_COMPLETE": "bash_complete", "COMP_WORDS": "luban ex", "COMP_CWORD": "1"}
    done = luban_process(cwd=tmp_path, env=asks)
    assert "plain,export" in done.stdout


def test_the_group_never_imports_more_than_it_is_asked_for() -> None:
    context = click.Context(group)
    assert group.get_command(context, "no-such") is None
    assert group.list_commands(context) == list(COMMANDS)
