"""Peer (f): FastAPI, tokenizers and OpenVINO, answering inline in the event loop.

The graph is that of the other peers, in operators of ONNX alone; BENCH_DTYPE: float32 or bfloat16.
"""

import os

import numpy as np
import onnx_model
import openvino
import orjson
import under_uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class Graph(onnx_model.Graph):
    """The graph compiled by OpenVINO."""

    def __init__(self, path: str, n_threads: int):
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[os.environ["BENCH_DTYPE"]],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": n_threads,
            "NUM_STREAMS": 1,
        }
        self.compiled = core.compile_model(path, "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.types = {
            name: np.int32 if port.element_type == openvino.Type.i32 else np.int64
            for port in self.compiled.inputs
            for name in port.names
        }
        self.card, self.has_top = None, False

    def run(self, outputs: list[str], ids: list[list[int]]) -> list[np.ndarray]:
        """Run the graph."""
        found = self.request.infer(self.feed(ids))
        return [found[self.compiled.output(name)] for name in outputs]


onnx_model.Graph = Graph
app = FastAPI()
model = onnx_model.Model()


class Request(BaseModel):
    """What of the contract's request the bench uses."""

    inputs: list[str]
    raw_scores: bool = False


@app.post("/predict_tokens")
async def predict_tokens(body: Request) -> Response:
    answer = model.predict(body.inputs, body.raw_scores)
    return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    under_uvicorn.run("fastapi_openvino:app")
