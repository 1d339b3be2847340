"""Advice: the rules, and the file that is written from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.plugins import field_docs
from luban.project import schema
from luban.project.advise import Advice, BaseSize, Facts, Lengths, advise, base_for
from luban.project.load import Loaded, parse
from luban.project.write import project_name, scalar, to_yaml

INTENTS = Facts(
    task="classify",
    train="data/train.csv",
    n_rows=10_003,
    n_labels=77,
    text="text",
    label="category",
    rows_per_label=(35, 129, 187),
    languages={"en": 0.997},
    lengths=Lengths(p50=12, p95=30, p99=51, longest=98),
    size=BaseSize(width=384, n_layers=6, window_tokens=512, embedding_share=0.52),
)
REVIEWS_ZH = dataclasses.replace(
    INTENTS, n_rows=800, n_labels=2, rows_per_label=(40, 400, 760), languages={"zh": 0.98, "en": 0.02}, label="情感"
)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TRAPS = st.sampled_from(
    ["no", "null", "1e5", "0x1f", "2024-01-01", "a: b", "a #b", "- a", "*x", "'", "012", "1_0", "\u2028", "\x85", ""]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | TRAPS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | TRAPS, inner, max_size=3),
    max_leaves=6,
)
TOKENS = st.integers(1, 9999)
ANY_FACTS = st.builds(
    Facts,
    task=st.sampled_from(["classify", "tag"]),
    train=st.sampled_from(["a.csv", "数据/x y.csv", "no", "#1.csv"]),
    n_rows=st.integers(1, 10**7),
    n_labels=st.integers(1, 5000),
    text=WORDS,
    label=WORDS,
    label_why=WORDS,
    rows_per_label=st.tuples(st.integers(0, 9), st.integers(9, 99), st.integers(99, 10**6)),
    multi_label=st.booleans(),
    separator=st.none() | st.sampled_from(["|", ",", "\t", ";"]),
    test=st.none() | st.just("test.csv"),
    group_column=st.none() | st.just("customer"),
    languages=st.dictionaries(st.sampled_from(["en", "zh", "no", "de"]), st.floats(0, 1)),
    html_share=st.floats(0, 1),
    full_width_share=st.floats(0, 1),
    traditional_share=st.floats(0, 1),
    single_character_share=st.floats(0, 1),
    lengths=st.none() | st.builds(Lengths, p50=TOKENS, p95=TOKENS, p99=TOKENS, longest=st.just(10**5)),
    probe=st.none() | st.floats(0, 1),
    suspect_share=st.floats(0, 1),
    bf16_speedup=st.none() | st.floats(0.1, 4),
)


def settings_of(facts: Facts) -> dict[str, Any]:
    advice = advise(facts)
    paths = [item.path for item in advice]
    assert len(paths) == len(set(paths)), "two rules decide one setting"
    assert all(item.reason for item in advice)
    return {item.path: item.value for item in advice}


def written(facts: Facts, name: str = "bank") -> Loaded:
    return parse(to_yaml(name, advise(facts)), root=Path())


class TestRules:
    def test_base_by_language(self) -> None:
        assert base_for({"en": 1.0})[0] == "minilm-l6"
        assert base_for({"zh": 1.0})[0] == "e5-small-multilingual"
        assert base_for({"en": 0.9, "zh": 0.1})[0] == "e5-small-multilingual"
        assert base_for({"de": 1.0})[0] == "e5-small-multilingual"
        assert base_for({})[0] == "e5-small-multilingual"
        assert base_for({"en": 1.0}, ["other"]) == (
            "other",
            "minilm-l6 would fit (all of the rows are English: the fastest base for it), but can't be had here",
        )
        assert settings_of(dataclasses.replace(INTENTS, base="./mine"))["base"] == "./mine"

    @pytest.mark.parametrize(
        ("p99", "window", "wanted"),
        [(51, 512, 64), (64, 512, 64), (65, 512, 80), (9, 512, 32), (900, 512, 512), (100, 64, 64)],
    )
    def test_window_holds_nearly_all_texts(self, p99: int, window: int, wanted: int) -> None:
        lengths = Lengths(p50=8, p95=p99 - 1, p99=p99, longest=2000)
        size = BaseSize(width=384, n_layers=6, window_tokens=window)
        assert settings_of(dataclasses.replace(INTENTS, lengths=lengths, size=size))["max_length"] == wanted

    @pytest.mark.parametrize(
        ("p95", "p99", "wanted"), [(60, 500, "truncate"), (600, 900, "head_tail"), (3000, 9000, "chunk")]
    )
    def test_long_texts(self, p95: int, p99: int, wanted: str) -> None:
        lengths = Lengths(p50=50, p95=p95, p99=p99, longest=99_999)
        assert settings_of(dataclasses.replace(INTENTS, lengths=lengths))["task.long_text"] == wanted

    def test_fewer_rows_more_epochs(self) -> None:
        sizes = (100, 800, 2_000, 4_000, 10_000, 50_000, 300_000, 5_000_000)
        epochs = [settings_of(dataclasses.replace(INTENTS, n_rows=n))["train.epochs"] for n in sizes]
        assert epochs == sorted(epochs, reverse=True)
        assert 3 <= epochs[4] <= 6
        assert epochs[-1] == 1

    @pytest.mark.parametrize(
        ("validation", "test", "steps"),
        [(None, None, "714"), (None, "test.csv", "891"), ("dev.csv", None, "753"), ("dev.csv", "test.csv", "939")],
    )
    def test_steps_are_those_of_the_rows_left_after_the_splits(
        self, validation: str | None, test: str | None, steps: str
    ) -> None:
        found = {item.path: item for item in advise(dataclasses.replace(INTENTS, validation=validation, test=test))}
        assert found["train.epochs"].reason == f"about {steps} steps"

    def test_wider_bases_learn_slower(self) -> None:
        rates = [
            settings_of(dataclasses.replace(INTENTS, size=BaseSize(width=width, n_layers=12, window_tokens=512)))[
                "train.learning_rate"
            ]
            for width in (384, 768, 1024)
        ]
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) == 3

    def test_imbalance(self) -> None:
        skewed = settings_of(dataclasses.replace(INTENTS, rows_per_label=(10, 100, 1000)))
        assert skewed["train.choose_by"] == "macro_f1"
        assert skewed["train.class_weights"] == "sqrt"
        even = settings_of(INTENTS)
        assert even["train.choose_by"] == "accuracy"
        assert "train.class_weights" not in even

    def test_multi_label(self) -> None:
        found = settings_of(dataclasses.replace(INTENTS, multi_label=True, separator="|"))
        assert found["task.multi_label"] is True
        assert found["train.choose_by"] == "micro_f1"
        assert found["data.separator"] == "|"
        assert "train.label_smoothing" not in found

    def test_cleaning_by_what_was_seen(self) -> None:
        assert settings_of(INTENTS)["data.clean"] == ["unicode", "control", "whitespace"]
        dirty = dataclasses.replace(REVIEWS_ZH, html_share=0.1, full_width_share=0.3, traditional_share=0.2)
        assert settings_of(dirty)["data.clean"] == ["unicode", "control", "html", "width", "simplify", "whitespace"]
        all_traditional = dataclasses.replace(REVIEWS_ZH, traditional_share=0.99)
        assert "simplify" not in settings_of(all_traditional)["data.clean"]

    def test_labels_that_are_doubted_teach_less(self) -> None:
        assert "train.objectives" not in settings_of(dataclasses.replace(INTENTS, suspect_share=0.3))
        noisy = settings_of(dataclasses.replace(INTENTS, suspect_share=0.45))
        assert noisy["train.objectives"] == [{"kind": "noisy-labels"}]
        several = dataclasses.replace(INTENTS, suspect_share=0.45, multi_label=True)
        assert "train.objectives" not in settings_of(several)

    def test_precision_by_measurement(self) -> None:
        assert settings_of(INTENTS)["train.precision"] == "fp32"
        assert settings_of(dataclasses.replace(INTENTS, bf16_speedup=1.4))["train.precision"] == "bf16"
        assert settings_of(dataclasses.replace(INTENTS, bf16_speedup=1.05))["train.precision"] == "fp32"

    def test_split(self) -> None:
        found = settings_of(REVIEWS_ZH)
        assert (found["data.split.by"], found["data.split.validation"], found["data.split.test"]) == (
            "stratified",
            0.2,
            0.2,
        )
        large = settings_of(dataclasses.replace(INTENTS, n_rows=100_000))
        assert large["data.split.validation"] == 0.05
        assert settings_of(dataclasses.replace(INTENTS, rows_per_label=(1, 5, 9)))["data.split.by"] == "random"
        grouped = settings_of(dataclasses.replace(INTENTS, group_column="customer"))
        assert (grouped["data.split.by"], grouped["data.split.column"]) == ("group", "customer")
        with_files = settings_of(dataclasses.replace(INTENTS, test="test.csv", validation="dev.csv"))
        assert (with_files["data.split.validation"], with_files["data.split.test"]) == (0.0, 0.0)

    def test_tag(self) -> None:
        found = settings_of(dataclasses.replace(INTENTS, task="tag", n_labels=4, label="tags"))
        assert found["task.kind"] == "tag"
        assert found["train.choose_by"] == "f1"
        assert found["task.crf"] is True
        assert not {"task.long_text", "train.label_smoothing"} & set(found)

    @pytest.mark.parametrize(
        ("share", "wanted"), [(0.0, "words"), (0.9989, "words"), (0.999, "characters"), (1.0, "characters")]
    )
    def test_what_gets_a_tag_by_how_tokens_were_cut(self, share: float, wanted: str) -> None:
        facts = dataclasses.replace(INTENTS, task="tag", label="tags", single_character_share=share)
        assert settings_of(facts)["task.units"] == wanted

    def test_the_probes_score_is_in_the_reason(self) -> None:
        advice = advise(dataclasses.replace(INTENTS, probe=0.8934))
        assert "0.893" in next(item.reason for item in advice if item.path == "train.start")


class TestFile:
    @pytest.mark.parametrize("facts", [INTENTS, REVIEWS_ZH, dataclasses.replace(INTENTS, task="tag", label="tags")])
    def test_advice_is_what_is_read_back(self, facts: Facts) -> None:
        loaded = written(facts)
        for path, value in settings_of(facts).items():
            found: Any = loaded.project
            for step in path.split("."):
                if isinstance(found, schema.Plugin) and step != "kind":
                    found = found.options[step]
                else:
                    found = getattr(found, step)
            assert found == (tuple(value) if isinstance(value, list) else value), path

    def test_every_setting_is_written_out_with_a_comment(self) -> None:
        text = to_yaml("bank", advise(INTENTS))
        loaded = parse(text, root=Path())
        for section, above in (
            (schema.Project, ""),
            (schema.DataSection, "data."),
            (schema.SplitSection, "data.split."),
            (schema.TrainSection, "train."),
            (schema.EvaluateSection, "evaluate."),
            (schema.ExportSection, "export."),
        ):
            for field in field_docs(section):
                line = loaded.lines[above + field]
                opens_a_section = text.splitlines()[line - 1].rstrip().endswith(":")
                assert opens_a_section or "  # " in text.splitlines()[line - 1]

    def test_a_comment_is_never_cut_inside_a_value(self) -> None:
        comments = [line.partition("  # ")[2] for line in to_yaml("bank", advise(INTENTS)).splitlines()]
        assert not [comment for comment in comments if comment.count("`") % 2]

    def test_other_readers_of_yaml_read_the_same(self) -> None:
        values = yaml.safe_load(to_yaml("bank", advise(REVIEWS_ZH)))
        assert values["train"]["learning_rate"] == 1e-4
        assert values["data"]["label"] == "情感"
        assert values["data"]["split"]["near_duplicates_together"] is True

    def test_advice_for_no_setting_is_a_defect(self) -> None:
        with pytest.raises(ValueError, match="train\\.epoch"):
            to_yaml("bank", [*advise(INTENTS), Advice("train.epoch", 3, "")])

    def test_comments_stay_on_their_line(self) -> None:
        facts = dataclasses.replace(INTENTS, label_why="77 values\nname: other # no")
        assert written(facts).project.name == "bank"

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("reviews", "reviews"),
            ("My Reviews (2024)", "My-Reviews-2024"),
            ("评论", "project"),
            ("", "project"),
            ("-.x" * 40, None),
        ],
    )
    def test_project_names(self, text: str, wanted: str | None) -> None:
        name = project_name(text)
        assert wanted in (None, name)
        assert written(INTENTS, name).project.name == name

    @settings(max_examples=300, deadline=None)
    @given(VALUES)
    def test_any_value_is_read_back_as_it_was(self, value: Any) -> None:
        from luban.project import tree

        found = tree.parse(f"a: {scalar(value)}  # comment", "").value["a"]
        assert found == value
        assert type(found) is type(value)

    @settings(max_examples=60, deadline=None)
    @given(ANY_FACTS)
    def test_any_facts_give_a_file_that_loads(self, facts: Facts) -> None:
        project = written(facts).project
        assert (project.data.text, project.data.label) == (facts.text, facts.label)
