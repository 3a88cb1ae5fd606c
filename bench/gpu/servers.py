"""Servers under load on a card: nerve, and transformers behind FastAPI."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.gpu import load
from bench.gpu.models import requests_for
from bench.gpu.steps import Run
from bench.paths import BENCH, REPOSITORY, WORK

PEERS = BENCH / "serving" / "peers"
CONNECTIONS = (1, 8, 32, 128)
SWEEP = (4, 16, 64)  # more points for the throughput at a p99 of 5 ms


def load_nerve(run: Run, folder: Path, workers: int = 1) -> dict:
    """Load nerve; several workers are front processes of one engine process (docs/decisions/0088)."""
    port = free_port()
    config = write_config(run, folder, port, workers)
    command = [sys.executable, "-m", "nerve", "serve", "--config", str(config)]
    started = time.monotonic()
    with serving(run, command, {}, port, "/health/ready"):
        seconds = time.monotonic() - started
        info = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10).read())
        answer = curve(run, port, folder)
    known = {key: info[key] for key in ("provider", "dtype", "limits")}
    return {**known, "seconds_to_ready": seconds, **answer}


def write_config(run: Run, folder: Path, port: int, workers: int = 1) -> Path:
    config = WORK / "gpu-config.yaml"  # JSON is YAML, too
    document = {
        "model": {
            "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
            "device": run.options.device,
        },
        "server": {"host": "127.0.0.1", "port": port, "workers": workers, "log_format": "text"},
    }
    config.write_text(json.dumps(document))
    return config


def load_peer(run: Run, folder: Path, model: str) -> dict:
    """Load transformers and PyTorch behind FastAPI; the default model is unpacked for them first."""
    peer = run.options.peer_python
    # PyTorch finds CUDA's libraries by itself, and those that gpu.sh points onnxruntime to may not be its own.
    before = os.environ.get("PEER_LIBRARY_PATH")
    libraries = {} if before is None else {"LD_LIBRARY_PATH": before}
    if not (folder / "model.safetensors").exists():
        unpacked = WORK / f"gpu-{model}-torch"
        if not (unpacked / "model.safetensors").exists():
            code = "import sys, pathlib, rampart_to_hf as r; r.rebuild(*map(pathlib.Path, sys.argv[1:]))"
            done = subprocess.run(
                [peer, "-c", code, folder, unpacked],
                env={**os.environ, **libraries, "PYTHONPATH": str(REPOSITORY / "tests" / "parity")},
                capture_output=True,
                text=True,
                check=False,
                timeout=min(100, run.left()),
            )
            if done.returncode:
                raise RuntimeError(f"the default model cannot be unpacked: {done.stderr[-2500:]}")
        folder = unpacked
    port = free_port()
    environment = {
        **libraries,
        "BENCH_CHECKPOINT": str(folder),
        "BENCH_DEVICE": run.options.device,
        "BENCH_PORT": str(port),
        "BENCH_THREADS": "1",
        "BENCH_WORKERS": "1",
        "PYTHONPATH": str(PEERS),
    }
    command = [peer, str(PEERS / "fastapi_transformers.py")]
    with serving(run, command, environment, port, "/openapi.json"):
        answer = curve(run, port, folder)
    code = "import json; from bench.serving import machine; print(json.dumps(machine.find_versions()))"
    said = subprocess.run(
        [peer, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30
    )
    return {"versions": json.loads(said.stdout), **answer}


def curve(run: Run, port: int, folder: Path) -> dict:
    """Measure all numbers of connections, and find the most requests per second at a p99 of 5 ms."""
    bodies = requests_for(folder)
    seconds = run.options.seconds
    load.measure(port, bodies, 4, min(1.0, seconds))  # warm-up
    points: list[dict] = []
    for count in (*CONNECTIONS, *SWEEP):
        if run.left() > 2 * seconds:
            points.append(load.measure(port, bodies, count, seconds))
    points.sort(key=lambda point: point["connections"])
    within = [point["per_second"] for point in points if point["p99_ms"] <= 5 and not point["failed"]]
    return {"points": points, "per_second_at_p99_5_ms": max(within, default=None)}


@contextmanager
def serving(
    run: Run, command: list[str], environment: dict[str, str], port: int, path: str
) -> Iterator[None]:
    """Run a server until the block ends; it must answer at `path` first."""
    log_path = WORK / "gpu-server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + min(120, run.left())
        while not is_up(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server is not up: {log_path.read_text()[-1500:]}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_up(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
