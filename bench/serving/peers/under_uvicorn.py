"""Runs a FastAPI peer under uvicorn, as fast as that goes."""

import os

import uvicorn


def run(app: str) -> None:
    """Serve an application, as MODULE:NAME, until told to stop."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        workers=int(os.environ["BENCH_WORKERS"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_worker_healthcheck=120,  # importing a model takes longer than the 5 s of uvicorn
    )
