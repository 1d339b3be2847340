"""Project files: what is read, and what every problem says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luban.errors import Problem, ProjectError
from luban.project.load import Loaded, load, parse

SMALL = """\
name: bank
task: classify
base: minilm-l6
data:
  train: train.csv
"""


def problems(text: str, *overrides: str, root: Path = Path()) -> dict[str, Problem]:
    """Return place -> problem, of a file that has some."""
    with pytest.raises(ProjectError) as caught:
        parse(text, root=root, overrides=overrides)
    for problem in caught.value.problems:
        assert problem.where and problem.got and problem.wanted, problem
        assert str(problem) in str(caught.value)
    return {problem.where: problem for problem in caught.value.problems}


def read(text: str, *overrides: str, root: Path = Path()) -> Loaded:
    return parse(text, root=root, overrides=overrides)


class TestReading:
    def test_defaults_and_given_values(self) -> None:
        project = read(SMALL + "train: {epochs: 4, learning_rate: 2e-5}\ngates: {accuracy: 1}").project
        assert project.task.kind == "classify"
        assert project.task.options == {"multi_label": False, "long_text": "truncate", "stride": 0}
        assert (project.train.epochs, project.train.learning_rate) == (4.0, 2e-5)
        assert isinstance(project.train.epochs, float)
        assert project.gates == {"accuracy": 1.0}
        assert project.data.clean == ("unicode", "control", "whitespace")

    def test_an_empty_section_is_one_with_defaults(self) -> None:
        assert read(SMALL + "train:\nexport:").digest == read(SMALL).digest

    def test_digest_tells_settings_apart_and_nothing_else(self) -> None:
        same = (
            "# a comment\ndata: {train: train.csv, text: text}\nbase: minilm-l6\ntask: {kind: classify}\nname: bank\n"
        )
        assert read(same).digest == read(SMALL).digest
        assert read(SMALL, "train.epochs=3").digest == read(SMALL).digest
        assert read(SMALL, "train.epochs=4").digest != read(SMALL).digest

    def test_plugins_by_name_or_with_options(self) -> None:
        short = read(SMALL.replace("classify", "{kind: classify, multi_label: true}"))
        long = read(SMALL.replace("classify", "\n  multi_label: true\n  kind: classify"))
        assert short.project == long.project
        assert short.project.train.choose_by == "micro_f1", "the task's main score, where nothing is said"
        assert read(SMALL.replace("classify", "tag")).project.train.choose_by == "f1"

    def test_a_folder_means_its_luban_yaml(self, tmp_path: Path) -> None:
        (tmp_path / "luban.yaml").write_text(SMALL, "utf-8")
        loaded = load(tmp_path)
        assert loaded.root == tmp_path.resolve()
        assert loaded.digest == load(tmp_path / "luban.yaml").digest
        assert loaded.path("a/b.csv") == tmp_path.resolve() / "a" / "b.csv"

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "luban.yaml").write_text(SMALL, "utf-8-sig")
        assert load(tmp_path).project.name == "bank"

    def test_lines_of_settings(self) -> None:
        loaded = read(SMALL)
        assert loaded.lines["data.train"] == 5
        assert "train.epochs" not in loaded.lines

    def test_chinese_everywhere(self, tmp_path: Path) -> None:
        text = SMALL.replace("train.csv", "数据/评论.csv") + "  label: 情感\n  languages: [zh, en]\n"
        assert read(text).project.data.label == "情感"


class TestFiles:
    @pytest.mark.parametrize("name", ["gone.yaml", "gone/luban.yaml", "nul\0.yaml", "x" * 300])
    def test_no_such_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ProjectError, match="luban init"):
            load(tmp_path / name)

    def test_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "luban.yaml").write_text(SMALL + "#" * 10**6)
        with pytest.raises(ProjectError, match="more than 1000000 bytes"):
            load(tmp_path)

    def test_not_utf8_names_the_line(self, tmp_path: Path) -> None:
        (tmp_path / "luban.yaml").write_bytes("name: bank\ntask: 分类\n".encode("gb18030"))
        with pytest.raises(ProjectError) as caught:
            load(tmp_path)
        assert caught.value.problems[0].line == 2
        assert "UTF-8" in str(caught.value)

    @pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "3", "just words", "- a\n- b"])
    def test_no_settings(self, text: str) -> None:
        with pytest.raises(ProjectError) as caught:
            parse(text, root=Path())
        assert caught.value.problems

    def test_missing_data_files_are_told_together(self, tmp_path: Path) -> None:
        (tmp_path / "trian.csv").touch()
        loaded = read(SMALL + "  test: test.csv\n", root=tmp_path)
        with pytest.raises(ProjectError) as caught:
            loaded.data_files()
        first, second = caught.value.problems
        assert (first.where, first.line) == ("data.train", 5)
        assert "did you mean 'trian.csv'" in first.hint
        assert second.where == "data.test"
        (tmp_path / "train.csv").touch()
        (tmp_path / "test.csv").touch()
        assert loaded.data_files() == {"train": tmp_path / "train.csv", "test": tmp_path / "test.csv"}
        assert loaded.unlabelled_file() is None

    def test_rows_without_labels_are_found_and_stay_under_the_project(self, tmp_path: Path) -> None:
        (tmp_path / "more.txt").touch()
        named = SMALL + "compress: {unlabelled: more.txt}\n"
        assert read(named, root=tmp_path).unlabelled_file() == tmp_path / "more.txt"
        with pytest.raises(ProjectError, match=r"compress.unlabelled.*did you mean 'more.txt'") as caught:
            read(named.replace("more.txt", "mor.txt"), root=tmp_path).unlabelled_file()
        assert len(caught.value.problems) == 1
        with pytest.raises(ProjectError, match=r"compress.unlabelled.*a path under the project"):
            read(named.replace("more.txt", "../more.txt"), root=tmp_path)


EVERYTHING_WRONG = """\
name: bank intents
task: {kind: clasify}
base: gh:org/name
data:
  text: 3
  labl: category
  clean: [unicode, htlm]
  split: {by: group, validation: 1.5}
train:
  epochs: three
  learning_rate: '2e-5'
  batch_size: 1.5
  adapter: {rank: 8}
  objectives: focal
  optimizer: adam_w
evaluate:
  calibrate: yes
  baselines: [tfidf, porbe]
gates: {accuracy: high}
max_length: 4
learning_rate: 3
"""


class TestProblems:
    def test_every_one_at_once_with_its_line(self) -> None:
        found = problems(EVERYTHING_WRONG)
        lines = {where: problem.line for where, problem in found.items()}
        assert lines == {
            "name": 1,
            "task.kind": 2,
            "base": 3,
            "data.train": 4,
            "data.text": 5,
            "data.labl": 6,
            "data.clean[1]": 7,
            "data.split.column": 8,
            "data.split.validation": 8,
            "train.epochs": 10,
            "train.learning_rate": 11,
            "train.batch_size": 12,
            "train.adapter": 13,
            "train.objectives": 14,
            "train.optimizer": 15,
            "evaluate.calibrate": 17,
            "evaluate.baselines[1]": 18,
            "gates.accuracy": 19,
            "max_length": 20,
            "learning_rate": 21,
        }

    def test_hints(self) -> None:
        found = problems(EVERYTHING_WRONG)
        hints = {where: problem.hint for where, problem in found.items()}
        assert "did you mean 'classify'?" in hints["task.kind"]
        assert "`hf:`" in hints["base"]
        assert hints["data.text"] == "put it in quotes: '3'"
        assert hints["data.labl"] == "did you mean 'label'?"
        assert "did you mean 'html'?" in hints["data.clean[1]"]
        assert hints["train.learning_rate"] == "write 2e-5, with no quotes or marks in it"
        assert "`kind`" in found["train.adapter"].wanted or "kind" in found["train.adapter"].wanted
        assert hints["train.optimizer"] == "did you mean 'adamw'?"
        assert hints["evaluate.calibrate"] == "write true"
        assert hints["learning_rate"] == "it belongs in train.learning_rate"
        assert found["max_length"].wanted == "at least 8"

    def test_what_a_setting_means_is_no_fix(self) -> None:
        found = problems(SMALL + "train: {epochs: abc}")["train.epochs"]
        assert (found.hint, found.means) == ("", "Passes over the training rows")
        assert str(found).endswith("wanted a number. It means: Passes over the training rows")

    def test_problems_stand_in_the_order_of_the_file(self) -> None:
        with pytest.raises(ProjectError) as caught:
            parse(EVERYTHING_WRONG, root=Path())
        lines = [problem.line or 0 for problem in caught.value.problems]
        assert lines == sorted(lines)
        assert str(caught.value).startswith("20 problems in luban.yaml:\n")

    @pytest.mark.parametrize(
        "made",
        [
            SMALL + f"  languages: [{'1, ' * 50_000}]",
            SMALL + "".join(f"  a{number}: 1\n" for number in range(20_000)),
            SMALL + f"train: {{objectives: [{'x, ' * 50_000}]}}",
            SMALL + "".join(f"a{number}: *x\n" for number in range(20_000)),
        ],
        ids=["values", "settings", "plugins", "aliases"],
    )
    def test_a_file_made_to_have_countless_problems_is_told_of_briefly(self, made: str) -> None:
        with pytest.raises(ProjectError) as caught:
            parse(made, root=Path())
        assert len(caught.value.problems) == 100
        assert caught.value.total >= 20_000
        assert str(caught.value).endswith("more")
        assert len(str(caught.value)) < 50_000

    def test_what_is_missing(self) -> None:
        assert set(problems("name: x")) == {"task", "base", "data"}

    @pytest.mark.parametrize("written", ["yes", "no", "on", "off"])
    def test_words_for_truth_are_told_how_to_be_written(self, written: str) -> None:
        hint = problems(SMALL + f"evaluate: {{calibrate: {written}}}")["evaluate.calibrate"].hint
        assert hint == f"write {'true' if written in ('yes', 'on') else 'false'}"

    @pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e400"])
    def test_numbers_are_finite(self, number: str) -> None:
        assert problems(SMALL + f"train: {{epochs: {number}}}")["train.epochs"].wanted == "a finite number"

    @pytest.mark.parametrize("value", ["3", "text", "[1]", "true"])
    def test_a_section_is_a_section(self, value: str) -> None:
        assert "train" in problems(SMALL + f"train: {value}")

    def test_truth_is_no_number(self) -> None:
        assert "train.seed" in problems(SMALL + "train: {seed: true}")
        assert "data.split.validation" in problems(SMALL + "  split: {validation: false}")

    def test_yaml_problems_and_others_together(self) -> None:
        found = problems(SMALL + "train: &t {epochs: 0}\nevaluate: *t\n")
        assert set(found) == {"train", "train.epochs", "evaluate"}

    @pytest.mark.parametrize(
        ("task", "place"),
        [
            ("{kind: classify, multi_labl: true}", "task.multi_labl"),
            ("{kind: classify, multi_label: 1}", "task.multi_label"),
            ("{kind: classify, long_text: [chunk]}", "task.long_text"),
            ("{kind: tag, stride: -1}", "task.stride"),
            ("{kind: 3}", "task.kind"),
            ("{kind: null}", "task.kind"),
            ("{type: tag}", "task"),
            ("[classify]", "task"),
            ("3", "task"),
            ("null", "task"),
            ("''", "task"),
            ("../../etc/passwd", "task"),
            ("os", "task"),
        ],
    )
    def test_plugins(self, task: str, place: str) -> None:
        found = problems(SMALL.replace("classify", task))
        assert set(found) == {place}
        assert found[place].line == 2

    def test_a_broken_plugin_in_a_list_names_its_place(self) -> None:
        found = problems(SMALL + "train:\n  objectives:\n    - nothing-like-it\n    - {kind: 7}\n    - 3\n")
        lines = {where: problem.line for where, problem in found.items()}
        assert lines == {"train.objectives[0]": 8, "train.objectives[1].kind": 9, "train.objectives[2]": 10}


class TestAcross:
    @pytest.mark.parametrize(
        ("more", "place"),
        [
            ("  split: {by: group}", "data.split.column"),
            ("  split: {by: time}", "data.split.column"),
            ("  split: {column: day}", "data.split.column"),
            ("  split: {validation: 0}", "data.split.validation"),
            ("  split: {test: 0.0}", "data.split.test"),
            ("  test: train.csv", "data.test"),
            ("  validation: b.csv\n  test: b.csv", "data.test"),
            ("  clean: [replace]", "data.clean"),
            ("  replace: {a: b}", "data.replace"),
            ("train: {choose_by: f1}", "train.choose_by"),
            ("train: {choose_by: loss}", "train.choose_by"),
            ("train: {choose_by: ece}", "train.choose_by"),
            ("gates: {acuracy: 0.9}", "gates.acuracy"),
            ("gates: {accuracy: 92}", "gates.accuracy"),
            ("gates: {accuracy: -0.1}", "gates.accuracy"),
        ],
    )
    def test_refused(self, more: str, place: str) -> None:
        assert set(problems(SMALL + more)) == {place}

    @pytest.mark.parametrize(
        "more",
        [
            "  split: {by: group, column: customer}",
            "  split: {validation: 0, test: 0}\n  validation: b.csv\n  test: c.csv",
            "  clean: [unicode, replace]\n  replace: {a: b}",
            "train: {choose_by: -ece}",
            "train: {choose_by: macro_f1}",
            "gates: {macro_f1: 0.9, accuracy: 1}",
        ],
    )
    def test_accepted(self, more: str) -> None:
        read(SMALL + more)

    def test_a_gate_in_percent_gets_the_share(self) -> None:
        assert problems(SMALL + "gates: {accuracy: 92}")["gates.accuracy"].hint == "did you mean 0.92?"

    @pytest.mark.parametrize(
        "base",
        [
            "minilm-l6",
            "./base",
            "bases/mine",
            "/models/bert",
            "hf:org/name",
            "hf:org/name@main",
            "ms:a/b@v1.0",
            "hf:bert",
        ],
    )
    def test_bases(self, base: str) -> None:
        assert read(SMALL.replace("minilm-l6", base)).project.base == base

    @pytest.mark.parametrize(
        "base",
        [
            "'hf:'",
            "hf:a/b/c",
            "hf:../x",
            "hf:a b/c",
            "hug:org/name",
            "https://example.org/model",
            "'  '",
            "a b",
            "hf:a/b@",
            "'*'",
        ],
    )
    def test_no_bases(self, base: str) -> None:
        found = problems(SMALL.replace("minilm-l6", base))
        assert set(found) == {"base"}
        assert found["base"].hint


class TestOverrides:
    def test_values_are_yaml(self) -> None:
        project = read(
            SMALL, "train.epochs=3", "train.learning_rate=2e-5", "data.clean=[unicode, html]", "gates={accuracy: .9}",
            "data.languages=[no]", "train.dropout=null", "name=other",
        ).project  # fmt: skip
        assert (project.train.epochs, project.train.learning_rate, project.train.dropout) == (3.0, 2e-5, None)
        assert project.data.clean == ("unicode", "html")
        assert project.data.languages == ("no",)
        assert project.name == "other"

    def test_options_of_a_plugin_that_the_file_only_names(self) -> None:
        assert read(SMALL, "task.multi_label=true").project.task.options["multi_label"] is True
        assert read(SMALL, "task=tag", "task.crf=true").project.task.options["crf"] is True

    def test_the_last_one_holds(self) -> None:
        assert read(SMALL, "train.epochs=3", "train.epochs=5").project.train.epochs == 5.0

    def test_it_mends_a_problem_of_the_file(self) -> None:
        assert read(SMALL + "train: {epochs: 0}", "train.epochs=2").project.train.epochs == 2.0
        assert read(SMALL + "train: {epochs: .inf}", "train.epochs=2").project.train.epochs == 2.0

    @pytest.mark.parametrize(
        ("override", "place"),
        [
            ("train.epochs=x", "train.epochs (override 'train.epochs=x')"),
            ("train.epoch=3", "train.epoch (override 'train.epoch=3')"),
            ("epochs=3", "epochs (override 'epochs=3')"),
            ("train.a.b=3", "train.a (override 'train.a.b=3')"),
            ("task.multi_labl=true", "task.multi_labl (override 'task.multi_labl=true')"),
            ("data.train=../x.csv", "data.train (override 'data.train=../x.csv')"),
            ("base.x=3", "override 'base.x=3'"),
            ("train.epochs", "override 'train.epochs'"),
            ("=3", "override '=3'"),
            ("train..epochs=3", "override 'train..epochs=3'"),
            ("train.epochs=[", "override 'train.epochs=['"),
            ("train.epochs=*x", "override 'train.epochs=*x'"),
            ("train.epochs=\ud800", "override 'train.epochs=\\ud800'"),
            ("train.objectives.0.kind=x", "train.objectives (override 'train.objectives.0.kind=x')"),
        ],
    )
    def test_a_wrong_one_is_named_as_the_place(self, override: str, place: str) -> None:
        found = problems(SMALL, override)
        assert set(found) == {place}
        assert found[place].line is None

    def test_the_rest_of_a_section_keeps_its_lines(self) -> None:
        found = problems(SMALL + "train:\n  epochs: 0\n  seed: x\n", "train.epochs=-1")
        assert {where: problem.line for where, problem in found.items()} == {
            "train.epochs (override 'train.epochs=-1')": None,
            "train.seed": 8,
        }


class TestPaths:
    @pytest.mark.parametrize("path", ["../x.csv", "/etc/passwd", "a/../../x.csv", "..", "data/../../b"])
    def test_out_of_the_project_is_refused_with_the_mend(self, tmp_path: Path, path: str) -> None:
        found = problems(SMALL.replace("train.csv", path), root=tmp_path)
        assert set(found) == {"data.train"}
        assert "LUBAN_DATA_ROOTS=" in found["data.train"].hint

    @pytest.mark.parametrize("path", ["a/../b.csv", "./x.csv", "数据 (1)/x.csv", "..x/y", "a//b"])
    def test_inside_is_fine(self, tmp_path: Path, path: str) -> None:
        read(SMALL.replace("train.csv", f'"{path}"'), root=tmp_path)

    def test_a_link_that_leads_out_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "project").mkdir()
        (tmp_path / "secret.csv").touch()
        (tmp_path / "project" / "train.csv").symlink_to(tmp_path / "secret.csv")
        found = problems(SMALL, root=tmp_path / "project")
        assert "a link to" in found["data.train"].got

    def test_a_link_inside_and_a_linked_project_are_fine(self, tmp_path: Path) -> None:
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "real.csv").touch()
        (tmp_path / "project" / "train.csv").symlink_to("real.csv")
        (tmp_path / "alias").symlink_to(tmp_path / "project")
        assert read(SMALL, root=tmp_path / "alias").path("train.csv") == (tmp_path / "project" / "real.csv").resolve()

    def test_a_circle_of_links_is_no_crash(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").symlink_to(tmp_path / "other.csv")
        (tmp_path / "other.csv").symlink_to(tmp_path / "train.csv")
        loaded = read(SMALL, root=tmp_path)
        with pytest.raises(ProjectError, match=r"data\.train"):
            loaded.data_files()

    def test_the_user_can_allow_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared, project = tmp_path / "shared", tmp_path / "project"
        shared.mkdir()
        project.mkdir()
        text = SMALL.replace("train.csv", str(shared / "x.csv"))
        problems(text, root=project)
        monkeypatch.setenv("LUBAN_DATA_ROOTS", os.pathsep.join([str(tmp_path / "other"), str(shared)]))
        assert read(text, root=project).path(str(shared / "x.csv")) == shared / "x.csv"
        read(SMALL.replace("train.csv", "../shared/x.csv"), root=project)
        problems(SMALL.replace("train.csv", str(tmp_path / "x.csv")), root=project)

    @pytest.mark.parametrize("path", ["https://example.org/x.csv", "s3://bucket/x.csv", "'  '", '"a\\0b"'])
    def test_no_paths(self, path: str) -> None:
        assert set(problems(SMALL.replace("train.csv", path))) == {"data.train"}
