"""Peer (e): mosec with dynamic batching, batch 4 and wait 1 ms. Its options are read from the command line."""

import os

import orjson
from mosec import Server, Worker
from onnx_model import Model


class TokenClassifier(Worker):
    """Tokenises and runs the graph in a worker process."""

    def __init__(self):
        super().__init__()
        self.model = Model()

    def deserialize(self, data):
        """Decode with orjson instead of json."""
        return orjson.loads(data)

    def serialize(self, data):
        """Encode with orjson instead of json."""
        return orjson.dumps(data)

    def forward(self, data):
        """Run all texts of the batch in one call and split the rows by request."""
        raw_scores = any(request.get("raw_scores", False) for request in data)
        texts = [text for request in data for text in request["inputs"]]
        rows = iter(self.model.predict(texts, raw_scores))
        return [[next(rows) for _ in request["inputs"]] for request in data]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        TokenClassifier,
        num=int(os.environ["BENCH_WORKERS"]),
        max_batch_size=4,
        max_wait_time=1,
        timeout=60,
        route="/predict_tokens",
    )
    server.run()
