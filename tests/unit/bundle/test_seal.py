"""Sealing: what a bundle holds, what is refused, and the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.bundle.made import LABELS, PROJECT, Made, report

from luban import files
from luban.bundle import seal
from luban.bundle.card import card, use_and_limits
from luban.bundle.engine import Engine
from luban.errors import CorruptBundle, LubanError, PluginError
from luban.models.facts import BaseFacts
from luban.records import Calibration, Score

WHOLE = {
    "bundle.json", "model.onnx", "processor.json", "tokenizer.json", "calibration.json", "metrics.json",
    "reference.json", "project.json", "card.md", "manifest.json",
}  # fmt: skip


def sealed_again(it: Made, folder: Path, **changed: Any) -> Any:
    facts = files.read_json(it.folder / seal.BUNDLE)
    base = BaseFacts(**{**facts["base"], "languages": tuple(facts["base"]["languages"])})
    given: dict[str, Any] = {
        "name": "made", "task": facts["task"], "base": base, "runtime": facts["runtime"],
        "graph": it.folder.with_name("bundle-graph"), "processor": it.processor,
        "calibration": Calibration(temperature=1.5), "report": report(), "project": PROJECT, "languages": ("en", "zh"),
        "reference": files.read_json(it.folder / seal.REFERENCE),
    }  # fmt: skip
    return seal.seal(folder, **{**given, **changed})


def changed(it: Made, folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Return a copy in which one JSON file says something else, sealed as if by someone who knows how."""
    shutil.copytree(it.folder, folder)
    files.write_json(folder / name, change(files.read_json(folder / name)))
    (folder / files.MANIFEST).unlink()
    files.seal(folder, {"kind": "bundle"})
    return folder


def test_everything_needed_is_inside(classifier: Made) -> None:
    assert {file.name for file in classifier.folder.iterdir()} == WHOLE
    metrics = files.read_json(classifier.folder / seal.METRICS)
    assert metrics["scores"]["accuracy"] == {"value": 0.9, "low": 0.8, "high": pytest.approx(0.95), "n": 120}
    assert metrics["baselines"]["majority"]["accuracy"]["value"] == 0.3
    assert files.read_json(classifier.folder / seal.PROJECT) == json.loads(json.dumps(PROJECT))


def test_the_copy_is_the_bundle(classifier: Made, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(classifier.folder, copy)
    opened = seal.open_bundle(copy)
    assert opened == replace(classifier.bundle, folder=copy)
    assert Engine.open(copy).predict(["转账"])[0].label == Engine.open(classifier.folder).predict(["转账"])[0].label


def test_processor_encodes_alike_after_sealing(classifier: Made) -> None:
    rows = ["Where is my card?", "我的卡\u200b丢了", ""]
    wanted, got = classifier.processor.encode_texts(rows), Engine.open(classifier.folder).processor.encode_texts(rows)
    assert wanted.ids.tolist() == got.ids.tolist() and wanted.offsets.tolist() == got.offsets.tolist()


def test_equal_inputs_give_equal_digests_and_others_do_not(classifier: Made, tmp_path: Path) -> None:
    assert sealed_again(classifier, tmp_path / "a").digest == classifier.bundle.digest
    other = sealed_again(classifier, tmp_path / "a", calibration=Calibration(temperature=1.6))
    assert other.digest != classifier.bundle.digest
    assert seal.open_bundle(tmp_path / "a").digest == other.digest, "the older bundle was not replaced"


def test_a_changed_graph_is_not_sealed(classifier: Made, tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    shutil.copytree(classifier.folder.with_name("bundle-graph"), graph)
    (graph / "model.onnx").write_bytes(b"other")
    with pytest.raises(CorruptBundle, match=r"model\.onnx"):
        sealed_again(classifier, tmp_path / "b", graph=graph)
    assert not (tmp_path / "b").exists()


def test_files_of_other_kinds_are_never_sealed(classifier: Made, tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    graph.mkdir()
    (graph / "model.pkl").write_bytes(b"")
    files.seal(graph, {"kind": "graph"})
    with pytest.raises(LubanError, match=r"model\.pkl"):
        sealed_again(classifier, tmp_path / "b", graph=graph)


def test_files_of_other_kinds_are_refused_even_where_the_manifest_has_them(classifier: Made, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(classifier.folder, folder)
    (folder / "setup.py").write_text("")
    files.seal(folder, {"kind": "bundle"})
    with pytest.raises(CorruptBundle, match=r"setup\.py"):
        seal.open_bundle(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bundle.json", lambda value: []),
        ("bundle.json", lambda value: {}),
        ("bundle.json", lambda value: {**value, "task": {}}),
        ("bundle.json", lambda value: {**value, "task": {**value["task"], "labels": 3}}),
        ("bundle.json", lambda value: {**value, "task": {**value["task"], "options": {"nonsense": 1}}}),
        ("bundle.json", lambda value: {**value, "runtime": "onnx"}),
        ("bundle.json", lambda value: {key: value[key] for key in value if key != "text"}),
        ("calibration.json", lambda value: {}),
        ("calibration.json", lambda value: {**value, "temperature": 0}),
        ("calibration.json", lambda value: {**value, "temperature": "hot"}),
        ("calibration.json", lambda value: {**value, "thresholds": [0.5]}),
        ("processor.json", lambda value: {}),
        ("processor.json", lambda value: {**value, "max_length": 1}),
        ("tokenizer.json", lambda value: {}),
    ],
)
def test_a_sealed_file_that_says_nonsense_is_named(
    classifier: Made, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    folder = changed(classifier, tmp_path / "b", name, change)
    with pytest.raises(CorruptBundle) as caught:
        Engine.open(folder)
    named = "processor.json" if name == "tokenizer.json" else name
    assert named in caught.value.message


def test_a_task_of_another_luban_is_named(classifier: Made, tmp_path: Path) -> None:
    def other(value: Any) -> Any:
        return {**value, "task": {**value["task"], "kind": "foretell"}}

    folder = changed(classifier, tmp_path / "b", "bundle.json", other)
    with pytest.raises(PluginError, match="foretell"):
        Engine.open(folder)


def test_card_tells_use_limits_scores_data_and_base(classifier: Made) -> None:
    text = (classifier.folder / seal.CARD).read_text("utf-8")
    wanted = (
        "# made", "3 labels", "English and Chinese", "0.9000 [0.8000, 0.9500]", "baseline: majority", "train.csv",
        "at most 40 tokens", "fewer than 20 rows for: card lost", "licence",
        f"digest of the rows of training, validation and test: `{'d' * 64}`",
    )  # fmt: skip
    assert [told for told in wanted if told not in text] == []


def test_card_keeps_odd_labels_in_their_cells(classifier: Made) -> None:
    facts = files.read_json(classifier.folder / seal.BUNDLE)
    label = LABELS["classify"][2]
    odd = replace(report(), per_label={label: {"f1": Score(0.2, 0.1, 0.3, 9), "recall": Score(0.2, 0.1, 0.3, 9)}})
    text = card(facts, odd, Calibration(abstain_below=0.4), PROJECT)
    (line,) = (line for line in text.splitlines() if line.startswith("| refund"))
    assert line.replace("\\|", "").count("|") == 6
    assert "unless its probability is below 0.400" in text


def test_card_is_in_the_language_of_the_report(classifier: Made, tagger: Made) -> None:
    """Both languages tell of the same facts, section by section."""
    project = {**PROJECT, "evaluate": {"language": "zh"}}
    for made in (classifier, tagger):
        facts = files.read_json(made.folder / seal.BUNDLE)
        english, chinese = (card(facts, report(), Calibration(abstain_below=0.4), one) for one in (PROJECT, project))
        for text, limit in ((english, "at most 40 tokens"), (chinese, "最多读 40 个词元")):
            use, limits = use_and_limits(text)
            assert limit in limits
            assert use and "luban.load" not in use
        assert "适用语言：英语、中文" in chinese
        assert "0.400" in chinese
        for mark in ("\n## ", "\n- ", "\n| ", "`"):
            assert chinese.count(mark) >= english.count(mark)
        assert [line for line in english.splitlines() if line.startswith("| ---")] == [
            line for line in chinese.splitlines() if line.startswith("| ---")
        ]
