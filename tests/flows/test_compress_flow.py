"""`luban compress` from a finished run to a second, smaller bundle, and what happens where nothing keeps the budget."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flows import small

import luban
from luban.bundle.engine import Engine
from luban.cli.main import main
from luban.errors import BelowGate, ProjectError, codes
from luban.files import digest_json, read_json
from luban.project.load import load
from luban.stages import compress, newest_bundle, predict_file, run
from luban.stages.judge import judge

PROJECT = """\
name: small
task: {kind: classify}
base: base
max_length: 32
data: {train: rows.jsonl, split: {validation: 0.2, test: 0.3}}
train: {epochs: 6, learning_rate: 3.0e-3, batch_size: 16, threads: 1}  # quick
evaluate: {baselines: [majority]}
compress:
  minutes: 5  # enough
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project that was run."""
    folder = tmp_path_factory.mktemp("small")
    small.write(folder, PROJECT, n_rows=150, words=lambda _: 5)
    run(load(folder / "luban.yaml"))
    return folder


@pytest.fixture
def digest(finished: Path) -> Callable[[], str]:
    """Return what tells the uncompressed bundle's digest."""
    return lambda: str(read_json(finished / "runs/small/bundle/manifest.json")["digest"])


def test_a_budget_is_kept_and_the_plan_written_down(finished: Path, digest: Callable[[], str]) -> None:
    before = digest()
    whole = sum(file.stat().st_size for file in (finished / "runs/small/bundle").iterdir())
    made = compress(load(finished / "luban.yaml"), lose=0.05)
    assert made.chosen is not None
    assert made.bundle is not None
    assert made.chosen in made.best
    assert made.chosen.lost.value <= 0.05
    assert made.chosen.plan, "the uncompressed model is never the smallest"
    assert digest() == before
    assert sum(file.stat().st_size for file in made.bundle.folder.iterdir()) < whole
    assert newest_bundle(finished) == made.bundle.folder
    text = (finished / "luban.yaml").read_text("utf-8")
    assert "# quick" in text
    promised = read_json(made.bundle.folder / "project.json")["compress"]
    assert (promised["lose_at_most"], promised["at_most"]) == (0.05, {}), "what was given here, and not the file's"
    assert [step.kind for step in load(finished / "luban.yaml").project.compress.plan] == [
        step.kind for step in made.chosen.plan
    ]
    facts = read_json(made.folder / "compress.json")
    assert facts["chosen"]["plan"] == made.chosen.to_json()["plan"]
    assert len(facts["points"]) == len(made.points) > 3
    page = (made.folder / "compress.html").read_text("utf-8")
    assert "<script" not in page
    assert made.chosen.name in page


def test_the_smaller_bundle_answers_alike_everywhere(finished: Path) -> None:
    engine = Engine.open(finished / "runs/small/compressed")
    texts = ["lovely warm kind", "cold rude late", "难吃 讨厌", "喜欢", "something else", ""]
    answers = engine.predict(texts)
    assert [one.label for one in answers[:2]] == ["good", "bad"]
    alone = [engine.predict([text])[0] for text in texts]
    assert [one.label for one in alone] == [one.label for one in answers]
    report = read_json(finished / "runs/small/compressed/metrics.json")
    assert "uncompressed" in report["baselines"]


def test_five_thousand_rows_are_answered_alike_in_evaluation_in_a_file_and_from_python(
    finished: Path, tmp_path: Path
) -> None:
    bundle, rng = finished / "runs/small/compressed", random.Random(5)
    words = [word for words in small.WORDS.values() for word in words]
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 9))) + f" {number}" for number in range(5000)]
    model, answers = luban.load(bundle), []
    while len(answers) < len(texts):
        answers += model.predict(texts[len(answers) : len(answers) + rng.randint(1, 900)])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            f"{json.dumps({'text': text, 'label': answer.label})}\n"
            for text, answer in zip(texts, answers, strict=True)
        )
    )
    predict_file(bundle, rows, tmp_path / "answers.jsonl")
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert digest_json([one["label"] for one in written]) == digest_json([one.label for one in answers])
    apart = [abs(one["score"] - answer.score) for one, answer in zip(written, answers, strict=True)]
    assert max(apart) < 1e-5, "texts of other lengths beside one change its last bits alone"
    assert judge(bundle, rows).scores["accuracy"].value == 1.0, "every row's label is what Python was answered"
    assert len({answer.label for answer in answers}) == 2


def test_rows_without_labels_are_learnt_from_but_for_those_that_are_judged(finished: Path) -> None:
    """The layer that stays learns from them; what stands among the test rows does not come in by this door."""
    tested = [json.loads(line)["text"] for line in (finished / "rows.jsonl").read_text("utf-8").splitlines()]
    texts = [f"cold and kind {number}" for number in range(40)]
    (finished / "more.txt").write_text("\n".join([*texts, *tested]) + "\n", "utf-8")
    plan = "compress.plan=[{kind: layers, keep: 1, recover_epochs: 1}]"
    told: list[str] = []
    made = compress(
        load(finished / "luban.yaml", [plan, "compress.lose_at_most=0.9", "compress.unlabelled=more.txt"]),
        on_progress=lambda progress: told.append(progress.message),
    )
    assert made.chosen is not None
    n_tested = len(read_json(finished / "runs/small/bundle/answers.json")["gold"])
    learnt = made.chosen.facts["layers"]["recovery"]["unlabelled"]
    assert len(texts) < learnt < len(texts) + len(tested) - n_tested
    assert any(f"{learnt} rows without labels" in message and "left out" in message for message in told)
    with pytest.raises(ProjectError, match=r"more\.csv"):
        compress(load(finished / "luban.yaml", [plan, "compress.unlabelled=more.csv"]))


def test_a_plan_in_the_project_file_is_done_as_it_stands(finished: Path) -> None:
    project = load(finished / "luban.yaml", ["compress.plan=[{kind: quantise}]", "compress.lose_at_most=0.2"])
    made = compress(project)
    assert [point.name for point in made.points] == ["uncompressed", "quantise"]
    assert made.chosen is not None


def test_a_plan_is_judged_with_the_loss_that_is_given_beside_it(finished: Path) -> None:
    project = load(finished / "luban.yaml", ["compress.plan=[{kind: quantise}]"])
    made = compress(project, lose=0.2)
    assert [point.name for point in made.points] == ["uncompressed", "quantise"], "nothing else was searched"
    assert (made.points[0].faster, made.points[0].throughput) == (1.0, 1.0), "it is as fast as itself"
    assert made.chosen is not None
    assert made.chosen.name == "quantise"


@pytest.mark.parametrize("asked", [{"size_mb": 9.0}, {"minutes": 1.0}, {"only_frontier": True}])
def test_a_plan_on_the_command_line_beside_what_asks_for_a_search_is_refused(
    finished: Path, asked: dict[str, Any]
) -> None:
    project = load(finished / "luban.yaml", ["compress.plan=[{kind: quantise}]"])
    with pytest.raises(ProjectError, match=r"compress\.plan: got a plan beside what asks for a search"):
        compress(project, **asked)


def test_an_amount_given_twice_is_refused(finished: Path) -> None:
    project = load(finished / "luban.yaml", ["compress.lose_at_most=0.2"])
    with pytest.raises(ProjectError, match=r"compress\.lose_at_most: got two amounts"):
        compress(project, lose=0.1)


def test_a_plan_that_loses_too_much_says_how_much_and_what_allows_it(finished: Path) -> None:
    lossy = "compress.plan=[{kind: magnitude, sparsity: 0.99, recover_epochs: 0}]"
    with pytest.raises(BelowGate, match=r"the plan magnitude .* loses [\d.]+ points on validation rows, allowed is 0.5 "
                       r"\(`compress.lose_at_most`\)") as caught:  # fmt: skip
        compress(load(finished / "luban.yaml", [lossy]))
    accepted = caught.value.hint.split("`")[1]
    assert accepted.startswith("compress.lose_at_most=")
    assert compress(load(finished / "luban.yaml", [lossy, accepted])).chosen is not None


def test_what_can_not_be_kept_names_the_nearest_and_leaves_the_whole_bundle(
    finished: Path, digest: Callable[[], str]
) -> None:
    before = digest()
    with pytest.raises(BelowGate, match=r"no plan keeps the budget; the nearest, \w+.*`compress.at_most.size_mb`"):
        compress(load(finished / "luban.yaml"), size_mb=0.001, minutes=0.1)
    assert digest() == before
    assert not (finished / "runs/small/compressed").exists()


def test_steps_in_the_wrong_order_are_told(finished: Path) -> None:
    plan = "compress.plan=[{kind: quantise}, {kind: layers, keep: 1}]"
    with pytest.raises(ProjectError, match="layers after quantise"):
        compress(load(finished / "luban.yaml", [plan]))


def test_a_teacher_is_looked_for_from_the_project_s_folder_and_another_one_teaches_again(finished: Path) -> None:
    plan = "compress.plan=[{kind: distil, epochs: 0.5, teachers: [runs/teacher/checkpoint]}]"
    with pytest.raises(ProjectError, match=r"compress\.plan: got 'runs/teacher/checkpoint'"):
        compress(load(finished / "luban.yaml", [plan]))
    graphs = finished / "runs/small/compress/graphs"
    made = []
    for seed in (1, 2, 2):
        run(load(finished / "luban.yaml", ["name=teacher", f"train.seed={seed}", "train.epochs=1"]))
        compress(load(finished / "luban.yaml", [plan]), lose=1.0)
        made.append({folder.name for folder in graphs.iterdir()})
    assert made[0] < made[1] == made[2]


def test_one_option_takes_both_budgets(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project, asked = str(finished / "luban.yaml"), ("--at-most", "size_mb=0.001", "latency_ms=0.0001")
    assert main(["compress", "--project", project, *asked, "--minutes", "0.1"]) == codes(BelowGate).exit
    told = capsys.readouterr().err
    assert "allowed is 0.001" in told and "allowed is 0.0001" in told
