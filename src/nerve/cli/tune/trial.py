"""One measurement of `nerve tune`: a real server process with one setting, under load over loopback HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import yaml

from nerve.cli.browser import is_ready
from nerve.cli.tune.load import Load, Sample
from nerve.cli.tune.neighbours import Neighbours
from nerve.cli.tune.plan import Measured, RateSearch, apply
from nerve.config import LogFormat, LogLevel, environment_without_overrides
from nerve.errors import NerveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nerve.cli.tune.plan import Setting
    from nerve.config import Config

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_CLOSED_CONNECTIONS = 32
_MOST_PROBES = 6
# Answers in a row, each on a connection of its own, before a server with several workers counts as ready.
_READY_ANSWERS = 8


class TrialError(NerveError):
    """A server cannot be started with a setting, or does not answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one setting is measured.

    target: seconds. probe: seconds of one rate. ends: on `time.monotonic`, after which no further rate is tried.
    """

    target: float
    probe: float
    ends: float


def measure(
    config: Config, setting: Setting, requests: Sequence[bytes], plan: Plan, hint: float = 0.0
) -> Measured:
    """Start a server with `setting`, find its capacity and stop it. Raises `TrialError`."""
    neighbours = Neighbours()
    with run_server(apply(config, setting)) as port:
        load = Load(port, requests)
        load.closed_loop(_CLOSED_CONNECTIONS // 4, plan.probe / 4)  # warm-up
        alone = load.closed_loop(1, plan.probe / 2)
        full = load.closed_loop(_CLOSED_CONNECTIONS, plan.probe / 2)
        if not alone.latencies or not full.latencies:
            raise TrialError(
                f"no request was answered: {_describe(alone)}; {_describe(full)}; try them against `nerve serve`"
            )
        best = alone
        search = RateSearch(full.rate, _MOST_PROBES, hint)
        capacity = 0.0
        clients = [alone, full]
        # Where even a lone request is late, no rate can pass.
        while alone.percentile(0.5) <= plan.target and (rate := search.next()) is not None:
            sample = load.open_loop(rate, plan.probe, plan.target)
            passed = sample.percentile(0.99) <= plan.target
            search.record(rate, passed)
            clients.append(sample)
            if passed:
                capacity, best = rate, sample
            if time.monotonic() > plan.ends:
                break
    return Measured(
        setting=setting,
        capacity=capacity,
        p50_ms=best.percentile(0.5) * 1000,
        p99_ms=best.percentile(0.99) * 1000,
        saturated=full.rate,
        client_cores=sum(c.cpu_seconds for c in clients) / sum(c.seconds for c in clients),
        n_requests=best.planned if capacity else 0,
        others=neighbours.cores(),
    )


@contextmanager
def run_server(config: Config) -> Iterator[int]:
    """Run `nerve serve` with `config` on a free port of the loopback interface while the block runs.

    What the load does not go through is left out: TLS, the API key, a Unix socket, the access log.
    Raises `TrialError` when the server does not start.
    """
    port = _free_port()
    server = msgspec.structs.replace(
        config.server,
        host="127.0.0.1",
        port=port,
        uds=None,
        tls=None,
        api_key_file=None,
        access_log=False,
        log_level=LogLevel.WARNING,
        log_format=LogFormat.TEXT,
        drain_delay_ms=0,
        drain_timeout_ms=2000,
    )
    document = msgspec.to_builtins(msgspec.structs.replace(config, server=server))
    with _temporary_folder() as folder:
        file, log = folder / "config.yaml", folder / "log"
        file.write_text(yaml.safe_dump(document))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "nerve", "serve", "--config", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment_without_overrides(),
                start_new_session=True,  # Ctrl-C is for us; the server is stopped below
            )
        try:
            _wait_until_ready(process, port, config.server.workers, log)
            yield port
        finally:
            _stop(process)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Give a folder for the block. Raises `TrialError` when none can be made."""
    try:
        made = tempfile.TemporaryDirectory(prefix="nerve-tune-", ignore_cleanup_errors=True)
    except OSError as error:
        raise TrialError(f"there is no folder for temporary files: {error}; set TMPDIR to one") from error
    with made as name:
        yield Path(name)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, workers: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    in_a_row = 0
    while in_a_row < (_READY_ANSWERS * workers if workers > 1 else 1):
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise TrialError(
                f"the server ended with {process.returncode}: {lines[-1] if lines else ''}; try `nerve serve`"
            )
        if time.monotonic() > deadline:
            raise TrialError(f"the server is not ready after {_START_SECONDS:.0f} s; try `nerve serve`")
        if is_ready(f"http://127.0.0.1:{port}/"):
            in_a_row += 1
        else:
            in_a_row = 0
            time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _describe(sample: Sample) -> str:
    return f"{sample.planned} sent, {sample.refused} refused, {sample.failed} failed"
