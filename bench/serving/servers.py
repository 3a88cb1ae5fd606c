"""Starts the servers of servers.toml, holds those that wait their turn, and reads their CPU time.

Every server gets a session of its own, so all its processes are known whatever they fork. A server that is
not being measured is stopped with SIGSTOP: several of them poll when idle and would disturb the others.
"""

import contextlib
import importlib.util
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from bench.paths import WORK
from bench.serving.models import BenchModel, Unavailable, standard_graph
from bench.serving.workload import TOLERANCE

HERE = Path(__file__).parent
ANSWERS = 10
START_SECONDS = 120
CORES = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ServerSpec:
    """One entry of servers.toml."""

    name: str
    variant: str
    command: list[str]
    needs: list[str] = field(default_factory=list)
    workers: int | str = 1
    threads: int | str = 1
    model: str | None = None
    graph: str = "built"  # or "standard": the same in operators of ONNX alone
    route: str = "/predict_tokens"
    rows: str = "all"
    settings: dict = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    @property
    def label(self) -> str:
        """Identify the server in results."""
        return f"{self.name}/{self.variant}"

    def check(self) -> None:
        """Raise `Unavailable` when a module is missing."""
        missing = [name for name in self.needs if not has_module(name)]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")


def has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def read_specs(file: Path = HERE / "servers.toml") -> list[ServerSpec]:
    return [ServerSpec(**entry) for entry in tomllib.loads(file.read_text())["server"]]


def in_cores(value: int | str) -> int:
    return CORES if value == "cores" else int(value)


def peer_environment(spec: ServerSpec, model: BenchModel, port: int) -> dict[str, str]:
    return {
        "BENCH_PORT": str(port),
        "BENCH_WORKERS": str(in_cores(spec.workers)),
        "BENCH_THREADS": str(in_cores(spec.threads)),
        "BENCH_TOKENIZER": str(model.folder / "tokenizer.json"),
        "BENCH_CONFIG": str(model.folder / "config.json"),
        "BENCH_GRAPH": str(model.graph if spec.graph == "built" else standard_graph(model.graph)),
        "BENCH_CHECKPOINT": str(model.checkpoint),
        **model.environment,
        **spec.environment,
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A running server, held except inside `turn()`."""

    def __init__(self, spec: ServerSpec, model: BenchModel, probe: bytes):
        self.spec = spec
        self.port = free_port()
        WORK.mkdir(exist_ok=True)
        name = spec.label.replace("/", "-").replace(" ", "")
        self.log = WORK / f"{name}.log"
        config = {
            "model": {**model.source, "cache_dir": str(WORK / "cache")},
            "server": {"host": "127.0.0.1", "port": self.port, "log_level": "warning"},
        }
        for section, values in (*model.settings.items(), *spec.settings.items()):
            config[section] = {**config.get(section, {}), **values}
        config_file = WORK / f"{name}-{model.name}.yaml"
        config_file.write_text(json.dumps(config, indent=2))  # JSON is YAML
        environment = peer_environment(spec, model, self.port)
        if "BENCH_CARD" in environment:  # a card of its own: a server that is held may hold its lock
            environment["BENCH_CARD"] += f".{name}"
        self.settings = config if "{config}" in spec.command else environment
        filled = {"python": sys.executable, "bin": Path(sys.executable).parent, "port": self.port}
        command = [part.format(**filled, config=config_file) for part in spec.command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=HERE / "peers",
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.wait_ready(probe)
        except BaseException:
            self.close()
            raise
        self.rest()

    @property
    def url(self) -> str:
        """Return the address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def post(self, body: bytes) -> bytes:
        """Return the answer to one request; OSError when there is none or its status is not 2xx."""
        request = urllib.request.Request(  # noqa: S310  our own address
            self.url + self.spec.route, body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  our own address
            return answer.read()

    def wait_ready(self, probe: bytes) -> None:
        """Return when the probe is answered, several times: there may be several workers. Raises `Unavailable`."""
        deadline = time.monotonic() + START_SECONDS
        answers = 0  # in a row, each to a new connection
        while answers < ANSWERS:
            try:
                self.post(probe)
            except (OSError, urllib.error.URLError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"{self.spec.label} did not start ({error}); see {self.log}") from error
                time.sleep(0.1)
                answers = 0
            else:
                answers += 1

    @contextlib.contextmanager
    def turn(self):
        """Let the server run."""
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.rest()

    def rest(self) -> None:
        """Hold the server."""
        self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pids(self) -> list[int]:
        """Return all its processes."""
        return [pid for pid, fields in all_stats() if int(fields[3]) == self.process.pid]

    def cpu_seconds(self) -> float:
        """Return user and system time of all its processes, children that have ended included."""
        ours = [fields for _, fields in all_stats() if int(fields[3]) == self.process.pid]
        return sum(int(ticks) for fields in ours for ticks in fields[11:15]) / TICKS

    def rss_mib(self) -> float:
        """Return the resident memory of all its processes; shared pages count in each."""
        pages = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        """End all its processes: SIGTERM, and after 10 s SIGKILL."""
        self.signal(signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.signal(signal.SIGKILL)
        self.process.wait()


def all_stats() -> list[tuple[int, list[str]]]:
    """(pid, fields of /proc/PID/stat from the state on) of every process that can be read."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()))
    return found


def run_floor(
    spec: ServerSpec, model: BenchModel, work: Path, seconds: float, warm_up: float
) -> tuple[dict, float]:
    """Run floor.py to its end; return what it prints and all the CPU seconds it used."""
    command = [part.format(python=sys.executable) for part in spec.command]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, work, str(seconds), str(warm_up)],
        cwd=HERE / "peers",
        env={**os.environ, **peer_environment(spec, model, 0)},
        stdout=subprocess.PIPE,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout), used
