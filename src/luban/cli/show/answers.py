"""Answers: lines for a person in a terminal, JSON lines for a program, and the summary of a file's answers.

An answer to a text is the same JSON as the line of a file that `luban predict FILE -o answers.jsonl` writes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.cli.show import machine, words
from luban.errors import DataError, Problem
from luban.records import Prediction, Span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from luban.bundle.batch import Predicted
    from luban.bundle.engine import Engine
    from luban.cli.show import Show
    from luban.tasks import Task

N_SCORES = 10
"""How many labels are listed where a person asks for all scores; JSON has them all."""
DECIMALS = 6
"""Digits of a probability behind the point, as in a file of answers."""
_BLOCK_BYTES = 1 << 16


def nobody_writes_stdin() -> bool:
    """Return whether stdin is a terminal, so that to wait for lines would look like a hang."""
    return sys.stdin is None or sys.stdin.isatty()


def stdin_blocks() -> Iterator[list[str]]:
    """Yield the lines of stdin in blocks of what is there by then, so that a slow writer gets each answer at once.

    Raises:
        DataError: a line is not UTF-8; the message has its number.
    """
    waiting, n_lines = b"", 0
    while block := os.read(sys.stdin.fileno(), _BLOCK_BYTES):
        *lines, waiting = (waiting + block).split(b"\n")
        if lines:
            yield [_decoded(line, n_lines + number) for number, line in enumerate(lines, 1)]
            n_lines += len(lines)
    if waiting:
        yield [_decoded(waiting, n_lines + 1)]


def write(show: Show, bundle: Path, texts: Sequence[str] | Iterator[list[str]], *, scores: bool, threads: int) -> None:
    """Answer texts, or blocks of texts as they come, and write each block's answers at once.

    Args:
        show: decides between lines for a person and JSON lines.
        bundle: the sealed folder.
        texts: all at once, or blocks.
        scores: give every label's probability.
        threads: of the matrix products; 0 uses every core.
    """
    from luban.bundle.batch import blank_texts
    from luban.bundle.engine import Engine

    engine = Engine.open(bundle, threads=threads)
    blocks: Iterable[list[str]] = [list(texts)] if isinstance(texts, Sequence) else texts
    n_blank = 0
    for block in blocks:
        _write_block(show, engine, block, scores)
        n_blank += sum(not text.strip() for text in block)
    if n_blank:
        from luban.cli.show.progress import Silent

        Silent(show.err).note(blank_texts(n_blank))


def facts(text: str, prediction: Prediction, task: Task, *, scores: bool) -> dict[str, Any]:
    """Return an answer as JSON values: `label`, or `labels` where a text may have several, or `spans`."""
    if task.per_token:
        spans = [{**machine.plain(span), "score": round(span.score, DECIMALS)} for span in prediction.spans]
        return {"text": text, "spans": spans}
    many = bool(getattr(task, "multi_label", False))
    named: dict[str, Any] = {"labels": list(prediction.labels)} if many else {"label": prediction.label}
    found = {"text": text, **named, "score": round(prediction.score, DECIMALS)}
    if scores:
        found["scores"] = {label: round(score, DECIMALS) for label, score in prediction.scores.items()}
    return found


def draw(text: str, prediction: Prediction, *, scores: bool) -> Text:
    """Return one line: labels and probabilities, then the text; or the text with its entities marked.

    Args:
        text: as the user gave it.
        prediction: the engine's answer.
        scores: list the likeliest labels beneath.
    """
    from rich.text import Text

    if not prediction.scores:
        return _marked(text, prediction.spans)
    line = Text()
    for label in prediction.labels:
        line.append(words.safe(label), "bold green").append(f" {prediction.scores[label]:.2f}  ", "green")
    if not prediction.labels:
        line.append(f"no label, the likeliest has {prediction.score:.2f}  ", "yellow")
    line.append(words.safe(text))
    if scores:
        best = sorted(prediction.scores.items(), key=lambda item: -item[1])
        for label, score in best[:N_SCORES]:
            line.append(f"\n  {score:.3f}  {words.safe(label)}", "dim")
        if len(best) > N_SCORES:
            line.append(f"\n  and {len(best) - N_SCORES} more", "dim")
    return line


def write_rows(blocks: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    """Write rows of answers to stdout as JSON lines, each block at once, as a file of answers has them."""
    for block in blocks:
        sys.stdout.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in block)
        sys.stdout.flush()


def summary_facts(done: Predicted) -> dict[str, Any]:
    """Return what became of a file of answers, as JSON values; the answers are in the file."""
    return {key: value for key, value in machine.plain(done).items() if key != "answers"}


def summary(done: Predicted) -> RenderableType:
    """Return one line on what became of a file of answers."""
    from rich.text import Text

    line = Text.assemble(f"{words.counted(done.rows, 'row')} answered in ", str(done.output or "stdout"))
    details = [f"{words.seconds(done.seconds)}, {words.rate(done.rows_per_s)} rows/s"]
    if done.resumed:
        details.append(f"{words.count(done.resumed)} of them by a stopped call before")
    if done.abstained:
        details.append(f"{words.count(done.abstained)} with no label or entity")
    return line.append(f"  ({'; '.join(details)})", "dim")


def _write_block(show: Show, engine: Engine, texts: list[str], scores: bool) -> None:
    predictions = engine.predict(texts)
    if sys.stdout.isatty() and not show.json:
        for text, prediction in zip(texts, predictions, strict=True):
            show.out.print(draw(text, prediction, scores=scores))
        return
    for text, prediction in zip(texts, predictions, strict=True):
        sys.stdout.write(machine.line(facts(text, prediction, engine.task, scores=scores)) + "\n")
    sys.stdout.flush()


def _decoded(line: bytes, number: int) -> str:
    try:
        text = line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        got = f"bytes that are not UTF-8 (byte {error.start + 1} of the line)"
        problem = Problem("standard input", got, "UTF-8 text", number, "recode it, e.g. `iconv -f GB18030 -t UTF-8`")
        raise DataError([problem]) from error
    return text


def _marked(text: str, spans: tuple[Span, ...]) -> Text:
    from rich.text import Text

    line, at = Text(), 0
    for span in sorted(spans, key=lambda span: span.start):
        line.append(words.safe(text[at : span.start]))
        line.append(words.safe(text[span.start : span.end]), "bold green")
        line.append(f"[{words.safe(span.label)} {span.score:.2f}]", "green")
        at = span.end
    line.append(words.safe(text[at:]))
    if not spans:
        line.append("  no entities", "dim")
    return line
