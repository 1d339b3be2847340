"""From a bundle to an answer nothing imports torch, transformers or scikit-learn; a bundle answers anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luban.models.base import BaseFolder

TEXTS = ["where is my card?", "我的卡还没到", "", "a " * 300, "\ud800 x"]
LABELS = {"classify": ("arrival", "支付", "other"), "tag": ("PER", "地点")}
FORBID = """
import sys
asked = []
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sklearn", "accelerate", "peft", "onnx", "scipy"):
            asked.append(name)
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)
sys.meta_path.insert(0, Forbid())
"""


def test_a_server_without_a_registry_opens_no_library_of_databases() -> None:
    """It takes a quarter of a second, which each process would wait for before its first answer."""
    code = "import sys, luban.serve.process; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    opened = set(done.stdout.split())
    assert "luban" in opened and not opened & {"sqlalchemy", "alembic", "pysqlite3", "psycopg"}


@pytest.fixture(scope="module", params=["classify", "tag"])
def bundle(request: pytest.FixtureRequest, tiny: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sealed bundle over a tiny random model, made as `luban run` makes one."""
    import torch

    from luban.bundle import runtimes, seal
    from luban.files import new_folder
    from luban.files import seal as seal_folder
    from luban.models.base import load_body
    from luban.models.heads import TaskModel
    from luban.models.processor import Processor, ProcessorSettings
    from luban.project import load, lock
    from luban.records import Calibration, Report, Score
    from luban.tasks import make

    folder = tmp_path_factory.mktemp(request.param)
    text = f"name: tiny\ntask: {request.param}\nbase: ./base\ndata: {{train: a.csv, languages: [en, zh]}}\n"
    project = load.parse(text, root=folder).project
    task = make(project.task.kind, dict(project.task.options), LABELS[request.param])
    torch.manual_seed(0)
    body = load_body(tiny)
    head = task.head(body.config.hidden_size, dropout=0.0, pooling=tiny.facts.pooling)
    model = TaskModel(body, head).eval()
    tokenizer = (tiny.folder / "tokenizer.json").read_text("utf-8")
    processor = Processor(ProcessorSettings(max_length=32, clean=project.data.clean), tokenizer)
    example = task.encode(TEXTS[:2], processor)
    with new_folder(folder / "graph") as graph:
        facts = runtimes.write("onnx", model, graph, example)
        seal_folder(graph, {"kind": "graph"})
    score = Score(0.5, 0.4, 0.6, 10)
    report = Report("tiny", request.param, {task.main_score: score}, {}, {}, {"data": "0" * 64, "project": "0" * 64})
    made = seal.seal(
        folder / "bundle",
        name="tiny",
        task={
            "kind": task.kind,
            "options": dict(project.task.options),
            "labels": task.labels,
            "facts": task.facts(head),
        },
        base=tiny.facts,
        runtime=facts,
        graph=folder / "graph",
        processor=processor,
        calibration=Calibration(),
        report=report,
        reference={},
        project=lock.resolved(project),
        languages=["en", "zh"],
    )
    return made.folder


def run(script: str, *arguments: str, cwd: Path | None = None) -> Any:
    command = [sys.executable, "-c", FORBID + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ANSWER = f"""
import json, luban
engine = luban.load(sys.argv[1])
answers = engine.predict({TEXTS!r})
scores = [{{label: round(score, 4) for label, score in answer.scores.items()}} for answer in answers]
told = [[list(answer.labels), found, list(map(str, answer.spans))] for answer, found in zip(answers, scores)]
print(json.dumps({{"asked": asked, "answers": told}}))
"""


def test_a_bundle_answers_without_what_trained_it(bundle: Path) -> None:
    found = run(ANSWER, str(bundle))
    assert found["asked"] == []
    assert len(found["answers"]) == len(TEXTS)


def test_a_copied_bundle_answers_the_same_elsewhere(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run(ANSWER, str(tmp_path / "copy"), cwd=elsewhere) == run(ANSWER, str(bundle))


def test_the_command_line_answers_without_it_too(bundle: Path, tmp_path: Path) -> None:
    rows = tmp_path / "new.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:2]), "utf-8")
    script = """
import json
from luban.cli.main import main
sys.argv[0] = "luban"
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print()
print(json.dumps(asked))
"""
    answers = tmp_path / "answers.jsonl"
    assert run(script, "predict", str(rows), "-o", str(answers), "--bundle", str(bundle), cwd=tmp_path) == []
    assert len(answers.read_text("utf-8").splitlines()) == 2
    assert run(script, "predict", "--text", TEXTS[1], "--bundle", str(bundle), cwd=tmp_path) == []


SERVE = """
import json, os, signal, threading, urllib.request
from luban.cli.main import main
from luban.serve import process
def ask(url):
    body = json.dumps({"text": "where is my card"}).encode()
    found = urllib.request.urlopen(urllib.request.Request(url + "/v1/models/tiny/predict", body)).read()
    os.kill(os.getpid(), signal.SIGTERM)
told = process.told
def telling(settings, api, admin):
    found = told(settings, api, admin)
    threading.Thread(target=ask, args=(found["url"],)).start()
    return found
process.told = telling
code = main(["serve", *sys.argv[1:]])
print(json.dumps([asked, code]))
"""


def test_a_server_answers_without_it_too(bundle: Path) -> None:
    assert run(SERVE, str(bundle), "--port", "0", "--admin-port", "0") == [[], 0]


def test_reading_a_project_needs_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "luban.yaml").write_text("name: a\ntask: tag\nbase: minilm-l6\ndata: {train: a.csv}\n", "utf-8")
    script = "import json; from luban.project.load import load; load(sys.argv[1]); print(json.dumps(asked))"
    assert run(script, str(tmp_path)) == []


def test_the_forbidding_works() -> None:
    script = "import json\ntry:\n    import torch\nexcept ModuleNotFoundError:\n    pass\nprint(json.dumps(asked))"
    assert run(script) == ["torch"]
