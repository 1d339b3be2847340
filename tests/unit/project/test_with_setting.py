"""A setting that was measured is written into a project file without touching its other lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.project.load import parse
from luban.project.write import with_setting

HEAD = 'name: a  # mine\ntask: {kind: classify}\nbase: minilm-l6\ndata:\n  train: "a.csv"\n'
PLAN = [{"kind": "vocabulary"}, {"kind": "quantise", "how": "dynamic", "bits": 8}]


@pytest.mark.parametrize(
    "section",
    [
        "",
        "compress:\n  lose_at_most: 0.01  # as agreed\n",
        "compress:  # small\n  plan: []   # none yet\n  lose_at_most: 0.01\n",
        "compress:\n  plan:\n    - {kind: quantise}\n    - kind: vocabulary\n  lose_at_most: 0.01\nexport: {}\n",
        "compress:\n  plan:\n  - {kind: quantise}\n  lose_at_most: 0.01\n",
        "compress: {lose_at_most: 0.01}\nexport: {runtime: onnx}\n",
    ],
)
def test_only_the_plan_changes(section: str, tmp_path: Path) -> None:
    before = parse(HEAD + section, root=tmp_path).project
    text = with_setting(HEAD + section, "compress", "plan", PLAN)
    after = parse(text, root=tmp_path).project
    assert [step.kind for step in after.compress.plan] == ["vocabulary", "quantise"]
    assert after.compress.lose_at_most == before.compress.lose_at_most
    assert after.export == before.export
    assert "# mine" in text
    assert ("# as agreed" in text) == ("# as agreed" in section)
    assert with_setting(text, "compress", "plan", PLAN) == text


def test_a_reason_stands_beside_the_value_in_the_column_of_the_others(tmp_path: Path) -> None:
    section = "export:\n  runtime: onnx       # what executes the bundle\n  threads: 0          # threads\n"
    text = with_setting(HEAD + section, "export", "runtime", "openvino", "twice as fast here")
    assert "  runtime: openvino   # twice as fast here\n  threads: 0          # threads\n" in text
    assert parse(text, root=tmp_path).project.export.runtime == "openvino"
    text = with_setting(HEAD, "export", "threads", 2, "measured")
    assert text.endswith("\nexport:\n  threads: 2  # measured\n")
    assert parse(text, root=tmp_path).project.export.threads == 2
