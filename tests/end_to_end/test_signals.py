"""Signals that tools and terminals send to servers: those that mean nothing here end nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from builders import ServerProcess, workers_of, write_config, write_troubled_model
from raw_http import connect, metric, read_answer, request_bytes, wait_until

IGNORED = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@contextmanager
def asked_all_the_time(server: ServerProcess) -> Iterator[set[object]]:
    """Ask for readiness on new connections for the block; gives what came back."""
    seen: set[object] = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.01):
            try:
                seen.add(httpx.get(f"{server.url}/health/ready").status_code)
            except httpx.TransportError as error:
                seen.add(type(error).__name__)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_signals_that_mean_nothing_are_ignored_and_said(
    serve: Callable[..., ServerProcess], interface: str
) -> None:
    """By the server and by its workers: nobody is replaced, no request fails, a line names each."""
    server = serve(server={"workers": 2, "interface": interface})
    before = workers_of(server)
    wait_until(lambda: metric(server, "nerve_ready_workers") == 2, "both workers are ready")
    with asked_all_the_time(server) as seen:
        for number in IGNORED:
            for pid in (server.process.pid, *before):
                os.kill(pid, number)
            said = f"{number.name} is ignored"
            wait_until(partial(lambda said: server.log().count(said) == 3, said), "all have said so")
        time.sleep(0.5)
    assert seen == {200}
    assert workers_of(server) == before
    for number in IGNORED:
        assert server.log().count(f"{number.name} is ignored") == 3
    server.client.close()
    assert server.stop() == 0


def test_signals_during_the_start_are_ignored(serve: Callable[..., ServerProcess]) -> None:
    """A volley of them, from the first moment of the server and of its worker on, starts and ends nothing."""
    server = serve(wait=False)
    wait_until(lambda: "Spawning worker-1 with PID: " in server.log(), "a worker is starting", timeout=60)
    worker = int(server.log().partition("Spawning worker-1 with PID: ")[2].partition('"')[0])
    until = time.monotonic() + 30
    while "ready" not in server.log() and time.monotonic() < until:
        for number in IGNORED:
            for pid in (server.process.pid, worker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        time.sleep(0.05)
    wait_until(lambda: server.client.get("/health/ready").status_code == 200, "it is ready")
    assert workers_of(server) == [worker]
    server.client.close()
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 5


def test_sigquit_drains(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """What was accepted is answered, and the end is as after SIGTERM: status 0, no core dump."""
    folder = write_troubled_model(tmp_path / "slow")
    server = serve(folder=folder, cpu={"threads": 1}, batching={"max_batch_size": 1})
    before = metric(server, "nerve_batches_total")
    with connect(server) as connection:
        connection.sendall(request_bytes(b'{"inputs": ["Anna x", "x", "x"]}'))
        wait_until(lambda: metric(server, "nerve_batches_total") > before, "the engine is at work")
        server.client.close()
        server.process.send_signal(signal.SIGQUIT)
        assert read_answer(connection)[0].status == 200
    assert server.process.wait(60) == 0


def test_sigquit_during_the_start_ends_it(lookup_model: Path, tmp_path: Path) -> None:
    """As SIGTERM would: at once, and without a core dump."""
    config = write_config(tmp_path / "config.yaml", lookup_model)
    with (tmp_path / "log").open("wb") as output:
        command = [sys.executable, "-X", "importtime", "-m", "nerve", "serve", "--config", str(config)]
        with subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path) as process:
            log = tmp_path / "log"
            wait_until(lambda: "granian" in log.read_text(), "Granian is being imported", timeout=60)
            process.send_signal(signal.SIGQUIT)
            assert process.wait(60) == -signal.SIGTERM
