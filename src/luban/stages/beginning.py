"""`luban init`: look at a data file, measure, and write a project with every value and its reason."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.inspect import Look, look
from luban.data.raw import Named
from luban.data.read import read
from luban.data.sources import open_source
from luban.errors import Conflict, DataError
from luban.files import read_json, write_text
from luban.models import base as base_room
from luban.models.facts import BaseFolder
from luban.models.processor import Processor, ProcessorSettings
from luban.project import advise as advising
from luban.project.advise import Advice, BaseSize, Facts, Lengths
from luban.project.load import load
from luban.project.schema import Project
from luban.project.write import project_name, to_yaml
from luban.records import Dataset, Listener, Progress, ignore

SAMPLE_ROWS = 5_000
"""Rows whose lengths are measured."""
PROBE_ROWS = 2_000
"""Rows that the first linear probe sees."""
_SPEED_ROWS = 32
_SPEED_TIMES = 3


@dataclass(frozen=True)
class InitResult:
    """What `init` wrote and why."""

    path: Path
    project: Project
    advice: Sequence[Advice]
    look: Look


def init(
    data: Path,
    *,
    out: Path = Path("luban.yaml"),
    name: str | None = None,
    text: str | None = None,
    label: str | None = None,
    separator: str | None = None,
    task: str | None = None,
    base: str | None = None,
    test: Path | None = None,
    validation: Path | None = None,
    probe: bool = True,
    force: bool = False,
    on_progress: Listener = ignore,
) -> InitResult:
    """Write a project file for a data file.

    Args:
        data: labelled rows.
        out: where to write; its folder is the project's, and the data's paths are written relative to it.
        name: of the project; without it that of the data file.
        text: column of the text; found by looking where it is not given, as are label, separator and task.
        label: column of the labels.
        separator: what stands between several labels of a row.
        task: `classify` or `tag`.
        base: a name, folder or hub id; chosen by language where it is not given.
        test: rows for the final scores alone.
        validation: rows to choose by.
        probe: measure the base here: a linear probe's accuracy, and how fast bf16 is.
        force: replace a project file that is there.
        on_progress: told how far it has come.

    Raises:
        Conflict: `out` is there already.
        DataError: a file can't be read, columns can't be told apart, or the test or validation rows lack those of the
            training rows; the message says what to pass.
    """
    if not data.exists():
        open_source(data)  # says so, and what is near it: whoever mistyped it has no project file to replace
    if out.exists() and not force:
        raise Conflict(f"{out} is there already", hint="choose another file with --out, or replace it with --force")
    beside = [path for path in (validation, test) if path is not None]
    _try(beside, open_source)
    on_progress(Progress("init", f"looking at {data.name}"))
    seen = look(data, text=text, label=label, separator=separator, task=task)
    _try(beside, lambda path: read(path, Named(seen.text, seen.label, seen.separator), seen.task))
    rows = seen.dataset
    facts = _facts(seen, rows, data, out.resolve().parent, base, test, validation)
    chosen = base or advising.base_for(facts.languages, [listing.name for listing in base_room.bases()])[0]
    found = base_room.find(chosen, out.resolve().parent, on_progress=on_progress)
    facts = replace(facts, base=base, size=_size(found), lengths=_token_lengths(found, rows))
    if probe:
        facts = _measured(facts, found, rows, on_progress)
    advice = advising.advise(facts)
    write_text(out, to_yaml(project_name(name or data.stem), advice))
    return InitResult(out, load(out).project, advice, seen)


def _try(files: Sequence[Path], use: Callable[[Path], object]) -> None:
    """Use every file, and raise what is wrong with all of them in one DataError."""
    errors = []
    for file in files:
        try:
            use(file)
        except DataError as error:
            errors.append(error)
    if errors:
        problems = [problem for error in errors for problem in error.problems]
        source = " and ".join(error.source for error in errors)
        raise DataError(problems, source=source, total=sum(error.total for error in errors))


def _facts(
    seen: Look, rows: Dataset, data: Path, root: Path, base: str | None, test: Path | None, validation: Path | None
) -> Facts:
    counts = sorted(seen.labels.values()) or [0]

    def relative(path: Path | None) -> str | None:
        return None if path is None else Path(os.path.relpath(path.resolve(), root)).as_posix()

    return Facts(
        task=seen.task, train=relative(data) or "", n_rows=len(rows), n_labels=len(seen.labels),
        text=seen.text, label=seen.label, text_why=seen.text_why, label_why=seen.label_why,
        rows_per_label=(counts[0], counts[len(counts) // 2], counts[-1]), multi_label=seen.multi_label,
        separator=seen.separator, validation=relative(validation), test=relative(test), languages=seen.languages,
        html_share=seen.html_share, full_width_share=seen.full_width_share, traditional_share=seen.traditional_share,
        single_character_share=seen.single_character_share, bases=[listing.name for listing in base_room.bases()],
        base=base,
    )  # fmt: skip


def _size(base: BaseFolder) -> BaseSize:
    """Return what the base's configuration tells of its size."""
    config = read_json(base.folder / "config.json")
    width, layers = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    embeddings = config.get("vocab_size", 0) * config.get("embedding_size", width)
    body = layers * (4 * width * width + 2 * width * config.get("intermediate_size", 4 * width))
    return BaseSize(
        width=width, n_layers=layers, window_tokens=base.facts.max_length,
        embedding_share=embeddings / max(embeddings + body, 1),
    )  # fmt: skip


def _processor(base: BaseFolder) -> Processor:
    settings = ProcessorSettings(max_length=base.facts.max_length, prefix=base.facts.prefix)
    return Processor(settings, (base.folder / "tokenizer.json").read_text("utf-8"))


def _token_lengths(base: BaseFolder, rows: Dataset) -> Lengths:
    lengths = _processor(base).lengths(_sample(rows, SAMPLE_ROWS).column("text").to_pylist())
    p50, p95, p99 = np.percentile(lengths, [50, 95, 99]).round().astype(int).tolist()
    return Lengths(p50=p50, p95=p95, p99=p99, longest=int(lengths.max()))


def _sample(rows: Dataset, at_most: int) -> Any:
    if len(rows) <= at_most:
        return rows.table
    return rows.table.take(np.sort(np.random.default_rng(0).choice(len(rows), at_most, replace=False)))


def _measured(facts: Facts, base: BaseFolder, rows: Dataset, on_progress: Listener) -> Facts:
    """Return the facts with what the base does here: the speed of bf16, and for classify what a linear probe says."""
    from luban.data.check import suspects
    from luban.metrics.calibrate import softmax
    from luban.models.body import load_body
    from luban.tasks import make
    from luban.train import probe as linear

    on_progress(Progress("init", "measuring the base on this machine"))
    body = load_body(base)
    processor = _processor(base)
    texts = _sample(rows, _SPEED_ROWS).column("text").to_pylist()
    facts = replace(facts, bf16_speedup=bf16_speedup(body, processor, texts))
    if facts.task != "classify" or facts.multi_label:
        return facts
    table = _sample(rows, PROBE_ROWS)
    labels = sorted({label for row in table.column("labels").to_pylist() for label in row})
    task = make("classify", {}, labels)
    encoded = task.encode(table, processor)
    assert encoded.targets is not None
    started = time.monotonic()

    def count(done: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        left = (len(encoded) - done) / rate
        on_progress(Progress("init", "linear probe", done, len(encoded), rate=rate, left_s=left))

    bf16 = (facts.bf16_speedup or 0.0) > 1.0
    x = linear.features(
        body, encoded, pooling=base.facts.pooling, per_token=False, pad_id=processor.pad_id, bf16=bf16, on_rows=count
    )
    penalty = linear.fit(x, encoded.targets, len(labels), seed=0).penalty  # once: each fold would choose much the same
    logits = linear.out_of_fold(x, encoded.targets, len(labels), seed=0, penalty=penalty)
    right = encoded.targets[:, None] == np.arange(len(labels))
    doubted = suspects(right, softmax(logits))
    return replace(
        facts, probe=float((logits.argmax(1) == encoded.targets).mean()), suspect_share=len(doubted) / len(encoded)
    )


def bf16_speedup(body: Any, processor: Processor, texts: Sequence[str]) -> float:
    """Return how many times as fast a training pass over some texts is in bf16 as in fp32, measured here and now."""
    import torch

    from luban.models.windows import pad
    from luban.train import dropout

    encoded = processor.encode_texts(texts)
    # Those of middle length: batches in training are of like lengths, too, and hardly padded.
    ordered = np.argsort(encoded.lengths, kind="stable")
    padded = pad(encoded, ordered[len(ordered) // 4 : -(-3 * len(ordered) // 4)], processor.pad_id)
    batch = {name: torch.from_numpy(array) for name, array in padded.items()}

    body = copy.deepcopy(body).train()
    noise = dropout.install(body, body)  # as in training, where attention is another kernel

    def once(bf16: bool) -> float:
        noise.begin(0, 0)
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = body(**batch).last_hidden_state.float().mean()
        loss.backward()
        return time.perf_counter() - started

    took: Mapping[bool, list[float]] = {False: [], True: []}
    for _ in range(_SPEED_TIMES + 1):
        for bf16 in (False, True):
            took[bf16].append(once(bf16))
    return min(took[False][1:]) / min(took[True][1:])  # the first pass of each warms up
