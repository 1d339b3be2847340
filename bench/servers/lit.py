"""LitServe with batching."""

import sys

import litserve
from answering import opened


class Classifier(litserve.LitAPI):
    """Answers batches that LitServe forms."""

    def setup(self, device):
        """Load the model."""
        self.answer = opened()

    def decode_request(self, request):
        """Return the text."""
        return request["text"]

    def predict(self, texts):
        """Answer a batch."""
        return self.answer(list(texts))

    def encode_response(self, label):
        """Return the label."""
        return {"label": label}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(max_batch_size=32, batch_timeout=0.005), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
