"""Not a peer: a server whose event loop is blocked 100 ms every 2 s, to test the load generator with."""

import os
import time
from contextlib import asynccontextmanager

import anyio
import uvicorn
from fastapi import FastAPI, Request


@asynccontextmanager
async def stalls(app):
    async with anyio.create_task_group() as group:
        group.start_soon(stall)
        yield
        group.cancel_scope.cancel()


async def stall() -> None:
    while True:
        await anyio.sleep(1.9)
        time.sleep(0.1)  # noqa: ASYNC251  blocking the loop is the purpose


app = FastAPI(lifespan=stalls)


@app.post("/hello_world")
async def hello_world(request: Request) -> dict[str, str]:
    await request.body()
    return {"message": "hello"}


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
