"""Starts containers of the image, for tests of the deployment.

Building the image takes minutes and a registry of base images, so no test does it: `make test-image` builds it and runs
them, and NERVE_TEST_IMAGE names one that is there. NERVE_TEST_ENGINE is the docker or podman to use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

ENGINE = os.environ.get("NERVE_TEST_ENGINE") or shutil.which("podman") or shutil.which("docker")
IMAGE = os.environ.get("NERVE_TEST_IMAGE")
NO_IMAGE = (
    "NERVE_TEST_IMAGE names no built image, or there is no docker or podman (`make test-image` builds one)"
)

# Of a request from inside: path, port, body and headers come as JSON.
_ASK = """
import json, sys, urllib.error, urllib.request
path, port, body, headers = json.loads(sys.argv[1])
data = None if body is None else json.dumps(body).encode()
url = f"http://127.0.0.1:{port}{path}"
request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
try:
    answer = urllib.request.urlopen(request, timeout=20)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    print(0); sys.exit()
print(answer.status); print(answer.read().decode())
"""


def engine(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the container engine. Output goes to files: podman's monitor keeps pipes open."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(
            [str(ENGINE), *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False
        )
        out.seek(0)
        err.seek(0)
        result = subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())
    assert not check or result.returncode == 0, result.stderr
    return result


class Container:
    """One container. Without a network, as most tests start it: what asks it runs inside."""

    def __init__(self, image: str, options: list[str], arguments: list[str]) -> None:
        """Start it. options: of the engine's `run`; arguments: what the image's entry point gets, [] for its own."""
        self.name = f"nerve-test-{os.getpid()}-{time.monotonic_ns()}"
        self._image = image
        engine("run", "--detach", "--name", self.name, *options, image, *arguments)

    def execute(
        self, *command: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        settings = [f"--env={name}={value}" for name, value in variables.items()]
        return engine("exec", *settings, self.name, *command, check=check)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, *, port: int = 8000
    ) -> tuple[int, str]:
        """Return status and answer of a request, 0 where nobody listens."""
        asked = json.dumps([path, port, body, headers or {}])
        status, _, text = self.execute("python", "-c", _ASK, asked).stdout.partition("\n")
        return int(status), text.removesuffix("\n")

    def is_healthy(self) -> bool:
        """Run the image's own health check."""
        (image,) = json.loads(engine("image", "inspect", self._image).stdout)
        check = (image.get("Healthcheck") or image["Config"]["Healthcheck"])["Test"]
        assert check[0] == "CMD"
        return self.execute(*check[1:], check=False).returncode == 0

    def wait_for(self, holds: Callable[[], bool], seconds: float = 120) -> float:
        """Wait until something holds of it; return the seconds that it took."""
        started = time.monotonic()
        while not holds():
            assert time.monotonic() - started < seconds, self.log()
            assert self.state()["Running"], self.log()
            time.sleep(0.2)
        return time.monotonic() - started

    def state(self) -> dict[str, Any]:
        """Return what the engine knows of it."""
        (found,) = json.loads(engine("inspect", self.name).stdout)
        state: dict[str, Any] = found["State"]
        return state

    def stop(self, seconds: int = 30) -> int:
        """Send SIGTERM, and SIGKILL after so long; return the exit status."""
        engine("stop", "--time", str(seconds), self.name)
        status: int = self.state()["ExitCode"]
        return status

    def log(self) -> str:
        """Return what the server has said."""
        told = engine("logs", self.name, check=False)
        return told.stdout + told.stderr

    def remove(self) -> None:
        """Take it away, running or not."""
        engine("kill", self.name, check=False)  # podman's `rm --force` alone waits for a graceful end
        engine("rm", "--force", "--volumes", self.name, check=False)
