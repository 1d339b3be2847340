"""Errors as they are told: the message, the place, the mend and the exit code."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import click
import pytest

from luban.cli.show import Show, errors
from luban.errors import (
    BelowGate,
    CorruptBundle,
    DataError,
    LubanError,
    MissingExtra,
    Problem,
    ProjectError,
    codes,
    install,
)

PROBLEMS = [
    Problem("train.epochs", "'three'", "a number above 0", line=7, hint="did you mean 3?"),
    Problem("data.train", "'评论.csv'", "a file or folder that is there", means="Rows to learn from"),
]


def test_every_problem_is_told_with_place_line_and_mend(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = errors.tell(Show(), ProjectError(PROBLEMS, source="luban.yaml", hint="see the reference"))
    out, err = capsys.readouterr()
    assert exit_code == codes(ProjectError).exit
    assert out == ""
    assert err.splitlines() == [
        "error: 2 problems in luban.yaml",
        "  train.epochs  line 7",
        "    got 'three', wanted a number above 0",
        "    fix: did you mean 3?",
        "  data.train",
        "    got '评论.csv', wanted a file or folder that is there",
        "    means: Rows to learn from",
        "  fix: see the reference",
    ]


def test_problems_beyond_those_shown_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    errors.tell(Show(), DataError(PROBLEMS, source="a.csv", total=30))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: 30 problems in a.csv" and lines[-1] == "  ... and 28 more"
    errors.tell(Show(json=True), DataError(PROBLEMS, total=30))
    assert json.loads(capsys.readouterr().out)["total"] == 30


@pytest.mark.parametrize(
    "error",
    [
        LubanError("a"),
        DataError(PROBLEMS),
        MissingExtra("a"),
        CorruptBundle("a"),
        BelowGate("a", measured=0.8, allowed=0.9),
    ],
)
def test_exit_codes_are_those_of_the_table(error: LubanError, capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.tell(Show(), error) == codes(error).exit
    assert errors.tell(Show(json=True), error) == codes(error).exit
    said = json.loads(capsys.readouterr().out)
    assert said["event"] == "error"
    assert said["exit"] == codes(error).exit
    assert said["kind"] == type(error).__name__


def test_a_program_gets_problems_and_figures_apart(capsys: pytest.CaptureFixture[str]) -> None:
    errors.tell(Show(json=True), ProjectError(PROBLEMS))
    errors.tell(Show(json=True), BelowGate("too low", measured=0.8, allowed=0.9))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["problems"][0]["where"] == "train.epochs"
    assert first["problems"][1]["line"] is None
    assert (second["measured"], second["allowed"]) == (0.8, 0.9)


def test_data_in_an_error_can_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    errors.tell(Show(), DataError([Problem("row 1", "'\x1b]0;title\x07'", "a label")]))
    assert "\x1b" not in capsys.readouterr().err


def test_a_full_disk_is_told_with_the_mend(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/评论/model.onnx")
    assert errors.tell_system(Show(), full) == codes(LubanError).exit
    err = capsys.readouterr().err
    assert "runs/评论/model.onnx: No space left on device" in err
    assert "free some space" in err


def test_a_missing_package_names_the_pip_command(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert errors.tell_missing(Show(), missing, ()) == codes(MissingExtra).exit
    err = capsys.readouterr().err
    assert "'torch'" in err
    assert install("train") in err


def test_what_nobody_foresaw_is_written_down_for_its_user_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        raise RuntimeError("a tensor is\nnot where it was")
    except RuntimeError as error:
        assert errors.tell_unexpected(Show(), error, ["predict", "--text", "我的卡\ud83d"]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: a tensor is" in err
    assert "Traceback" not in err
    (written,) = tmp_path.glob("luban-error-*.txt")
    assert str(written) in err
    assert written.stat().st_mode & 0o077 == 0
    text = written.read_text("utf-8")
    assert "Traceback" in text
    assert "我的卡" in text


def test_no_place_to_write_to_hides_no_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert errors.tell_unexpected(Show(), RuntimeError("a tensor is lost"), []) == 1
    assert "a tensor is lost" in capsys.readouterr().err


@pytest.mark.parametrize(("goes_on", "said"), [(True, "goes on from here"), (False, "stopped")])
def test_interruption(goes_on: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.tell_interrupted(Show(), goes_on) == 130
    assert said in capsys.readouterr().err


def test_a_wrong_option_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(click.Command("check"), info_name="luban check")
    assert errors.tell_usage(Show(), click.UsageError("no such option: --quik", context)) == 2
    assert capsys.readouterr().err == "error: no such option: --quik\n  see: luban check --help\n"
