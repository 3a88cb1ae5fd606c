"""The rendered pod as a container: command, environment, user, read-only root, volumes, probes, SIGTERM, grace period.

NERVE_TEST_IMAGE names the image and NERVE_TEST_ENGINE the docker or podman, as for tests/deploy/test_image.py;
NERVE_TEST_BAKED_IMAGE one that was built with BAKE=config.yaml, NERVE_TEST_NGINX_IMAGE one for the side-car
(tests/kubernetes/build_nginx.sh makes one).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pods import NGINX_IMAGE, Pod
from rendering import REPOSITORY, render

from containers import ENGINE, IMAGE, NO_IMAGE, engine

NERVE = os.environ.get("NERVE_PYTHON", str(REPOSITORY / ".venv/bin/python"))
BAKED = os.environ.get("NERVE_TEST_BAKED_IMAGE")
needs_image = pytest.mark.skipif(not (ENGINE and IMAGE), reason=NO_IMAGE)
needs_baked = pytest.mark.skipif(
    not (ENGINE and BAKED),
    reason="NERVE_TEST_BAKED_IMAGE names no built image, or there is no docker or podman",
)
needs_side_car = pytest.mark.skipif(
    not (ENGINE and IMAGE and NGINX_IMAGE),
    reason="NERVE_TEST_IMAGE or NERVE_TEST_NGINX_IMAGE names no built image, or there is no docker or podman",
)
KEY = "s3cret-of-the-pod"
SECRETS = {"keys": {"api-key": KEY, "hub": "hf_of_nobody", "pseudonyms": "0123456789abcdef"}}
ASK = {"inputs": "Anna sees Paris", "aggregation_strategy": "simple"}
LET_IN = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def start() -> Iterator[Callable[..., Pod]]:
    """Start the pod that the chart renders from values; it is removed after the test."""
    folder = Path(tempfile.mkdtemp(prefix="nerve-pod-"))  # the container's user must get in
    folder.chmod(0o755)
    pods: list[Pod] = []

    def start_pod(values: dict[str, Any], image: str | None = IMAGE) -> Pod:
        assert image
        pods.append(Pod(render(values), folder, secrets=SECRETS, image=image, nginx_image=NGINX_IMAGE))
        return pods[-1]

    yield start_pod
    for pod in pods:
        pod.remove()
    shutil.rmtree(folder)


@pytest.fixture
def model() -> Iterator[Path]:
    """Write the model of the tests where a container can read it."""
    folder = Path(tempfile.mkdtemp(prefix="nerve-model-"))
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests')!r}); from pathlib import Path;"
    program += f"from builders import write_lookup_model; write_lookup_model(Path({str(folder)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    subprocess.run([NERVE, "-c", program], check=True, env=environment)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


def served(model: Path, **more: Any) -> dict[str, Any]:
    """Return values for the tests' model, from a folder of the node."""
    return {
        "config": {"model": {"checkpoint_repository": {"source": "LOCAL", "path": "/model"}}},
        "extraVolumes": [{"name": "model", "hostPath": {"path": str(model)}}],
        "extraVolumeMounts": [{"name": "model", "mountPath": "/model", "readOnly": True}],
        **more,
    }


@needs_image
def test_serves_with_what_the_chart_sets(start: Callable[..., Pod], model: Path) -> None:
    """It starts with the rendered settings alone, serves its model, and asks for the key that the secret's file has."""
    secrets = {
        "apiKey": {"existingSecret": "keys", "key": "api-key"},
        "hubToken": {"existingSecret": "keys", "key": "hub"},
        "redactionKey": {"existingSecret": "keys", "key": "pseudonyms"},
    }
    pod = start(served(model, secrets=secrets))
    pod.wait_until_ready()
    assert pod.ask(pod.container["livenessProbe"]["httpGet"]["path"])[0] == 200
    assert pod.ask("/predict_tokens", ASK)[0] == 401
    status, text = pod.ask("/predict_tokens", ASK, LET_IN)
    assert status == 200, text
    assert [row["token"] for row in json.loads(text)[0]] == ["Anna", "Paris"]
    hashed = {"inputs": "Anna sees Paris", "operators": {"DEFAULT": {"type": "hash"}}}
    assert pod.ask("/redact", hashed, LET_IN)[0] == 200
    assert "random key" not in pod.log()
    # No secret stands where a child process or `kubectl describe` would see it.
    variables = pod.execute("cat", "/proc/1/environ").stdout
    assert not any(secret in variables for secret in SECRETS["keys"].values())


@needs_image
def test_rights(start: Callable[..., Pod], model: Path) -> None:
    """No root, no capability, no new privileges; nothing can be written but the volumes."""
    pod = start(served(model))
    pod.wait_until_ready()
    status = pod.execute("cat", "/proc/1/status").stdout
    assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001", status, re.MULTILINE)
    for capabilities in ("CapEff", "CapPrm", "CapBnd"):
        assert re.search(rf"^{capabilities}:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    for path, writable in {
        "/x": False,
        "/etc/nerve/x": False,
        "/run/nerve/x": False,
        "/opt/nerve/x": False,
        "/tmp/x": True,  # noqa: S108 - in the container
        "/var/cache/nerve/x": True,
    }.items():
        assert (pod.execute("touch", path, check=False).returncode == 0) is writable, path


@needs_image
def test_stop_loses_nothing(start: Callable[..., Pod], model: Path) -> None:
    """On SIGTERM the pod is not ready at once, still answers for the delay, and ends with 0 within the grace period."""
    pod = start(served(model, drain={"delaySeconds": 20, "timeoutSeconds": 10}))
    pod.wait_until_ready()
    engine("kill", "--signal", "TERM", pod.name)
    began = time.monotonic()
    while pod.ask(pod.container["readinessProbe"]["httpGet"]["path"])[0] != 503:
        assert time.monotonic() - began < 10, pod.log()
    assert pod.ask("/predict_tokens", ASK)[0] == 200
    while pod.state()["Running"]:
        assert time.monotonic() - began < pod.grace_seconds, pod.log()
        time.sleep(0.2)
    assert pod.state()["ExitCode"] == 0


@needs_baked
def test_model_in_the_image(start: Callable[..., Pod]) -> None:
    """Cache kind `image`: no volume, no network, and the default model answers."""
    pod = start({"cache": {"kind": "image"}}, image=BAKED)
    pod.wait_until_ready()
    status, text = pod.ask(
        "/predict_tokens", {"inputs": "My name is Maria Garcia.", "aggregation_strategy": "simple"}
    )
    assert status == 200
    assert [row["token"] for row in json.loads(text)[0]] == ["Maria", "Garcia"]


@needs_image
def test_start_that_cannot_be_says_why(start: Callable[..., Pod], model: Path) -> None:
    """A gpu pod on a node without a device ends with status 1 and one line; it never computes on the CPU."""
    pod = start(served(model, extraEnv=[{"name": "NERVE_MODEL__DEVICE", "value": "cuda"}]))
    deadline = time.monotonic() + 200
    while pod.state()["Running"]:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert pod.state()["ExitCode"] == 1
    assert "cuda" in pod.log().lower()


@needs_side_car
def test_side_car_answers_and_stops_after_the_server(start: Callable[..., Pod], model: Path) -> None:
    """Both containers with the rendered settings: asked through Nginx, and each request answered while both stop."""
    drain = {"delaySeconds": 6, "timeoutSeconds": 10}
    values = served(model, nginx={"enabled": True}, drain=drain)
    values["config"]["limits"] = {"max_body_bytes": 50_000}
    pod = start(values)
    pod.wait_until_ready(port=8080)
    status, text = pod.ask("/predict_tokens", ASK, port=8080)
    assert status == 200, text
    assert [row["token"] for row in json.loads(text)[0]] == ["Anna", "Paris"]
    assert pod.ask("/predict_tokens", {"inputs": "a" * 60_000}, port=8080)[0] == 413
    assert speaks_http2(pod)
    side_car = pod.side_cars["nginx"]
    for path, writable in {"/x": False, "/etc/nginx/nerve/x": False, "/dev/shm/x": True}.items():  # noqa: S108
        assert (side_car.execute("touch", path, check=False).returncode == 0) is writable, path

    # As a kubelet does: SIGTERM to the server, and to Nginx, once its hook has ended, its image's stop signal.
    (hook,) = (each["lifecycle"]["preStop"] for each in pod.spec["containers"] if each["name"] == "nginx")
    began = time.monotonic()
    engine("kill", "--signal", "TERM", pod.name)
    with ThreadPoolExecutor(1) as pool:
        hooked = pool.submit(side_car.execute, *hook["exec"]["command"])
        n_answered = 0
        while not hooked.done():
            answer = pod.ask("/predict_tokens", ASK, port=8080)
            if hooked.done():  # the hook is over: the endpoints have forgotten this pod
                break
            assert answer[0] == 200, answer
            n_answered += 1
    assert n_answered > 0
    engine("kill", "--signal", "QUIT", side_car.name)
    for container in (pod, side_car):
        while container.state()["Running"]:
            assert time.monotonic() - began < pod.grace_seconds, pod.log()
            time.sleep(0.2)
        assert container.state()["ExitCode"] == 0, container.log()


def speaks_http2(pod: Pod) -> bool:
    """Tell whether HTTP/2 with prior knowledge is answered, by a frame of settings (RFC 9113, 3.4), on Nginx's port."""
    program = (
        "import socket\n"
        "c = socket.create_connection(('127.0.0.1', 8080), 20)\n"
        "c.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))\n"
        "print(c.recv(4)[3])\n"
    )
    return pod.execute("python", "-c", program).stdout.strip() == "4"
