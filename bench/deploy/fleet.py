"""Several servers behind deploy/nginx.conf, and clients that note what became of every request.

Servers have one engine thread each and a Unix socket; Nginx is the shipped configuration with their sockets in its
upstream. Clients are threads with one kept connection each, in a closed loop: the next request follows the answer.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.paths import REPOSITORY

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
_SERVER = "server unix:/run/nerve/nerve.sock max_fails=3 fail_timeout=1s;"
# After readiness Nginx may avoid a server for up to two more seconds (docs/guide/deploy.md, "Nginx").
PASSIVE_HEALTH_SECONDS = 3


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Server:
    """One `nerve serve` with its own socket, that can be ended and started again."""

    def __init__(self, folder: Path, number: int, **environment: str) -> None:
        self.socket = str(folder / f"{number}.sock")
        self._log = folder / f"{number}.log"
        self._environment = {
            **os.environ,
            "NERVE_SERVER__UDS": self.socket,
            "NERVE_SERVER__UDS_PERMISSIONS": "666",
            "NERVE_CPU__THREADS": "1",
            "NERVE_MODEL__PRECISION": "float32",
            **environment,
        }
        self.start()

    def start(self) -> None:
        """Start, and wait until it is ready."""
        command = [sys.executable, "-m", "nerve", "serve", "--config", str(REPOSITORY / "config.yaml")]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self.is_ready():
            assert self.process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Ask for readiness."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get("/health/ready")[0] == 200
        return False

    def answered(self) -> float:
        """Return the predictions that the server has answered."""
        text = self.metrics()
        return sum(map(float, re.findall(r"^nerve_request_duration_seconds_count (\S+)", text, re.MULTILINE)))

    def metrics(self) -> str:
        """Return what /metrics says, nothing where nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get("/metrics")[1].decode()
        return ""

    def _get(self, path: str) -> tuple[int, bytes]:
        with contextlib.closing(UnixConnection(self.socket)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def terminate(self) -> int:
        """Stop gracefully; return the status."""
        self.process.terminate()
        return self.process.wait(60)

    def signal_all(self, number: int) -> None:
        """Send a signal to the server and to its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.signal_all(signal.SIGKILL)
            self.process.wait()


class Fleet:
    """Servers and the Nginx in front of them."""

    def __init__(self, folder: Path, count: int, **environment: str) -> None:
        self.servers = [Server(folder, number, **environment) for number in range(count)]
        text = (REPOSITORY / "deploy/nginx.conf").read_text()
        assert _SERVER in text
        lines = "\n".join(_SERVER.replace("/run/nerve/nerve.sock", server.socket) for server in self.servers)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        text = text.replace(_SERVER, lines).replace(
            "listen 8080 default_server", f"listen 127.0.0.1:{self.port}"
        )
        text = text.replace("/dev/shm/nginx", str(folder / "temporary"))  # noqa: S108 - replaced
        text = text.replace("access_log /dev/stdout nerve;", "access_log off;")
        (folder / "nginx.conf").write_text(text)
        command = [NGINX, "-e", "stderr", "-c", str(folder / "nginx.conf")]
        self._nginx = subprocess.Popen([*command, "-g", f"daemon off; pid {folder}/nginx.pid;"])
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            assert time.monotonic() < deadline, "Nginx does not listen"
            time.sleep(0.1)

    def close(self) -> None:
        """End Nginx gracefully, and the servers."""
        self._nginx.send_signal(signal.SIGQUIT)
        for server in self.servers:
            server.close()
        try:
            self._nginx.wait(10)
        except subprocess.TimeoutExpired:
            self._nginx.kill()
            self._nginx.wait()


@contextlib.contextmanager
def fleet(count: int, **environment: str) -> Iterator[Fleet]:
    """Start servers and Nginx; all end with the block."""
    with tempfile.TemporaryDirectory(prefix="nerve-fleet-") as folder:
        Path(folder).chmod(0o755)
        held = Fleet(Path(folder), count, **environment)
        try:
            yield held
        finally:
            held.close()


@dataclass
class Outcome:
    """What clients saw: ms of each answer 200 by kind of request, and what else came, by its name."""

    latencies: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def summary(self) -> dict:
        """Return counts, rates and percentiles by kind."""
        found: dict = {"failed": self.failures, "seconds": round(self.seconds, 2)}
        for kind, seen in self.latencies.items():
            if not seen:
                continue
            ordered = sorted(seen)
            found[kind] = {
                "answered": len(ordered),
                "rps": round(len(ordered) / self.seconds, 1),
                "p50_ms": round(ordered[len(ordered) // 2], 1),
                "p99_ms": round(ordered[int(len(ordered) * 0.99)], 1),
                "max_ms": round(ordered[-1], 1),
            }
        return found


class Clients:
    """Closed-loop clients: one thread and one kept connection each."""

    def __init__(self, port: int, bodies: dict[str, list[bytes]], counts: dict[str, int]) -> None:
        """bodies: requests by kind; counts: clients by kind."""
        self._port, self._bodies = port, bodies
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.outcome = Outcome({kind: [] for kind in counts})
        self._threads = [
            threading.Thread(target=self._run, args=(kind, number))
            for kind, count in counts.items()
            for number in range(count)
        ]

    def _run(self, kind: str, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        bodies, seen, failed = self._bodies[kind], [], {}
        while not self._stop.is_set():
            number += 1
            started = time.perf_counter()
            try:
                connection.request(
                    "POST",
                    "/predict_tokens",
                    bodies[number % len(bodies)],
                    {"content-type": "application/json"},
                )
                answer = connection.getresponse()
                answer.read()
                outcome = "" if answer.status == 200 else str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                connection.close()
            if outcome:
                failed[outcome] = failed.get(outcome, 0) + 1
            else:
                seen.append((time.perf_counter() - started) * 1000)
        connection.close()
        with self._lock:
            self.outcome.latencies[kind] += seen
            for name, count in failed.items():
                self.outcome.failures[name] = self.outcome.failures.get(name, 0) + count

    def __enter__(self) -> "Clients":
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.outcome.seconds = time.monotonic() - self._started


def bodies_of(words: int, count: int = 32) -> list[bytes]:
    """Return requests with one text of about so many words each, no two alike."""
    names = ["Maria Garcia", "John Smith", "Chen Wei", "Anna Berg", "Ivan Petrov", "Fatima Noor", "Lena Vogt"]
    found = []
    for number in range(count):
        parts = []
        while len(parts) * 9 < words:
            name = names[(number + len(parts)) % len(names)]
            parts.append(f"{name} wrote to room {number}{len(parts)} about the invoice.")
        found.append(json.dumps({"inputs": " ".join(parts), "aggregation_strategy": "simple"}).encode())
    return found
