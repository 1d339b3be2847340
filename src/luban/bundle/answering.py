"""What stands beside a model in a package so that other programs can answer: tokeniser, settings, and a script.

The script, `answer.py`, needs the tool that the package is for, numpy and tokenizers, and nothing of Luban. When a
package is proven, it is run in a process of its own: what a reader is told to do has then been done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luban import files
from luban.bundle import parity
from luban.bundle.packages import Source, rendered
from luban.data import units
from luban.data.clean import STEPS
from luban.errors import LubanError, ParityFailed

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner
    from luban.records import Prediction

SCRIPT = "answer.py"
FACTS = "package.json"
TOKENIZER = "tokenizer.json"
CARD = "card.md"
SCRIPT_ROWS = 64
"""Rows that the script answers in the proof, one by one; the model itself is compared on all."""
_KINDS = ("classify", "tag")
_RUN = (
    "import json, sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1]); import {module} as it; "
    "json.dump({expression}, sys.stdout)"
)


def write(source: Source, folder: Path, kind: str) -> None:
    """Write tokeniser, settings, card, and the script for this kind of package."""
    engine = source.engine
    files.write_text(folder / TOKENIZER, engine.processor.tokenizer(of_units=engine.task.per_token))
    files.write_json(folder / FACTS, facts(source))
    files.write_text(folder / CARD, (source.folder / CARD).read_text("utf-8"))
    if engine.task.kind in _KINDS:
        files.write_text(folder / SCRIPT, script(source, kind))


def facts(source: Source) -> dict[str, Any]:
    """Return all that turns texts into windows and logits into answers, as JSON values."""
    engine = source.engine
    task, options = engine.task, source.facts["task"]["options"]
    found = {
        "name": engine.name, "bundle": engine.digest, "task": task.kind,
        "multi_label": bool(options.get("multi_label", False)), "labels": list(task.labels),
        **asdict(engine.calibration), **engine.processor.facts(),
    }  # fmt: skip
    if task.kind == "tag":
        found["units"] = units.pattern(characters=options.get("units") == "characters")
        found["transitions"] = engine.facts.get("transitions")
        found["stride"] = max(engine.processor.settings.stride, engine.processor.room // 4)
    return found


def script(source: Source, kind: str) -> str:
    """Return the text of `answer.py`."""
    return rendered("answer.py.jinja", kind=kind, **_told(source))


def readme(source: Source, kind: str, proof: Mapping[str, Any], **more: Any) -> str:
    """Return the text of `README.md`."""
    steps = {step: STEPS[step] for step in source.engine.processor.settings.clean}
    scripted = source.engine.task.kind in _KINDS
    return rendered(
        "graph.md.jinja", kind=kind, proof=proof, steps=steps, digest=source.engine.digest,
        script=script(source, kind) if scripted else "", **_told(source), **more,
    )  # fmt: skip


def prove(source: Source, folder: Path, runner: Runner, rows: Sequence[Any], max_difference: float) -> dict[str, Any]:
    """Compare the opened model's logits with the engine's, then the script's answers.

    Raises:
        ParityFailed: they differ.
    """
    engine = source.engine
    encoded = engine.encode(rows)
    found = parity.check_package(
        engine.runner, runner, encoded, pad_id=engine.processor.pad_id, per_token=engine.task.per_token,
        max_difference=max_difference,
    )  # fmt: skip
    if engine.task.kind in _KINDS:
        chosen = [rows[place] for place in np.linspace(0, len(rows) - 1, min(SCRIPT_ROWS, len(rows))).astype(int)]
        # Cleaning is Luban's: the script is given clean texts, as its users are told to give it.
        texts = engine.processor.clean([row if isinstance(row, str) else units.join(row) for row in chosen])
        answers = run(folder, "answer", "[it.answer(text) for text in json.load(sys.stdin)]", texts)
        # It leaves out no span for its probability where steps between tags were learned: it knows none there.
        all_spans = engine.facts.get("transitions") is not None
        calibration = replace(engine.calibration, abstain_below=0.0) if all_spans else engine.calibration
        judge = engine.calibrated(calibration)
        wanted = [judge.predict([text])[0] for text in texts]
        found |= {"script": compare_answers(wanted, answers, max_difference, f"{SCRIPT} of the package")}
    return found


def run(folder: Path, module: str, expression: str, given: Any, **environment: str) -> Any:
    """Run a module of a folder in a process of its own, which knows nothing of this one, on a JSON value.

    Args:
        folder: holds the module.
        module: its name.
        expression: what is wanted, over `it`, the module, and `sys.stdin`, the value as text.
        given: the value.
        environment: variables that the process has beside this one's.

    Raises:
        LubanError: it fails; the message has its last line.
    """
    code = _RUN.format(module=module, expression=expression)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.resolve())], input=json.dumps(given).encode(), capture_output=True,
        check=False, cwd=folder, env={**os.environ, **environment},
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise LubanError(
            f"{module}.py of the package can't be run: {lines[-1][:300] if lines else 'it said nothing'}",
            hint="please report this, with the bundle's task and runtime",
        )
    return json.loads(done.stdout)


def compare_answers(
    wanted: Sequence[Prediction], answers: Sequence[Mapping[str, Any]], max_difference: float, what: str
) -> dict[str, Any]:
    """Compare answers in JSON's form with the engine's.

    Raises:
        ParityFailed: a probability differs by more than is allowed, or more labels than ties can.
    """
    largest = max((_apart(one, answer) for one, answer in zip(wanted, answers, strict=True)), default=0.0)
    share = float(np.mean([_named(one) == _said(answer) for one, answer in zip(wanted, answers, strict=True)]))
    agree = parity.labels_agree(max_difference)
    if not largest <= max_difference or share < agree:
        measured, allowed = (largest, max_difference) if not largest <= max_difference else (share, agree)
        raise ParityFailed(
            f"{what} gives the engine's labels for {share:.2%} of {len(wanted)} rows, and probabilities that differ by "
            f"{largest:.2g}; wanted {agree:.1%} and {max_difference:.2g}",
            measured=measured, allowed=allowed, hint="accept more by `--max-difference`",
        )  # fmt: skip
    return {"max_difference": largest, "allowed": max_difference, "labels_agree": share, "n": len(wanted)}


def _apart(wanted: Prediction, answer: Mapping[str, Any]) -> float:
    """Return how far an answer's probabilities are from the engine's; spans that differ are a matter of labels."""
    if "spans" not in answer:
        return abs(wanted.score - float(answer["score"]))
    if _named(wanted) != _said(answer):
        return 0.0
    pairs = zip(wanted.spans, answer["spans"], strict=True)
    return max((abs(span.score - told["score"]) for span, told in pairs if "score" in told), default=0.0)


def _named(wanted: Prediction) -> list[Any]:
    return [(span.start, span.end, span.label) for span in wanted.spans] or list(wanted.labels)


def _said(answer: Mapping[str, Any]) -> list[Any]:
    if "spans" in answer:
        return [(span["start"], span["end"], span["label"]) for span in answer["spans"]]
    return list(answer["labels"]) if "labels" in answer else [answer["label"]] if answer["label"] else []


def _told(source: Source) -> dict[str, Any]:
    """Return what both templates tell apart."""
    engine, task = source.engine, source.facts["task"]
    return {
        "name": engine.name, "task": task["kind"], "labels": list(engine.labels),
        "many": bool(task["options"].get("multi_label", False)), "long_text": engine.processor.settings.long_text,
        "learned": engine.facts.get("transitions") is not None, "n_outputs": engine.task.n_outputs,
        "per_token": engine.task.per_token, "max_length": engine.processor.settings.max_length,
    }  # fmt: skip
