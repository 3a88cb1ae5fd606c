"""Several workers before a device with one owner: one process runs the model for all, and what ends loses its own."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import ServerProcess, start_server, workers_of, write_config
from raw_http import connect, metric, read_answer, request_bytes, wait_until

# A device with one owner that computes as the CPU does.
OWNED = """
from nerve.config import Device, Precision
from nerve.errors import DeviceFailed, ModelError
from nerve.runtime.backend import Provider
from nerve.runtime.padded import Session


class Owned(Session):
    def run(self, windows, needs_logits, spread=False):
        if len(windows) == 1 and len(windows[0].ids) == 9:
            raise DeviceFailed("the card has fallen off the bus")
        return super().run(windows, needs_logits, spread)


def refuse(options):
    raise ModelError("the card is not there; put one in")


PROVIDER = Provider(
    device="owned", open=lambda options: Owned.open(options, Device.CPU), has_one_owner=True, max_padding=0.0
)
ABSENT = Provider(device="absent", open=refuse, has_one_owner=True)
"""
TEXT = "anna lives in paris"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the PYTHONPATH with such a device."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "owned.py").write_text(OWNED)
    facts = folder / "owned-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: owned\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[nerve.backends]\nowned = owned:PROVIDER\nabsent = owned:ABSENT\n"
    )
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def start(tmp_path: Path, plugin: str) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers with two workers, and end them."""
    started: list[ServerProcess] = []

    def begin(folder: Path, wait: bool = True, **sections: dict[str, Any]) -> ServerProcess:
        sections["server"] = {"workers": 2, **sections.get("server", {})}
        sections["model"] = {"device": "owned", **sections.get("model", {})}
        config = write_config(tmp_path / "config.yaml", folder, **sections)
        server = start_server(config, {"PYTHONPATH": plugin, "NERVE_API_KEY": "s3cret-key"}, wait=wait)
        server.client.headers["x-api-key"] = "s3cret-key"
        started.append(server)
        return server

    yield begin
    for server in started:
        server.close_connections()
        server.stop()


def engines_of(server: ServerProcess) -> list[int]:
    """Return the processes that run the model."""
    threads = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = [int(pid) for file in threads for pid in file.read_text().split()]
    return [pid for pid in children if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_ready(server: ServerProcess) -> bool:
    """Tell whether fresh connections find the server ready, whichever worker has them."""
    try:
        return all(httpx.get(f"{server.url}/health/ready").status_code == 200 for _ in range(6))
    except httpx.TransportError:
        return False


def send(server: ServerProcess, count: int, text: str = TEXT) -> list[Any]:
    """Send requests, each on a connection of its own."""
    body = json.dumps({"inputs": text}).encode()
    connections = [connect(server) for _ in range(count)]
    for connection in connections:
        connection.sendall(request_bytes(body, "x-api-key: s3cret-key"))
    return connections


def statuses(connections: list[Any]) -> list[int]:
    """Return the status of each answer; 0 where the connection was closed instead."""
    found = []
    for connection in connections:
        try:
            found.append(read_answer(connection)[0].status)
        except (OSError, EOFError, ValueError, AssertionError):
            found.append(0)
        connection.close()
    return found


def test_one_process_runs_the_model_for_all(
    start: Callable[..., ServerProcess], server: ServerProcess, lookup_model: Path
) -> None:
    """Answers are those of one process; the one that computes has no key, and nobody else can reach it."""
    fronts = start(lookup_model)
    (engine,) = engines_of(fronts)
    assert len(workers_of(fronts)) == 2
    for options in ({}, {"raw_scores": True}, {"aggregation_strategy": "simple"}):
        for text in (TEXT, "anna " * 200, ["a", "anna bob", ""]):
            expected = server.predict(text, **options)
            for _ in range(4):
                with httpx.Client(base_url=fronts.url, headers=fronts.client.headers, timeout=30) as client:
                    answer = client.post("/predict_tokens", json={"inputs": text, **options})
                assert (answer.status_code, answer.json()) == (expected.status_code, expected.json())
    assert b"s3cret" not in Path(f"/proc/{engine}/environ").read_bytes()
    info = fronts.client.get("/info").json()
    assert info["provider"] == "CPUExecutionProvider"
    assert info["revision"] == server.client.get("/info").json()["revision"]
    page = fronts.client.get("/metrics").text
    assert "nerve_engine_threads 1.0" in page
    assert "nerve_ready_workers 2.0" in page
    assert metric(fronts, "nerve_batches_total") > 0
    folders = list(Path(tempfile.gettempdir()).glob("nerve-engine-*"))
    assert folders
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)


def test_a_worker_that_is_killed_loses_its_own_requests(
    start: Callable[..., ServerProcess], troubled_model: Path
) -> None:
    """Those of the other one are answered; the process that computes stays; another worker comes."""
    server = start(troubled_model, batching={"max_batch_size": 1})
    engines, workers = engines_of(server), workers_of(server)
    connections = send(server, 16, "Anna x")
    wait_until(lambda: metric(server, "nerve_queue_tokens") > 0, "requests wait")
    os.kill(workers[0], signal.SIGKILL)
    found = statuses(connections)
    assert set(found) <= {200, 0}
    wait_until(lambda: len(workers_of(server)) == 2 and is_ready(server), "another worker is ready", 60)
    assert engines_of(server) == engines
    assert statuses(send(server, 8)) == [200] * 8


def test_an_engine_that_is_killed_loses_what_is_under_way(
    start: Callable[..., ServerProcess], troubled_model: Path
) -> None:
    """503 for those, readiness off, the same workers, and another process that computes."""
    server = start(troubled_model, batching={"max_batch_size": 1})
    (engine,), workers = engines_of(server), workers_of(server)
    connections = send(server, 16, "Anna x")
    wait_until(lambda: metric(server, "nerve_queue_tokens") > 0, "requests wait")
    os.kill(engine, signal.SIGKILL)
    found = statuses(connections)
    assert set(found) <= {200, 503}
    assert 503 in found
    wait_until(lambda: bool(engines_of(server)) and engines_of(server) != [engine], "another process", 60)
    wait_until(lambda: is_ready(server), "it is ready", 60)
    assert workers_of(server) == workers
    assert statuses(send(server, 8)) == [200] * 8


def test_a_device_that_fails_is_opened_again(start: Callable[..., ServerProcess], lookup_model: Path) -> None:
    """Its requests get 503, and a new process serves the next ones."""
    server = start(lookup_model)
    engines, workers = engines_of(server), workers_of(server)
    assert statuses(send(server, 1, "anna " * 7)) == [503]
    wait_until(lambda: engines_of(server) not in ([], engines) and is_ready(server), "it is ready again", 60)
    assert workers_of(server) == workers
    assert statuses(send(server, 4)) == [200] * 4


def test_sigterm_to_all_processes_loses_no_answer(
    start: Callable[..., ServerProcess], troubled_model: Path
) -> None:
    """What was accepted is answered, though systemd stops every process of a server at once."""
    server = start(troubled_model, batching={"max_batch_size": 1})
    before = metric(server, "nerve_batches_total")
    connections = send(server, 12, "Anna x")
    wait_until(lambda: metric(server, "nerve_batches_total") > before, "the engine is at work")
    for pid in [*engines_of(server), *workers_of(server), server.process.pid]:
        os.kill(pid, signal.SIGTERM)
    assert statuses(connections) == [200] * 12
    assert server.process.wait(60) == 0
    assert "Killing" not in server.log()


def test_a_full_queue_refuses_across_workers(
    start: Callable[..., ServerProcess], troubled_model: Path
) -> None:
    """The limit is that of all workers together; every request is answered."""
    server = start(
        troubled_model,
        batching={"max_batch_size": 1, "max_queue_tokens": 40},
        limits={"request_timeout_ms": 20_000},
    )
    found = statuses(send(server, 40, "Anna x"))
    assert set(found) == {200, 429}


def test_an_engine_that_cannot_start_ends_the_server(
    start: Callable[..., ServerProcess], lookup_model: Path
) -> None:
    """One line says why."""
    server = start(lookup_model, wait=False, model={"device": "absent"})
    assert server.process.wait(60) == 1
    assert server.log().count("the card is not there; put one in") == 1
