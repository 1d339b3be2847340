"""`luban explain`: what a person and what a program sees."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from unit.bundle.made import Made, made

from luban.bundle.engine import Engine
from luban.cli.main import main
from luban.cli.show import explained
from luban.records import Explanation, Part, Reason, Span

TEXT = "where is my new card"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "classify", "onnx")


def drawn(found: Explanation, *, color: bool = False) -> str:
    console = Console(width=100, color_system="standard" if color else None, force_terminal=color)
    with console.capture() as captured:
        console.print(explained.draw(found))
    return captured.get()


def explanation(*weights: float, span: Span | None = None) -> Explanation:
    parts = tuple(Part(2 * n, 2 * n + 1, "abcdefghijklmnop"[n], weight) for n, weight in enumerate(weights))
    text = " ".join(part.text for part in parts)
    reason = Reason("card", 0.913, 2.35, None if span else 2.35 - sum(weights), parts, span)
    return Explanation(text, "left-out" if span else "shapley", 30, (reason,))


def test_what_moved_it_most_stands_first_with_its_sign() -> None:
    lines = drawn(explanation(0.2, -3.0, 0.0, 1.5)).splitlines()
    assert lines[:2] == ["card 0.91", "a b c d"]
    assert [line.split()[0] for line in lines[2:5]] == ["-3.00", "+1.50", "+0.20"]
    assert [line.split()[-1] for line in lines[2:5]] == ["b", "d", "a"]
    assert lines[2].count("█") == 2 * lines[3].count("█") and lines[5].strip() == "and 1 more"


def test_a_terminal_shows_what_speaks_for_and_against_in_colours() -> None:
    line = drawn(explanation(3.0, -3.0, 0.1), color=True).splitlines()[1]
    assert "\x1b[1;32ma\x1b[0m" in line and "\x1b[1;31mb\x1b[0m" in line and line.endswith("c")


def test_an_entity_is_named_and_one_without_is_said() -> None:
    found = drawn(explanation(1.0, span=Span(4, 9, "card", "Visa\x1b[2J", 0.9)))
    assert "card 0.91  Visa\\x1b[2J" in found
    assert drawn(Explanation("a b", "left-out", 1, ())).strip() == "a b  no entities"


def test_weights_of_nothing_are_drawn_too() -> None:
    assert drawn(explanation(0.0, 0.0)).splitlines() == ["card 0.91", "a b", "  and 2 more"]


def test_the_command_gives_what_the_engine_gives(bundle: Made, capsys: pytest.CaptureFixture[str]) -> None:
    label = bundle.task.labels[1]
    assert (
        main(["explain", str(bundle.folder), TEXT, "--label", label, "--rows", "40", "--threads", "1", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told.pop("event") == "explain"
    assert told == explained.facts(Engine.open(bundle.folder, threads=1).explain(TEXT, label, rows=40))


def test_without_a_bundle_it_is_the_newest(
    bundle: Made,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(folder)
    assert main(["explain", TEXT]) == 7
    (folder / "runs" / "bank").mkdir(parents=True)
    (folder / "runs" / "bank" / "bundle").symlink_to(bundle.folder)
    assert main(["explain", TEXT]) == 0
    assert TEXT in capsys.readouterr().out


def test_a_label_that_is_not_there_is_refused(bundle: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(bundle.folder), TEXT, "--label", "nonsense"]) == 8
    assert "nonsense" in capsys.readouterr().err
