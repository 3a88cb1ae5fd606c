"""Peer (c): FastAPI, tokenizers and ONNX Runtime, answering inline in the event loop."""

import os

import orjson
import uvicorn
from fastapi import FastAPI, Response
from onnx_model import Model
from pydantic import BaseModel

app = FastAPI()
model = Model()


class Request(BaseModel):
    """What of the contract's request the bench uses."""

    inputs: list[str]
    raw_scores: bool = False


@app.post("/predict_tokens")
async def predict_tokens(body: Request) -> Response:
    answer = model.predict(body.inputs, body.raw_scores)
    return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_onnx:app",
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        workers=int(os.environ["BENCH_WORKERS"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_worker_healthcheck=120,  # importing the model takes longer than the 5 s of uvicorn
    )
