"""Running servers for clients that live in an environment of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
# The Python that has nerve.
NERVE = os.environ.get("NERVE_PYTHON", str(REPOSITORY / ".venv/bin/python"))
KEY = "s3cret-key"


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start servers of the lookup model; they end with the tests."""
    running: list[subprocess.Popen[bytes]] = []

    def start_server(*arguments: str, port: int | None = None, **environment: str) -> str:
        folder = tmp_path_factory.mktemp("server")
        port = port or free_port()
        paths = [str(REPOSITORY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [NERVE, str(HERE / "server.py"), str(folder), str(port), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        )
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            assert process.poll() is None, "the server has ended"
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    return url
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server is not ready")

    yield start_server
    for process in running:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture(scope="session")
def url(start: Callable[..., str]) -> str:
    """Return the address of a server without a key."""
    return start()


@pytest.fixture(scope="session")
def guarded(start: Callable[..., str]) -> str:
    """Return the address of a server that wants `KEY`."""
    return start(NERVE_API_KEY=KEY)
