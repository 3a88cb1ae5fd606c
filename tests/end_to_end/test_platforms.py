"""What cloud platforms do with a container: how they start it, where they put the model, what they ask it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from builders import ServerProcess, free_port, wait_until_ready, write_config

TEXT = "Anna Maria lives in Paris."
FOUND = [("PER", "Anna Maria"), ("LOC", "Paris")]
SAGEMAKER_FOLDER = Path("/opt/ml/model")
SAGEMAKER_PORT = 8080
# Variables that would say something of their own.
OTHERS = ("NERVE_", "AIP_", "SAGEMAKER_", "XDG_", "HF_")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start `nerve serve` as a container's entry point: no argument, an empty working folder, a few variables."""
    running: list[ServerProcess] = []

    def serve(port: int, **variables: str) -> ServerProcess:
        home = tmp_path / "run"
        home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        log_path = tmp_path / f"log-{len(running)}"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nerve", "serve"],
                stdout=log,
                stderr=log,
                cwd=home,
                env={**kept, "HOME": str(home), **variables},
            )
        url = f"http://127.0.0.1:{port}"
        server = ServerProcess(process, url, log_path, httpx.Client(base_url=url, timeout=30))
        running.append(server)
        wait_until_ready(server)
        return server

    yield serve
    for server in running:
        server.client.close()
        server.stop()


@pytest.fixture
def unpacked(lookup_model: Path) -> Iterator[Path]:
    """Put the lookup model where SageMaker unpacks the archive."""
    top = SAGEMAKER_FOLDER.parent
    if top.exists():
        pytest.skip(f"{top} is there already")
    try:
        shutil.copytree(lookup_model, SAGEMAKER_FOLDER)
    except PermissionError:
        pytest.skip(f"{SAGEMAKER_FOLDER} can be made by root only")
    yield SAGEMAKER_FOLDER
    shutil.rmtree(top)


def found_in(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    """Return what was found."""
    return [(row["entity_group"], row["word"]) for row in rows]


@pytest.mark.parametrize("variable", [False, True])
def test_sagemaker(start: Callable[..., ServerProcess], unpacked: Path, variable: bool) -> None:
    """`serve` alone serves /opt/ml/model, at port 8080 or at the one of its variable, and ends at SIGTERM.

    A ping is 200 without a body within 2 s; it has 30 s to end.
    https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
    """
    port = free_port() if variable else SAGEMAKER_PORT
    variables = {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": f"{port}-{port + 9}"}
    if not variable:
        try:
            httpx.get(f"http://127.0.0.1:{port}")
        except httpx.TransportError:
            variables = {}
        else:
            pytest.skip(f"port {port} is taken")
    server = start(port, **variables)
    began = time.perf_counter()
    ping = server.client.get("/ping")
    assert (ping.status_code, ping.content) == (200, b"")
    assert time.perf_counter() - began < 2
    attributes = {"X-Amzn-SageMaker-Custom-Attributes": "trace=1", "Accept": "application/json"}
    answer = server.client.post("/invocations", json={"inputs": TEXT}, headers=attributes)
    assert (answer.status_code, found_in(answer.json())) == (200, FOUND)
    untyped = server.client.post(
        "/invocations",
        content=b'{"inputs": ["Anna", "the"]}',
        headers={"content-type": "application/x-octet"},
    )
    assert untyped.status_code == 415
    assert server.client.get("/info").json()["model_name"] == unpacked.name
    assert server.stop(30) == 0


@pytest.mark.parametrize(
    ("health", "predict"),
    [
        ("/healthz", "/predict"),
        # Where the upload of the model names none.
        ("/v1/endpoints/12/deployedModels/34", "/v1/endpoints/12/deployedModels/34:predict"),
    ],
)
def test_vertex(
    start: Callable[..., ServerProcess], lookup_model: Path, tmp_path: Path, health: str, predict: str
) -> None:
    """It listens, is probed and asked where the variables say, whatever the config file says.

    https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
    """
    port = free_port()
    server = start(
        port,
        NERVE_CONFIG=str(write_config(tmp_path / "config.yaml", lookup_model)),
        AIP_HTTP_PORT=str(port),
        AIP_HEALTH_ROUTE=health,
        AIP_PREDICT_ROUTE=predict,
        AIP_MODE="PREDICTION",
        AIP_MODE_VERSION="1.0.0",
        AIP_FRAMEWORK="CUSTOM_CONTAINER",
        AIP_STORAGE_URI="gs://bucket/model",
    )
    probe = server.client.get(health)
    assert (probe.status_code, probe.content) == (200, b"")
    answer = server.client.post(predict, json={"instances": [TEXT, {"text": "the"}], "parameters": {}})
    assert answer.status_code == 200, answer.text
    assert [found_in(each) for each in answer.json()["predictions"]] == [FOUND, []]
    refused = server.client.post(predict, json={"instances": []})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])
    name = f'nerve_requests_total{{endpoint="vertex",route="{predict}",status="200"}} 1'
    assert name in server.client.get("/metrics").text
    assert "AIP_STORAGE_URI names a model in Cloud Storage, which is not read" in server.log()
    assert server.stop() == 0
