"""A worker that cannot start ends, at whatever step it fails; the server says why, once, and ends too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import ServerProcess, start_server, workers_of, write_config
from raw_http import wait_until

NO_THREADS = 'RuntimeError("can\'t start new thread")'  # what a full cgroup makes Python raise
# Steps of a worker's start: where they are, and their names.
STEPS = {
    "the engine": ("nerve.http.app.App", "start"),
    "the canary": ("nerve.engine.canary.Canary", "__init__"),
    "the application": ("nerve.http.app.App", "__init__"),
    "the metrics": ("nerve.observability.metrics.Metrics", "__init__"),
    "the watch over requests": ("nerve.http.in_flight.InFlight", "__init__"),
    "the model": ("nerve.server.worker.Worker", "_load"),
    "the pool": ("nerve.engine.pool.Pool", "__init__"),
}
WRAPPER = """
import importlib, pathlib, sys, os

if __name__ != "__main__":  # workers import this file again
    path, name = {path!r}.rpartition(".")[::2]
    target = getattr(importlib.import_module(path), name)
    real = getattr(target, {step!r})

    def fail(*arguments, **keywords):
        if pathlib.Path({flag!r}).exists():
            raise {error}
        return real(*arguments, **keywords)

    setattr(target, {step!r}, fail)
if __name__ == "__main__":
    from nerve.cli import main

    sys.exit(main())
"""

Start = Callable[..., tuple[ServerProcess, Path]]


@pytest.fixture
def start(tmp_path: Path, lookup_model: Path) -> Iterator[Start]:
    """Start a server one of whose steps fails for as long as a file is there, which is returned, too."""
    running: list[ServerProcess] = []

    def begin(step: str, error: str, wait: bool, **server: object) -> tuple[ServerProcess, Path]:
        flag = tmp_path / "flag"
        if not wait:
            flag.touch()
        path, name = STEPS[step]
        wrapper = tmp_path / "wrapper.py"
        wrapper.write_text(WRAPPER.format(path=path, step=name, flag=str(flag), error=error))
        config = write_config(
            tmp_path / "config.yaml", lookup_model, server={"canary_interval_ms": 10_000, **server}
        )
        running.append(start_server(config, None, wait, program=[str(wrapper)]))
        return running[-1], flag

    yield begin
    for server in running:
        server.client.close()
        server.stop()


def reasons(server: ServerProcess) -> list[str]:
    """Return what the log says of workers that could not start."""
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if "cannot start" in line["message"]]


@pytest.mark.parametrize("step", STEPS)
def test_start_that_fails_ends_the_server_with_one_line(start: Start, step: str) -> None:
    """Where no thread can be made the line says so; no traceback is printed around it."""
    server, _ = start(step, NO_THREADS, wait=False)
    assert server.process.wait(30) == 1
    assert [("threads" in reason) for reason in reasons(server)] == [True], server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("server", [{"workers": 2}, {"interface": "asgi"}], ids=str)
def test_so_it_is_with_two_workers_and_over_asgi(start: Start, server: dict[str, object]) -> None:
    """One line, whoever was first."""
    running, _ = start("the engine", NO_THREADS, wait=False, **server)
    assert running.process.wait(30) == 1
    assert len(reasons(running)) == 1, running.log()


def test_defect_in_the_start_is_logged_with_its_stack(start: Start) -> None:
    """What nobody has foreseen, too, ends the server."""
    server, _ = start("the engine", "ZeroDivisionError", wait=False)
    assert server.process.wait(30) == 1
    assert reasons(server) == ["cannot start: a defect"]
    assert "ZeroDivisionError" in server.log()


def test_replacement_that_cannot_start_its_engine_is_tried_five_times(start: Start) -> None:
    """Then the server gives up: nobody is left to serve."""
    server, flag = start("the engine", NO_THREADS, wait=True)
    flag.touch()
    os.kill(workers_of(server)[0], signal.SIGKILL)
    assert server.process.wait(60) == 1
    assert len(reasons(server)) == 5
    assert "5 workers in a row could not start; the server ends" in server.log()


def test_replacement_that_starts_at_last_serves(start: Start) -> None:
    """Threads can be made again after two tries."""
    server, flag = start("the engine", NO_THREADS, wait=True)
    flag.touch()
    os.kill(workers_of(server)[0], signal.SIGKILL)
    wait_until(lambda: len(reasons(server)) == 2, "two have failed", timeout=60)
    flag.unlink()
    wait_until(lambda: server.log().count('"ready"') == 2, "the third is ready", timeout=60)
    server.client.close()
    assert server.stop() == 0
