"""Ray Serve with dynamic request batching."""

import signal
import sys
from pathlib import Path

import ray
from ray import serve
from starlette.requests import Request

sys.path.insert(0, str(Path(__file__).parent))


@serve.deployment(max_ongoing_requests=100)
class Classifier:
    """Answers batches that Ray Serve forms."""

    def __init__(self, here: str) -> None:
        sys.path.insert(0, here)
        from answering import opened

        self.answer = opened()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def batch(self, texts: list[str]) -> list[str]:
        """Answer a batch."""
        return self.answer(texts)

    async def __call__(self, request: Request) -> dict[str, str]:
        """Answer one request."""
        return {"label": await self.batch((await request.json())["text"])}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind(str(Path(__file__).parent)), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
