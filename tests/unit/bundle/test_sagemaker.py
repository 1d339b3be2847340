"""The archive for SageMaker: its four functions, what they refuse, and the toolkit that calls them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.bundle.made import Made, texts

from luban.bundle import packages
from luban.bundle.engine import Engine
from luban.bundle.packages import Source, sagemaker

Call = Callable[[str], Any]


@pytest.fixture
def unpacked(classifier: Made, tmp_path: Path) -> Path:
    """Return the folder that SageMaker would unpack the archive into."""
    it = Source(folder=classifier.folder, engine=Engine.open(classifier.folder))
    packages.make("sagemaker", it, tmp_path / "it", texts(8), "rows", 1e-3)
    assert {path.name for path in (tmp_path / "it").iterdir()} == {"README.md", sagemaker.ARCHIVE}
    with tarfile.open(tmp_path / "it" / sagemaker.ARCHIVE) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    return tmp_path / "model"


def call(unpacked: Path, code: str) -> Any:
    """Run lines with the module `inference` and the model at hand, in a process of their own; return `found`."""
    before = (
        f"import json, sys; sys.path.insert(0, {str(unpacked / 'code')!r}); import inference as it\n"
        f"model = it.model_fn({str(unpacked)!r})\n"
        "def refused(*args):\n"
        "    try: it.input_fn(*args)\n"
        "    except Exception as error: return str(error)\n"
    )
    command = [sys.executable, "-c", f"{before}{code}\nprint(json.dumps(found))"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=unpacked)
    return json.loads(ran.stdout)


def test_the_archive_holds_what_an_endpoint_needs(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()} == {"bundle", "code"}
    wanted = (unpacked / "code" / "requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in wanted if line.startswith(("numpy==", "onnxruntime==", "tokenizers=="))]
    assert not [line for line in wanted if line.startswith(("torch", "luban", "transformers", "pytest"))]
    assert not list(unpacked.rglob("__pycache__"))


def test_the_same_bundle_gives_the_same_archive(classifier: Made, tmp_path: Path) -> None:
    it = Source(folder=classifier.folder, engine=Engine.open(classifier.folder))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sagemaker.write(it, tmp_path / name)
        sagemaker.pack(tmp_path / name / sagemaker.LAID_OUT, tmp_path / name / sagemaker.ARCHIVE)
    one, two = ((tmp_path / name / sagemaker.ARCHIVE).read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_four_functions_answer(unpacked: Path, engine: Engine) -> None:
    code = (
        "answer = lambda body, kind, accept: it.output_fn(it.predict_fn(it.input_fn(body, kind), model), accept)\n"
        'found = [it.HOME, answer(\'{"texts": ["my card", "转账"]}\', "application/json", "application/json"),\n'
        '  answer(b\'["my card"]\', "application/json; charset=utf-8", "*/*"),\n'
        '  answer(\'"my card"\', "application/json", None),\n'
        '  answer(\'{"text": "my card"}\\n"转账"\\n\', "application/jsonlines", "application/jsonlines")]'
    )
    home, many, bare, one, lines = call(unpacked, code)
    assert Path(home) == unpacked / "code" / "luban"
    wanted = [{"label": it.label, "score": round(it.score, 6)} for it in engine.predict(["my card", "转账"])]
    assert json.loads(many) == {"predictions": wanted}
    assert json.loads(bare) == json.loads(one) == {"predictions": wanted[:1]}
    assert [json.loads(line) for line in lines.splitlines()] == wanted


def test_what_is_no_request_is_refused_with_what_was_wanted(unpacked: Path) -> None:
    code = (
        'found = [refused("a,b", "text/csv"), refused("{", "application/json"), refused("{}", "application/json")]\n'
        "try: it.predict_fn([3], model)\n"
        "except Exception as error: found.append(str(error))\n"
        'try: it.output_fn([], "image/png")\n'
        "except Exception as error: found.append(str(error))"
    )
    kind, broken, empty, row, accept = call(unpacked, code)
    assert "text/csv" in kind and "application/jsonlines" in kind
    assert "not JSON" in broken
    assert '{"texts"' in empty
    assert "row 0: got a value of the type int" in row
    assert "image/png" in accept


def test_sagemakers_own_toolkit_serves_it(unpacked: Path, engine: Engine) -> None:
    if importlib.util.find_spec("sagemaker_inference") is None:
        pytest.skip("SageMaker's toolkit is not installed: pip install sagemaker-inference")
    code = f"""
import json, os, sys
sys.path.insert(0, {str(unpacked / "code")!r})
from sagemaker_inference.transformer import Transformer

class Processor:
    def __init__(self, kind): self.kind = kind
    def get_request_properties(self): return {{"Content-Type": self.kind, "Accept": "application/json"}}

class Context:
    system_properties = {{"model_dir": {str(unpacked)!r}}}
    status = 200
    def __init__(self, kind): self.request_processor = [Processor(kind)]
    def set_response_content_type(self, *args): pass
    def set_response_status(self, code, phrase): self.status = code

served, found = Transformer(), []
json_ = "application/json"
for body, kind in ((b'{{"texts": ["my card"]}}', json_), (b"{{}}", json_), (b"a", "text/csv")):
    context = Context(kind)
    (response,) = served.transform([{{"body": body}}], context)
    found.append([context.status, response])
print(json.dumps(found))
"""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    (status, response), (refused, why), (alien, _) = json.loads(ran.stdout.splitlines()[-1])
    (wanted,) = engine.predict(["my card"])
    assert status == 200
    assert json.loads(response)["predictions"] == [{"label": wanted.label, "score": round(wanted.score, 6)}]
    assert refused == 400 and '{"texts"' in why
    assert alien == 415
