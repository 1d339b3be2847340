"""MLflow's model server: the transformers flavour, or a Python function where the graph is given."""

import os
import sys
import tempfile
from pathlib import Path

import mlflow
import pandas as pd

HERE = Path(__file__).parent
CODE = """\
import sys
sys.path.insert(0, {here!r})
import mlflow
from answering import opened

class Classifier(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.answer = opened()

    def predict(self, context, model_input, params=None):
        return self.answer(list(model_input["text"]))

mlflow.models.set_model(Classifier())
"""

folder = Path(tempfile.mkdtemp()) / "model"
if os.environ["PEER_KIND"] == "pipeline":
    from transformers import pipeline

    pipe = pipeline("text-classification", model=os.environ["PEER_MODEL"])
    mlflow.transformers.save_model(pipe, str(folder), pip_requirements=["transformers", "torch"])
else:
    code = folder.parent / "code.py"
    code.write_text(CODE.format(here=str(HERE)))
    given = mlflow.models.infer_signature(pd.DataFrame({"text": ["a"]}), ["a"])
    mlflow.pyfunc.save_model(str(folder), python_model=str(code), signature=given, pip_requirements=[])
command = ["-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
os.execv(sys.executable, [sys.executable, *command, "--host", "127.0.0.1", "--port", sys.argv[1]])
