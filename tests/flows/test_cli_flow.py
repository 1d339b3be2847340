"""The command line from a labelled file to answers, in English and in Chinese: real processes, files and models."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import random
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from luban.errors import Conflict, DataError, NotFound, codes
from luban.models import tiny

LUBAN = [sys.executable, "-m", "luban.cli.main"]
QUICK = ["train.epochs=2", "evaluate.baselines=[majority]"]

ENGLISH = {
    "praise": ("I love my {}", "the {} is great", "what a wonderful {}", "very happy with the {}"),
    "complaint": ("I hate my {}", "the {} is broken", "what a terrible {}", "very angry about the {}"),
    "question": ("where is my {}", "when does the {} arrive", "how do I get a {}", "who can help with the {}"),
}
ENGLISH_THINGS = ("card", "order", "parcel", "refund", "account", "phone", "bill", "ticket")
ENGLISH_ENDS = (" today", " again", " this week", " as always", " after all", " at work")
CHINESE = {
    "表扬": ("我很喜欢这个{}", "{}非常好用", "对{}十分满意", "{}的质量真不错"),
    "投诉": ("{}一收到就坏了", "对{}非常失望", "这个{}太差劲了", "{}根本没法用"),
    "咨询": ("请问{}什么时候能到", "怎么申请{}的退款", "哪里可以查到{}", "{}可以开发票吗"),
}
CHINESE_THINGS = ("银行卡", "手机", "包裹", "鞋子", "门票", "账单", "书包", "耳机")
CHINESE_ENDS = ("，谢谢", "，今天刚看到", "。已经第二次了", "，麻烦看一下", "！", "，在线等")


@dataclass(frozen=True)
class Shop:
    """A folder with a project that has been run."""

    folder: Path
    data: Path
    text: str
    label: str
    init: subprocess.CompletedProcess[str]
    ran: subprocess.CompletedProcess[str]

    @property
    def bundle(self) -> Path:
        return self.folder / "runs" / "shop" / "bundle"


def luban(folder: Path, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*LUBAN, *arguments], cwd=folder, input=stdin, capture_output=True, timeout=300, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    out, err = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert "Traceback" not in out + err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(kinds: dict[str, tuple[str, ...]], things: tuple[str, ...], ends: tuple[str, ...]) -> list[tuple[str, str]]:
    made = [
        (form.format(thing) + end, label)
        for label, forms in kinds.items() for form in forms for thing in things for end in ends
    ]  # fmt: skip
    random.Random(5).shuffle(made)
    return made[:300]


def shop(
    folder: Path, name: str, header: tuple[str, str], made: list[tuple[str, str]], encoding: str, *more: str
) -> Shop:
    with (folder / name).open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *made])
    tiny.make(folder / "base", [text for text, _ in made])
    init = luban(folder, "init", name, "--label", header[1], "--base", "./base", "--name", "shop", *more)
    assert init.returncode == 0, init.stderr
    ran = luban(folder, "run", *QUICK)
    assert ran.returncode == 0, ran.stderr
    return Shop(folder, folder / name, *header, init, ran)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = rows(ENGLISH, ENGLISH_THINGS, ENGLISH_ENDS)
    return shop(tmp_path_factory.mktemp("english"), "reviews.csv", ("review", "sentiment"), made, "utf-8")


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = rows(CHINESE, CHINESE_THINGS, CHINESE_ENDS)
    return shop(tmp_path_factory.mktemp("chinese"), "评论.csv", ("内容", "类别"), made, "gb18030", "--no-probe")


@pytest.fixture(params=["english", "chinese"])
def either(request: pytest.FixtureRequest) -> Shop:
    made: Shop = request.getfixturevalue(request.param)
    return made


def test_init_shows_each_value_with_its_reason_and_the_next_command(either: Shop) -> None:
    lines = either.init.stdout.splitlines()
    assert lines[0] == "wrote luban.yaml, every value with its reason:"
    assert any(line.startswith("data.text ") and either.text in line for line in lines)
    assert lines[-1] == "next: luban check"
    assert f"text: {either.text}" in (either.folder / "luban.yaml").read_text("utf-8")


def test_init_does_not_replace_a_project(english: Shop) -> None:
    before = (english.folder / "luban.yaml").read_bytes()
    done = luban(english.folder, "init", "reviews.csv", "--no-probe")
    assert done.returncode == codes(Conflict).exit
    assert "--force" in done.stderr
    assert (english.folder / "luban.yaml").read_bytes() == before


def test_init_of_a_file_that_is_not_there_says_so_before_anything_of_the_project(english: Shop) -> None:
    done = luban(english.folder, "init", "revews.csv", "--no-probe")
    assert done.returncode == codes(DataError).exit
    assert "no file of this name" in done.stderr and "luban.yaml" not in done.stderr


def test_check_lists_findings_and_says_what_is_next(chinese: Shop) -> None:
    done = luban(chinese.folder, "check", "--quick", "name=quick", "data.languages=[zh, en]")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^✓ PASS  schema", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "next: luban run name=quick 'data.languages=[zh, en]'"


def test_check_tells_of_bad_rows_with_their_place(tmp_path: Path, english: Shop) -> None:
    lines = english.data.read_text("utf-8").splitlines()
    lines[7] = 'a text that has no label,""'
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "luban.yaml").write_bytes((english.folder / "luban.yaml").read_bytes())
    done = luban(tmp_path, "check", "--quick", "base=minilm-l6")
    assert done.returncode == codes(DataError).exit
    assert "8" in done.stderr + done.stdout
    assert "label" in done.stderr + done.stdout


def test_run_shows_stages_scores_report_and_bundle(either: Shop) -> None:
    out = either.ran.stdout
    for stage in ("prepare", "probe", "check", "train", "export", "evaluate"):
        assert re.search(rf"^{stage} +done", out, re.MULTILINE)
    assert re.search(r"^accuracy +[01]\.\d{4} +0\.\d{4} to [01]\.\d{4} +0\.\d{4}$", out, re.MULTILINE)
    assert "report  runs/shop/report.html" in out
    assert out.splitlines()[-1] == "next: luban predict FILE -o answers.jsonl"
    assert (either.folder / "runs" / "shop" / "report.html").is_file()
    assert "train: 1/" in either.ran.stderr
    assert "best so far" in either.ran.stderr or "better than the start" in either.ran.stderr


def test_a_second_run_skips_everything_and_ends_in_the_same_bundle(english: Shop) -> None:
    before = json.loads((english.bundle / "manifest.json").read_text("utf-8"))["digest"]
    told = events(luban(english.folder, "run", "--json", *QUICK))
    assert {line["event"] for line in told} == {"progress", "run"}
    ran = told[-1]
    assert [stage["state"] for stage in ran["stages"]] == ["skipped"] * 6
    assert ran["bundle"]["digest"] == before
    assert ran["report"]["scores"]["accuracy"]["n"] == 60


def test_a_file_is_answered_row_by_row_and_a_text_alike(either: Shop, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    done = luban(either.folder, "predict", str(either.data), "-o", str(output), "--scores")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("300 rows answered in ")
    answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    encoding = "utf-8" if either.text == "review" else "gb18030"
    with either.data.open(encoding=encoding, newline="") as file:
        assert [answer[either.text] for answer in answers] == [row[either.text] for row in csv.DictReader(file)]
    right = sum(answer["label"] == answer[either.label] for answer in answers)
    assert right > 150, "the model has learned nothing that the command line shows"

    alone = luban(either.folder, "predict", "--scores", *(f"--text={answer[either.text]}" for answer in answers[:3]))
    for one, answer in zip(map(json.loads, alone.stdout.splitlines()), answers, strict=False):
        assert list(one) == ["text", "label", "score", "scores"]
        assert one["text"] == answer[either.text]
        assert one["label"] == answer["label"]
        assert one["scores"] == pytest.approx(answer["scores"], abs=1e-4)


def test_lines_of_stdin_are_answered_one_by_one(either: Shop) -> None:
    done = luban(either.folder, "predict", stdin="my card is great\r\n我的卡还没到\n\n".encode())
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["my card is great", "我的卡还没到", ""]
    assert done.stderr == "warning: 1 blank text answered like any other; the answer says nothing\n"
    assert luban(either.folder, "predict", stdin=b"my card is great\n").stderr == ""


def test_a_slow_writer_gets_each_answer_at_once(english: Shop) -> None:
    with subprocess.Popen(
        [*LUBAN, "predict"], cwd=english.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as going:
        assert going.stdin
        assert going.stdout
        for text in ("my card is great", "我的卡还没到"):
            going.stdin.write(f"{text}\n".encode())
            going.stdin.flush()
            assert json.loads(going.stdout.readline())["text"] == text
        going.stdin.close()
        assert going.wait(timeout=60) == 0


def test_a_line_that_is_not_utf8_is_named(english: Shop) -> None:
    done = luban(english.folder, "predict", stdin=b"first\n" + "第二".encode("gb18030") + b"\n")
    assert done.returncode == codes(DataError).exit
    assert "line 2" in done.stderr
    assert "iconv" in done.stderr


def test_without_an_output_the_answers_of_a_file_are_json_lines_alone(english: Shop) -> None:
    done = luban(english.folder, "predict", "reviews.csv", "--json")
    assert len(events(done)) == 300
    assert {tuple(row) for row in events(done)} == {("review", "sentiment", "label", "score")}


def test_a_reader_who_has_had_enough_ends_the_command_quietly(english: Shop, tmp_path: Path) -> None:
    many = english.data.read_text("utf-8").splitlines()
    (tmp_path / "many.csv").write_text("\n".join([many[0], *many[1:] * 30]) + "\n", "utf-8")
    with subprocess.Popen([*LUBAN, "predict", str(tmp_path / "many.csv"), "--quiet"], cwd=english.folder,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as going:  # fmt: skip
        assert going.stdout
        assert going.stderr
        assert json.loads(going.stdout.readline())["review"]
        going.stdout.close()
        told = going.stderr.read()
        assert going.wait(timeout=60) == 0
    assert told == b""


def test_a_closed_pipe_fails_no_script_that_looks_at_every_exit_code(english: Shop, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("my card is great\n" * 20_000, "utf-8")
    python = f"{shlex.quote(sys.executable)} -m luban.cli.main predict"
    many = shlex.quote(str(tmp_path / "many.txt"))
    for line in (f"{python} {many} --quiet | head -1", f"cat {many} | {python} | head -1 >&2"):
        told = subprocess.run(["bash", "-c", f"set -o pipefail; {line}; echo ${{PIPESTATUS[@]}}"], cwd=english.folder,
                              capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
        assert "luban" not in told.stderr and "Error" not in told.stderr
        # `cat` itself dies of the closed pipe.
        assert told.stdout.splitlines()[-1].split()[-2:] == ["0", "0"], told


def test_work_that_a_closed_pipe_cut_short_is_not_said_to_be_done(english: Shop, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("my card is great\n" * 20_000, "utf-8")
    command = [*LUBAN, "predict", str(tmp_path / "many.txt"), "-o", str(tmp_path / "answers.jsonl"), "--json"]
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as closed:
        done = subprocess.run(command, cwd=english.folder, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and done.stderr == b""
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_stranger_s_options_are_refused_with_a_reason(english: Shop) -> None:
    for arguments in (["predict", "reviews.csv", "--text", "x"], ["predict", "--text", "x", "-o", "y.jsonl"],
                      ["evaluate", "--data", "reviews.csv", "train.epochs=3"], ["evaluate", "-o", "x"]):  # fmt: skip
        done = luban(english.folder, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "--help" in done.stderr


def test_a_bundle_is_judged_on_other_rows(english: Shop, tmp_path: Path) -> None:
    done = luban(english.folder, "evaluate", "--data", "reviews.csv", "-o", str(tmp_path / "judged"), "--json")
    assert done.returncode == 0, done.stderr
    found = events(done)[-1]
    assert found["scores"]["accuracy"]["n"] == 300
    report = json.loads((tmp_path / "judged" / "report.json").read_text("utf-8"))
    assert report["scores"]["accuracy"] == found["scores"]["accuracy"]
    assert (tmp_path / "judged" / "report.html").is_file()


def test_a_report_is_not_begun_where_a_file_stands(english: Shop, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        done = luban(english.folder, "evaluate", "--data", "reviews.csv", "-o", str(out))
        assert done.returncode == codes(Conflict).exit
        assert "taken is a file, not a folder" in done.stderr and "fix: " in done.stderr
        assert "answering" not in done.stderr


def test_a_finished_bundle_is_packaged_for_others(either: Shop, tmp_path: Path) -> None:
    done = luban(either.folder, "export", "--for", "onnx", "-o", str(tmp_path / "it"))
    assert done.returncode == 0, done.stderr
    assert "packaged for onnx" in done.stdout
    assert "of the run's validation rows" in done.stdout
    assert {"README.md", "answer.py", "model.onnx", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "it").iterdir()
    }
    again = luban(either.folder, "export", "--for", "onnx", "-o", str(tmp_path / "it"))
    assert again.returncode == codes(Conflict).exit
    assert "is there already" in again.stderr


def test_options_of_packages_go_with_for(english: Shop) -> None:
    for arguments, why in (
        (("-o", "it"), "go with --for"), (("--for", "onnx"), "wants -o"),
        (("--for", "onnx", "-o", "it", "train.epochs=3"), "go with a project"),
        (("--for", "onnx", "-o", "it", "--column", "text"), "goes with --rows"),
    ):  # fmt: skip
        done = luban(english.folder, "export", *arguments)
        assert done.returncode != 0 and why in done.stderr
    done = luban(english.folder, "export", "--for", "onx", "-o", "it")
    assert "did you mean 'onnx'" in done.stderr


def test_labels_that_a_bundle_does_not_know_are_all_named(english: Shop, tmp_path: Path) -> None:
    text = english.data.read_text("utf-8").replace(",praise", ",prase").replace(",question", ",ask")
    (tmp_path / "other.csv").write_text(text, "utf-8")
    done = luban(english.folder, "evaluate", "--data", str(tmp_path / "other.csv"))
    assert done.returncode == codes(DataError).exit
    assert "did you mean 'praise'?" in done.stderr
    assert "'ask'" in done.stderr


def test_without_a_run_predict_says_how_to_get_a_bundle(tmp_path: Path) -> None:
    done = luban(tmp_path, "predict", "--text", "x")
    assert done.returncode == codes(NotFound).exit
    assert "luban run" in done.stderr


def test_an_interrupted_run_says_that_it_goes_on_and_does(english: Shop) -> None:
    longer = ["run", "--json", "name=longer", "train.epochs=30", "train.patience=0", "evaluate.baselines=[majority]"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Where a shell began the tests in the background, interrupts are ignored, and the run would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*LUBAN, *longer], cwd=english.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, encoding="utf-8", env=one_thread) as going:  # fmt: skip
        signal.signal(signal.SIGINT, before)
        assert going.stdout
        for line in going.stdout:
            if json.loads(line).get("step"):
                going.send_signal(signal.SIGINT)
                break
        *_, last = going.stdout
        assert going.wait(timeout=120) == 130
    assert json.loads(last)["kind"] == "Interrupted"
    assert "goes on from here" in json.loads(last)["message"]
    done = luban(english.folder, *longer)
    assert done.returncode == 0, done.stderr
    states = {stage["name"]: stage["state"] for stage in events(done)[-1]["stages"]}
    assert states["prepare"] == states["probe"] == "skipped"
    assert states["train"] == "done"


def test_a_missed_gate_is_an_error_with_figures(english: Shop) -> None:
    done = luban(english.folder, "run", "--json", *QUICK, "gates={accuracy: 1.0}")
    assert done.returncode == 6
    last = events(done)[-1]
    assert last["kind"] == "BelowGate"
    assert last["measured"] < last["allowed"] == 1.0


def in_terminal(folder: Path, width: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command in a terminal of its own, and return its exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen([*LUBAN, *arguments], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
                          env={**inherited, "TERM": "xterm-256color", **environment}) as going:  # fmt: skip
        os.close(theirs)
        got = b"".join(_until_closed(ours))
        os.close(ours)
    return going.returncode, got.decode("utf-8").replace("\r\n", "\n")


def _until_closed(handle: int) -> Iterator[bytes]:
    while True:
        try:
            block = os.read(handle, 65536)
        except OSError:  # Linux's way to say that the other side has been closed
            return
        if not block:
            return
        yield block


def test_a_person_reads_answers_as_lines(either: Shop) -> None:
    text = "my card is great, 我的银行卡还没到"
    exit_code, seen = in_terminal(either.folder, 80, "predict", "--text", text)
    assert exit_code == 0
    assert "{" not in seen
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert re.fullmatch(rf"\w+ [01]\.\d\d  {text}\n", plain)
    assert "\x1b[1;32m" in seen


def test_no_color_is_honoured(english: Shop) -> None:
    _, seen = in_terminal(english.folder, 80, "predict", "--text", "my card is great", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", seen)
    assert "my card is great" in seen


def test_findings_fit_the_terminal(chinese: Shop) -> None:
    width = 60
    exit_code, seen = in_terminal(chinese.folder, width, "check", *QUICK)
    assert exit_code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    findings, _, following = plain[plain.index("✓ PASS  schema") :].partition("next: ")
    assert following.startswith("luban run "), "a command stays on one line, to be copied"
    assert all(cell_len(line) <= width for line in findings.splitlines())
    assert "PASS" in findings


def test_bases_and_doctor_answer_programs_and_people(tmp_path: Path) -> None:
    (listed,) = events(luban(tmp_path, "bases", "--json"))
    assert {"minilm-l6", "e5-small-multilingual"} <= {base["name"] for base in listed["bases"]}
    one = luban(tmp_path, "bases", "minilm-l6")
    assert "good for" in one.stdout
    assert luban(tmp_path, "bases", "minilm-l7").returncode == codes(NotFound).exit
    doctor = events(luban(tmp_path, "doctor", "--json"))[-1]
    assert {finding["verdict"] for finding in doctor["findings"]} <= {"PASS", "WARN", "FAIL"}
    assert {"python", "memory", "cores"} <= {finding["what"] for finding in doctor["findings"]}
