"""Peer (d): LitServe with dynamic batching, batch 4 and wait 1 ms."""

import os

import litserve as ls
import orjson
from fastapi import Response
from onnx_model import Model


class TokenClassifier(ls.LitAPI):
    """Tokenises and runs the graph in a worker process."""

    def setup(self, device):
        """Load the model in the worker."""
        self.model = Model()

    def decode_request(self, request):
        """Take out what the model needs."""
        return request["inputs"], request.get("raw_scores", False)

    def batch(self, inputs):
        """Leave the requests of a batch as they are."""
        return inputs

    def predict(self, batch):
        """Run all texts of the batch in one call and split the rows by request."""
        raw_scores = any(raw for _, raw in batch)
        rows = iter(self.model.predict([text for texts, _ in batch for text in texts], raw_scores))
        return [[next(rows) for _ in texts] for texts, _ in batch]

    def unbatch(self, output):
        """Leave the answers of a batch as they are."""
        return output

    def encode_response(self, output):
        """Encode in the worker, so that the API process only passes bytes on."""
        return Response(orjson.dumps(output), media_type="application/json")


if __name__ == "__main__":
    api = TokenClassifier(max_batch_size=4, batch_timeout=0.001, api_path="/predict_tokens")
    server = ls.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ["BENCH_WORKERS"]),
        fast_queue=True,
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
