"""The model folder for MLflow: what its files say, and MLflow itself, which loads, serves and registers it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import package_tools
import pytest
import yaml
from unit.bundle.made import Made, made, texts

from luban.bundle import packages
from luban.bundle.engine import Engine
from luban.bundle.packages import Source, mlflow
from luban.files import read_json, verify

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "one label": ("classify", {}), "several labels": ("classify", {"multi_label": True}), "entities": ("tag", {}),
}  # fmt: skip
READS = """
import json, sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
table = pandas.DataFrame({"text": json.load(sys.stdin), "more": 1}).iloc[::-1]
answers = model.predict(table)
refused = []
for wrong in ({"other": ["a"]}, {"text": [None]}):
    try:
        model.predict(pandas.DataFrame(wrong))
    except mlflow.MlflowException as error:
        refused.append([error.error_code, str(error)])
schemas = [json.loads(one.to_json()) for one in (model.metadata.get_input_schema(), model.metadata.get_output_schema())]
example = model.predict(model.input_example)
print(json.dumps([answers.to_dict("records"), answers.index.tolist(), list(example.columns), len(example), schemas,
                  refused, sys.modules["luban"].__file__]))
"""
REGISTERS = """
import os, sys
import mlflow, pandas
from mlflow.models import Model
mlflow.set_tracking_uri(sys.argv[2])
os.chdir(sys.argv[1])
code = open("README.md").read().partition("Into MLflow's registry:")[2].split("```python")[1].split("```")[0]
exec(code)
os.chdir("/")
model = mlflow.pyfunc.load_model("models:/made/1")
print(model.predict(pandas.DataFrame({"text": ["my card"]})).to_json(orient="records"))
"""


def package(it: Made, folder: Path) -> Path:
    packages.make("mlflow", Source(folder=it.folder, engine=Engine.open(it.folder)), folder, texts(8), "rows", 1e-3)
    return folder


def expected(engine: Engine, rows: list[str]) -> list[dict[str, Any]]:
    """Return the answers of the engine in the form of the table."""
    found: list[dict[str, Any]] = []
    for one in engine.predict(rows):
        if engine.task.per_token:
            names = ("start", "end", "label", "text")
            spans = [{**{name: getattr(it, name) for name in names}, "score": round(it.score, 6)} for it in one.spans]
            found.append({"spans": spans})
        else:
            many = getattr(engine.task, "multi_label", False)
            named = {"labels": list(one.labels)} if many else {"label": one.label}
            found.append({**named, "score": round(one.score, 6)})
    return found


def test_the_folder_says_what_mlflow_reads(classifier: Made, tmp_path: Path) -> None:
    folder = package(classifier, tmp_path / "it")
    told = yaml.safe_load((folder / mlflow.MODEL).read_text("utf-8"))
    flavour = told["flavors"]["python_function"]
    for name in (flavour["data"], flavour["code"], *flavour["env"].values()):
        assert (folder / name).exists()
    assert (folder / flavour["code"] / f"{flavour['loader_module']}.py").is_file()
    assert "python_model" not in flavour
    assert verify(folder / flavour["data"])["digest"] == told["metadata"]["luban"]["digest"]
    pins = (folder / "requirements.txt").read_text("utf-8").splitlines()
    assert set(mlflow.NEEDS) < set(pins) and all("==" in pin for pin in pins)
    assert yaml.safe_load((folder / "conda.yaml").read_text("utf-8"))["dependencies"][-1] == {"pip": pins}
    assert not list(folder.rglob("*.pkl")) and not list(folder.rglob("__pycache__"))


def test_the_example_is_nobodys(classifier: Made, tmp_path: Path) -> None:
    """It is spelt of the model's tokens, and no row of the data is in it."""
    example = read_json(package(classifier, tmp_path / "it") / "input_example.json")
    given = [row for (row,) in example["data"]]
    assert len(given) == 2 and all(given)
    assert not set(given) & set(texts(40))


@pytest.mark.parametrize("kind", KINDS)
def test_mlflow_answers_tables_as_the_engine(
    kind: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    python = package_tools.program("python", "mlflow")
    name, options = KINDS[kind]
    it = made(tmp_path_factory, name, "onnx", **options)
    folder, rows = package(it, tmp_path / "it"), texts(12, seed=4)
    ran = subprocess.run(
        [python, "-W", "ignore", "-c", READS, str(folder)], input=json.dumps(rows), capture_output=True, text=True,
        check=True, cwd=tmp_path, env=package_tools.environment(),
    )  # fmt: skip
    answers, index, columns, n_examples, schemas, refused, home = json.loads(ran.stdout)
    assert answers == expected(Engine.open(it.folder), rows[::-1])
    assert index == list(range(12))[::-1]
    assert columns == [column["name"] for column in schemas[1]] == list(answers[0])
    assert schemas == list(mlflow.signature(Source(folder=it.folder, engine=Engine.open(it.folder))))
    assert n_examples == 2
    assert [code for code, _ in refused] == ["INVALID_PARAMETER_VALUE"] * 2
    assert "row 0: got nothing (None), wanted a text" in refused[1][1]
    assert Path(home).parent == folder / "code" / "luban"


def test_mlflows_server_answers_as_the_engine(classifier: Made, engine: Engine, tmp_path: Path) -> None:
    program = package_tools.program("mlflow", "mlflow")
    folder, port = package(classifier, tmp_path / "it"), package_tools.free_port()
    command = [program, "models", "serve", "--model-uri", str(folder), "--env-manager", "local", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with package_tools.running([*command, "--host", "127.0.0.1"], f"{address}/ping", tmp_path) as process:
        rows = texts(6, seed=9)
        wanted = expected(engine, rows)
        split = {"dataframe_split": {"columns": ["text"], "data": [[row] for row in rows]}}
        for body in (split, {"dataframe_records": [{"text": row} for row in rows]}, {"inputs": {"text": rows}}):
            assert package_tools.post(f"{address}/invocations", body) == (200, {"predictions": wanted})
        status, refused = package_tools.post(f"{address}/invocations", {"dataframe_records": [{"text": None}]})
        assert status == 400 and "wanted a text" in refused["message"]
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_mlflows_registry_takes_it_as_the_readme_says(classifier: Made, engine: Engine, tmp_path: Path) -> None:
    python = package_tools.program("python", "mlflow")
    folder = package(classifier, tmp_path / "it")
    if not package_tools.has(python, "sqlalchemy"):
        pytest.skip("MLflow's registry needs sqlalchemy")
    ran = subprocess.run(
        [python, "-W", "ignore", "-c", REGISTERS, str(folder), f"sqlite:///{tmp_path}/ml.db"], capture_output=True,
        text=True, cwd=tmp_path, env=package_tools.environment(), check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout.splitlines()[-1]) == expected(engine, ["my card"])
