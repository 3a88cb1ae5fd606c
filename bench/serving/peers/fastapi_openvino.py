"""Peer (f): peer (c) over OpenVINO.

The graph is that of the other peers, in operators of ONNX alone; BENCH_DTYPE: float32 or bfloat16.
"""

import os

import numpy as np
import onnx_model
import openvino
import under_uvicorn

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


onnx_model.Graph = Graph  # of the model that the next import makes
from fastapi_onnx import app  # noqa: E402, F401

if __name__ == "__main__":
    under_uvicorn.run("fastapi_openvino:app")
