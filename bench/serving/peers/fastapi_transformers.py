"""Peer (b): FastAPI and transformers' token-classification pipeline on PyTorch; float16 on a GPU.

On the CPU in float32, or as BENCH_DTYPE says.

The pipeline gives one row per token without special tokens and only the best label; it is asked for
nothing more, so its work is never larger than that of the others.
"""

import os

import orjson
import torch
import under_uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
folder = os.environ["BENCH_CHECKPOINT"]
device = os.environ.get("BENCH_DEVICE", "cpu")  # cpu | cuda
classify = pipeline(
    "token-classification",
    model=AutoModelForTokenClassification.from_pretrained(
        folder,
        dtype=torch.float16 if device == "cuda" else getattr(torch, os.environ.get("BENCH_DTYPE", "float32")),
    ),
    tokenizer=AutoTokenizer.from_pretrained(folder, model_max_length=512),
    aggregation_strategy="none",
    ignore_labels=[],
    device=device,
)
app = FastAPI()


class Request(BaseModel):
    """What of the contract's request the bench uses."""

    inputs: list[str]
    raw_scores: bool = False


def row(text: str, token: dict, vocabulary: dict[str, int]) -> dict:
    start, end = token["start"], token["end"]
    return {
        "token": text[start:end],
        "token_id": vocabulary[token["word"]],
        "start": start,
        "end": end,
        "results": {token["entity"]: float(token["score"])},
    }


vocabulary = classify.tokenizer.get_vocab()


@app.post("/predict_tokens")
def predict_tokens(body: Request) -> Response:
    with torch.inference_mode():
        found = classify(body.inputs)
    answer = [[row(t, token, vocabulary) for token in f] for t, f in zip(body.inputs, found, strict=True)]
    return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    under_uvicorn.run("fastapi_transformers:app")
