"""BentoML with adaptive batching."""

import os
import sys
from pathlib import Path

import bentoml

sys.path.insert(0, str(Path(__file__).parent))
from answering import opened


@bentoml.service(resources={"cpu": "2"}, traffic={"timeout": 30})
class Classifier:
    """Answers batches that BentoML forms."""

    def __init__(self) -> None:
        self.answer = opened()

    @bentoml.api(batchable=True, max_batch_size=32)
    def predict(self, texts: list[str]) -> list[str]:
        """Answer texts of one or several requests."""
        return self.answer(texts)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    serve = ["-m", "bentoml", "serve", "bento:Classifier", "--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(sys.executable, [sys.executable, *serve])
