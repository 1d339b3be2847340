"""What every entry of the tasks catalogue promises. A new task falls into the table by its name alone.

The rows have a column of every kind, so that each task finds its own: `labels` for whole texts, `tokens` and `tags`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luban import plugins, tasks
from luban.models import tiny
from luban.models.processor import Processor, ProcessorSettings
from luban.records import Calibration, Encoded, Prediction, Score

LABELS = ("LOC", "PER")
VARIANTS: Mapping[str, list[dict[str, Any]]] = {
    "classify": [{}, {"multi_label": True}, {"long_text": "chunk"}, {"long_text": "head_tail"}],
    "tag": [{}, {"crf": True}, {"units": "characters", "stride": 4}],
}
CASES = [
    pytest.param(kind, options, id=f"{kind}{json.dumps(options)}")
    for kind in tasks.catalogue.names()
    for options in VARIANTS.get(kind, [{}])
]
LONG = [f"word{number}" for number in range(30)]
ROWS: list[tuple[list[str], list[str], list[str]]] = [
    (["Ada", "met", "Li", "Wei"], ["B-PER", "O", "B-PER", "I-PER"], ["PER"]),
    (list("北京很大"), ["B-LOC", "I-LOC", "O", "O"], ["LOC"]),
    (LONG, ["O"] * 27 + ["B-LOC", "I-LOC", "O"], ["LOC"]),
    (["London"], ["B-LOC"], ["LOC"]),
    (["Ada"], ["B-PER"], ["PER"]),
]
SETTINGS = ("long_text", "stride")


def table() -> pa.Table:
    """Return the rows as a Dataset's table."""
    from luban.data.units import join

    strings = pa.list_(pa.string())
    return pa.table({
        "row": pa.array(range(1, len(ROWS) + 1), pa.int64()), "text": pa.array([join(row[0]) for row in ROWS]),
        "tokens": pa.array([row[0] for row in ROWS], strings), "tags": pa.array([row[1] for row in ROWS], strings),
        "labels": pa.array([row[2] for row in ROWS], strings),
    })  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny base."""
    return tiny.make(tmp_path_factory.mktemp("tasks") / "base").folder


def open_processor(base: Path, task: Any) -> Processor:
    """Return a processor with a short window, set up as the task's options say."""
    chosen = {name: getattr(task.options, name) for name in SETTINGS if hasattr(task.options, name)}
    settings = ProcessorSettings(max_length=24, **chosen)
    return Processor(settings, (base / "tokenizer.json").read_text("utf-8"))


def perfect(encoded: Encoded, task: tasks.Task) -> np.ndarray:
    """Return logits that are sure of the targets: (T, K) or (W, K)."""
    targets = encoded.targets
    assert targets is not None
    if targets.ndim == 2:
        return (targets * 16 - 8).astype(np.float32)
    logits = np.zeros((len(targets), task.n_outputs), np.float32)
    asked = np.flatnonzero(targets >= 0)
    logits[asked, targets[asked]] = 8.0
    return logits


def noise(encoded: Encoded, task: tasks.Task) -> np.ndarray:
    """Return random logits, (T, K) or (W, K)."""
    n = len(encoded.ids) if task.per_token else len(encoded)
    return np.random.default_rng(3).normal(0, 2, (n, task.n_outputs)).astype(np.float32)


def facts(task: tasks.Task) -> dict[str, Any]:
    """Return the facts of an untrained head, as they come back from a file."""
    kept: dict[str, Any] = json.loads(json.dumps(task.facts(task.head(8, dropout=0.0, pooling="mean"))))
    return kept


def pad(encoded: Encoded, task: tasks.Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask (W, L) and targets, (W, L) for a task over tokens, of all windows in one batch."""
    steps = np.arange(encoded.lengths.max())
    mask = steps < encoded.lengths[:, None]
    targets = encoded.targets
    assert targets is not None
    if not task.per_token:
        return mask, targets
    padded = np.full(mask.shape, -100, np.int64)
    padded[mask] = targets
    return mask, padded


@pytest.mark.parametrize(("kind", "options"), CASES)
class TestTask:
    """One task with one set of options."""

    def test_options_are_frozen_and_documented(self, kind: str, options: dict[str, Any], base: Path) -> None:
        made = tasks.catalogue.load(kind).Options
        assert dataclasses.is_dataclass(made) and made.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert {field.name for field in dataclasses.fields(made)} == set(plugins.field_docs(made))
        task = tasks.make(kind, options, LABELS)
        assert (task.kind, task.labels) == (kind, LABELS)
        assert task.n_outputs >= len(LABELS)
        assert tasks.catalogue.about(kind)

    def test_targets_fit_the_windows(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        encoded = task.encode(table(), open_processor(base, task))
        assert encoded.n_rows == len(ROWS)
        assert sorted({*encoded.rows.tolist()}) == list(range(len(ROWS)))
        assert encoded.lengths.max() <= 24
        targets = encoded.targets
        assert targets is not None and len(targets) == (len(encoded.ids) if task.per_token else len(encoded))
        if targets.ndim == 1:
            assert targets.dtype == np.int64
            assert targets.max() < task.n_outputs and set(targets[targets < 0].tolist()) <= {-100}
        else:
            assert targets.dtype == np.float32 and targets.shape[1] == task.n_outputs

    def test_what_a_user_gives_is_encoded_as_the_table_is(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        processor = open_processor(base, task)
        wanted, found = task.encode(table(), processor), task.encode(task.inputs(table()), processor)
        for name in ("ids", "offsets", "rows", "units"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))

    def test_a_row_is_answered_as_it_would_be_alone(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        processor, held = open_processor(base, task), facts(task)
        rows = task.inputs(table())
        encoded = task.encode(rows, processor)
        logits = noise(encoded, task)
        together = task.decode(logits, encoded, rows, Calibration(), held)
        per_window = np.split(np.arange(len(encoded.ids)), encoded.offsets[1:-1]) if task.per_token else None
        for number, row in enumerate(rows):
            alone = task.encode([row], processor)
            windows = np.flatnonzero(encoded.rows == number)
            np.testing.assert_array_equal(alone.lengths, encoded.lengths[windows])
            own = windows if per_window is None else np.concatenate([per_window[window] for window in windows])
            (answer,) = task.decode(logits[own], alone, [row], Calibration(), held)
            assert answer.labels == together[number].labels
            assert dict(answer.scores) == pytest.approx(dict(together[number].scores))
            assert [dataclasses.replace(span, score=0.0) for span in answer.spans] == [
                dataclasses.replace(span, score=0.0) for span in together[number].spans
            ]
            assert [span.score for span in answer.spans] == pytest.approx([s.score for s in together[number].spans])

    def test_sure_logits_give_the_gold_and_the_best_score(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        encoded = task.encode(table(), open_processor(base, task))
        found = task.decode(perfect(encoded, task), encoded, task.inputs(table()), Calibration(), facts(task))
        assert len(found) == len(ROWS) and all(isinstance(answer, Prediction) for answer in found)
        gold = task.gold(table())
        shifted = [*gold[1:], gold[0]]
        scores = task.score(gold, found)
        assert scores[task.main_score].value == 1.0
        assert all(isinstance(score, Score) and score.low <= score.value <= score.high for score in scores.values())
        worse = task.score(shifted, found)[task.main_score]
        assert worse.value < 1.0
        quick = task.score(shifted, found, intervals=False)[task.main_score]
        assert quick.low == quick.value == quick.high == pytest.approx(worse.value)

    def test_calibration_helps_and_is_made_of_json_values(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        encoded = task.encode(table(), open_processor(base, task))
        logits = perfect(encoded, task) + noise(encoded, task)
        wanted: dict[str, Any] = {"temperature": True, "thresholds": "f1", "wanted_precision": 0.5}
        found = task.calibrate(logits, encoded, task.gold(table()), **wanted, facts=facts(task))
        assert found == Calibration(**{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(json.dumps(dataclasses.asdict(found))).items()
        })  # fmt: skip
        assert found.temperature > 0
        assert len(task.decode(logits, encoded, task.inputs(table()), found, facts(task))) == len(ROWS)

    def test_no_rows_have_no_answers(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        encoded = task.encode([], open_processor(base, task))
        assert (len(encoded), encoded.n_rows) == (0, 0)
        assert task.decode(noise(encoded, task), encoded, [], Calibration(), facts(task)) == []

    def test_odd_texts_are_answered(self, kind: str, options: dict[str, Any], base: Path) -> None:
        task = tasks.make(kind, options, LABELS)
        rows = ["", " ", "\u200b", "\x00", "\ud7ff\U0010ffff", "👩‍👩‍👧", "\u0301", "a" * 300, "é" * 40]
        encoded = task.encode(rows, open_processor(base, task))
        assert len(task.decode(noise(encoded, task), encoded, rows, Calibration(), facts(task))) == len(rows)

    def test_the_head_ignores_padding_and_the_loss_learns(self, kind: str, options: dict[str, Any], base: Path) -> None:
        import torch

        task = tasks.make(kind, options, LABELS)
        encoded = task.encode(table(), open_processor(base, task))
        mask, targets = (torch.from_numpy(part) for part in pad(encoded, task))
        torch.manual_seed(0)
        head = task.head(8, dropout=0.0, pooling="mean").eval()
        hidden = torch.randn(*mask.shape, 8)
        logits = head(hidden, mask.long())
        assert logits.shape == ((*mask.shape, task.n_outputs) if task.per_token else (len(mask), task.n_outputs))
        shortest = int(encoded.lengths.argmin())
        length = int(encoded.lengths[shortest])
        alone = head(hidden[shortest : shortest + 1, :length], torch.ones(1, length).long())[0]
        inside = logits[shortest, :length] if task.per_token else logits[shortest]
        torch.testing.assert_close(alone, inside)

        optimiser = torch.optim.Adam(head.parameters(), 0.1)
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            value = task.loss(head(hidden, mask.long()), targets, mask.long(), head)
            assert value.shape == () and bool(torch.isfinite(value))
            value.backward()
            optimiser.step()
            losses.append(value.item())
        assert losses[-1] < 0.7 * losses[0]
        logits = head(hidden, mask.long())
        plain = task.loss(logits, targets, mask.long(), head).item()
        even = task.loss(logits, targets, mask.long(), head, weights=torch.ones(task.n_outputs)).item()
        assert even == pytest.approx(plain, rel=1e-5)
        smooth = task.loss(logits, targets, mask.long(), head, smoothing=0.2)
        assert bool(torch.isfinite(smooth)) and smooth.item() > plain


def test_encoding_decoding_and_scoring_import_no_torch(base: Path) -> None:
    cases = [(kind, options) for kind in tasks.catalogue.names() for options in VARIANTS.get(kind, [{}])]
    held = {f"{kind}{options}": facts(tasks.make(kind, options, LABELS)) for kind, options in cases}
    program = textwrap.dedent("""
        import sys, json
        from pathlib import Path
        import numpy as np
        from luban import tasks
        from luban.models.processor import Processor, ProcessorSettings
        from luban.records import Calibration

        base, cases, held = json.loads(sys.stdin.read())
        processor = Processor(ProcessorSettings(max_length=24), (Path(base) / "tokenizer.json").read_text("utf-8"))
        for kind, options in cases:
            task = tasks.make(kind, options, ["LOC", "PER"])
            rows = ["Ada met Li", "北京很大"]
            encoded = task.encode(rows, processor)
            n = len(encoded.ids) if task.per_token else len(encoded)
            logits = np.random.default_rng(0).normal(size=(n, task.n_outputs))
            found = task.decode(logits, encoded, rows, Calibration(), held[f"{kind}{options}"])
            gold = [answer.spans if task.per_token else answer.labels for answer in found]
            task.score(gold, found)
        heavy = {"torch", "transformers", "sklearn", "scipy", "pandas", "matplotlib", "accelerate"} & set(sys.modules)
        sys.exit(f"imported: {sorted(heavy)}" if heavy else 0)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps([str(base), cases, held]), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
