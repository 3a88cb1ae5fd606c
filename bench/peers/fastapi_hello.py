"""Peer (a): the framework alone. One async route with a pydantic body that answers at once."""

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Hello(BaseModel):
    """The smallest body that has to be validated."""

    name: str


@app.post("/hello_world")
async def hello_world(body: Hello) -> dict[str, str]:
    return {"message": f"Hello, {body.name}!"}


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_hello:app",
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        workers=int(os.environ["BENCH_WORKERS"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
