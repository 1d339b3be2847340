"""Results as a person reads them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from luban.cli.show import results
from luban.models.facts import BaseListing
from luban.records import Bundle, Report, Score
from luban.stages.record import RunResult, StageResult

SCORES = {name: Score(0.9412, 0.933, 0.949, 3080) for name in ("accuracy", "macro_f1", "a", "b", "c", "d", "ece")}
BASELINES = {
    "majority": {"accuracy": Score(0.013, 0.01, 0.02, 3080)},
    "tfidf": {"accuracy": Score(0.86, 0.8, 0.9, 3080)},
}
STAGES = [
    StageResult("check", "skipped", "done already, nothing changed"),
    StageResult("train", "done", "changed: settings.train.epochs: 3.0 -> 10.0", 102.4, 812.0),
]
BASES = [
    BaseListing("minilm-l6", "MiniLM", ("en",), 22_565_376, 92, "Apache-2.0", "English on a CPU", "Chinese", True),
    BaseListing("e5", "E5", ("zh", "en", "de", "fr"), 117_000_000, 1488, "MIT", "mixed text", "", False, ("onnx",)),
]


def drawn(drawing: RenderableType, width: int = 400) -> list[str]:
    stream = io.StringIO()
    console(width, stream).print(drawing)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def console(width: int, stream: io.StringIO | None = None) -> Console:
    return Console(file=stream or io.StringIO(), width=width, color_system=None, _environ={})


def report(task: str = "classify") -> Report:
    return Report("shop", task, SCORES, BASELINES, {}, {}, {"n_rows": 3080})


def test_scores_stand_beside_their_intervals_and_baselines() -> None:
    lines = drawn(results.report(report(), console(400)))
    assert lines[0].split() == ["score", "value", "95%", "interval", "majority", "tfidf"]
    assert lines[1].split() == ["accuracy", "0.9412", "0.9330", "to", "0.9490", "0.0130", "0.8600"]
    assert lines[-1] == "measured on 3,080 rows; the report has 1 more"


def test_without_a_report_it_is_said_how_to_get_one(tmp_path: Path) -> None:
    lines = drawn(results.judged(report(), tmp_path, None, console(400)))
    assert "measured on 3,080 rows; `-o DIR` writes a report with 1 more" in lines
    lines = drawn(results.judged(report(), tmp_path, tmp_path / "judged", console(400)))
    assert "measured on 3,080 rows; the report has 1 more" in lines


def test_entities_are_not_called_rows() -> None:
    lines = drawn(
        results.report(Report("shop", "tag", {"f1": Score(0.9, 0.8, 1, 120)}, {}, {}, {}, {"n_rows": 60}), console(400))
    )
    assert lines[-1] == "measured on 60 rows with 120 entities"


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_baselines_give_way_before_scores_are_cut(width: int) -> None:
    lines = drawn(results.report(report(), console(width)), width)
    assert all(cell_len(line) <= width for line in lines)
    assert lines[1].startswith("accuracy  0.9412  0.9330 to 0.9490")


def test_a_run_tells_what_was_done_why_and_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "runs" / "shop" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(b"0" * 2_500_000)
    sealed = Bundle(bundle, "ab" * 32, "shop", "classify", ("a", "b"))
    lines = drawn(results.run(RunResult(bundle.parent, STAGES, report(), sealed), console(400)))
    assert lines[1].split(maxsplit=2) == ["check", "skipped", "done already, nothing changed"]
    assert lines[2].split(maxsplit=5)[:5] == ["train", "done", "1:42", "812", "MB"]
    assert "report  runs/shop/report.html" in lines
    assert "bundle  runs/shop/bundle  2.5 MB, abababababab" in lines


def test_a_run_that_ends_before_its_report_shows_none(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of an earlier run", "utf-8")
    assert not any("report" in line for line in drawn(results.run(RunResult(tmp_path, STAGES), console(400))))


def test_bases_as_a_table_and_one_as_a_whole() -> None:
    lines = drawn(results.bases(BASES, console(400), whole=False))
    assert lines[1].split() == [
        "minilm-l6",
        "92",
        "MB",
        "23",
        "M",
        "en",
        "yes",
        "English",
        "on",
        "a",
        "CPU",
        "Apache-2.0",
    ]
    assert "1.5 GB" in lines[2]
    assert "zh, en, de and 1 more" in lines[2]
    assert "needs onnx" in lines[2]
    whole = drawn(results.bases(BASES[:1], console(400), whole=True))
    assert "not for    Chinese" in whole


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_bases_fit_the_terminal(width: int) -> None:
    lines = drawn(results.bases(BASES, console(width), whole=False), width)
    assert all(cell_len(line) <= width for line in lines)
    assert any("minilm-l6" in line for line in lines)


def test_the_next_command_names_what_it_would_not_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a shop").mkdir()
    assert results.project_option(Path("luban.yaml")) == ""
    assert results.project_option(tmp_path) == ""
    assert results.project_option(Path("a shop")) == " -p 'a shop/luban.yaml'"
    assert results.project_option(Path("luban.yaml"), ["train.epochs=4", "name=a b"]) == " train.epochs=4 'name=a b'"
    assert results.bundle_option(Path("runs/shop/bundle")) == ""
    assert results.bundle_option(tmp_path / "a shop" / "runs" / "x" / "bundle") == " --bundle 'a shop/runs/x/bundle'"
