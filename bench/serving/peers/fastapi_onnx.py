"""Peer (c): FastAPI, tokenizers and ONNX Runtime, answering inline in the event loop."""

import orjson
import under_uvicorn
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
    under_uvicorn.run("fastapi_onnx:app")
