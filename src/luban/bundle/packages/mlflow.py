"""MLflow: a model folder of the flavour python_function, for `mlflow models serve`, batch jobs and MLflow's registry.

The folder is written here, without MLflow, and holds no pickle: MLflow imports a module of `code/`, which opens the
bundle with the Luban beside it. (MLflow's documentation, "Python Function: loader_module" and "MLmodel file".)
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from luban import files
from luban.bundle import answering, own
from luban.bundle.packages import Source, rendered
from luban.bundle.reference import made_up
from luban.errors import LubanError

MODEL = "MLmodel"
NEEDS = ("mlflow-skinny==3.17.2", "pandas==3.1.1")
"""What serves it, as tested. The whole of MLflow asks for older versions of packages than Luban's pins."""
_CODE = Path(__file__).with_name("luban_model.py.txt")
_MODULE = "luban_model"
_EXAMPLE, _REQUEST = "input_example.json", "serving_input_example.json"
_DECIMALS = 1e-6
"""The code gives probabilities so far."""
_TEXT = {"type": "string", "name": "text", "required": True}
_SCORE = {"type": "double", "name": "score", "required": True}
_SPAN = {
    "start": {"type": "long", "required": True}, "end": {"type": "long", "required": True},
    "label": {"type": "string", "required": True}, "text": {"type": "string", "required": True},
    "score": {"type": "double", "required": True},
}  # fmt: skip


def write(source: Source, folder: Path) -> None:
    """Write the model: the bundle, the code, Luban, the signature, an example that is nobody's, and what to install.

    Raises:
        LubanError: Luban is not installed as a package here, so that what it needs isn't known.
    """
    code = folder / "code"
    code.mkdir()
    shutil.copytree(source.folder, folder / "bundle")
    own.copy(code / "luban")
    shutil.copyfile(_CODE, code / f"{_MODULE}.py")
    texts = example(source)
    files.write_json(folder / _EXAMPLE, {"columns": ["text"], "data": [[text] for text in texts]})
    split = {"columns": ["text"], "data": [[text] for text in texts]}
    files.write_json(folder / _REQUEST, {"dataframe_split": split})
    needs = sorted([*NEEDS, *own.requirements(source.runtime)])
    files.write_text(folder / "requirements.txt", "\n".join(needs) + "\n")
    python = platform.python_version()
    builds = ["pip", "setuptools", "wheel"]
    _write_yaml(
        folder / "python_env.yaml",
        {"python": python, "build_dependencies": builds, "dependencies": ["-r requirements.txt"]},
    )
    dependencies = [f"python={python}", "pip", {"pip": needs}]
    _write_yaml(
        folder / "conda.yaml",
        {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": dependencies},
    )
    _write_yaml(folder / MODEL, described(source))


def described(source: Source) -> dict[str, Any]:
    """Return what `MLmodel` says."""
    engine = source.engine
    flavour = {
        "loader_module": _MODULE, "code": "code", "data": "bundle", "python_version": platform.python_version(),
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}, "streamable": False,
    }  # fmt: skip
    told = {"name": engine.name, "digest": engine.digest, "task": engine.task.kind, "labels": list(engine.labels)}
    inputs, outputs = signature(source)
    return {
        "flavors": {"python_function": flavour},
        "mlflow_version": NEEDS[0].partition("==")[2],
        "metadata": {"luban": told},
        "saved_input_example_info": {
            "artifact_path": _EXAMPLE, "serving_input_path": _REQUEST, "type": "dataframe", "pandas_orient": "split",
        },
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
    }  # fmt: skip


def signature(source: Source) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the columns that go in and those that come out, as MLflow's schemas write them."""
    if source.engine.task.per_token:
        spans = {"type": "array", "items": {"type": "object", "properties": _SPAN}}
        return [_TEXT], [{**spans, "name": "spans", "required": True}]
    if getattr(source.engine.task, "multi_label", False):
        labels = {"type": "array", "items": {"type": "string"}, "name": "labels", "required": True}
        return [_TEXT], [labels, _SCORE]
    # An answer below `abstain_below` has no label.
    return [_TEXT], [{"type": "string", "name": "label", "required": False}, _SCORE]


def example(source: Source) -> list[str]:
    """Return two texts made up out of the drift reference's tokens: no user ever wrote them."""
    tokens = made_up(files.read_json(source.folder / "reference.json"), 2)
    return list(source.engine.processor.decode(tokens))


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Load the model in a process of its own, which has the Luban beside it alone: with MLflow where it is installed.

    The signature takes texts, so that rows of tokens are compared as the texts that they make.
    """
    from luban.data import units

    texts = [row if isinstance(row, str) else units.join(row) for row in rows]
    where = folder.resolve()
    if by_mlflow := importlib.util.find_spec("mlflow") is not None:
        expression = (
            "(lambda table: [sys.modules['luban_model'].HOME, table.to_dict('records')])"
            "(it.load_model(sys.argv[1]).predict(__import__('pandas').DataFrame({'text': json.load(sys.stdin)})))"
        )
        home, answers = answering.run(where, "mlflow.pyfunc", expression, texts)
    else:
        expression = "[it.HOME, it._load_pyfunc(sys.argv[1] + '/../bundle').predict(json.load(sys.stdin))]"
        home, answers = answering.run(where / "code", _MODULE, expression, texts)
    if Path(home) != where / "code" / "luban":
        raise LubanError(f"the model's code took Luban from {home}", hint="please report this")
    wanted = source.engine.predict(texts)
    found = answering.compare_answers(wanted, answers, max_difference + _DECIMALS, "the model's code")
    return {**found, "opened_by": f"MLflow {metadata.version('mlflow')}" if by_mlflow else "its code alone"}


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to serve it, how to answer a table with it, and how to register it."""
    engine = source.engine
    return rendered(
        "mlflow.md.jinja", name=engine.name, digest=engine.digest, labels=list(engine.labels), proof=proof,
        per_token=engine.task.per_token, many=bool(getattr(engine.task, "multi_label", False)),
        mlflow=NEEDS[0], version=metadata.version("luban"),
    )  # fmt: skip


def _write_yaml(path: Path, value: Any) -> None:
    files.write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000))
