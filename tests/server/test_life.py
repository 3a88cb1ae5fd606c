"""The life of a real server: signals, dying processes, several workers."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from builders import ServerProcess
from raw_http import connect, metric, read_answer, request_bytes, wait_until


def workers_of(server: ServerProcess) -> list[int]:
    """Return the ids of the processes that serve."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()
    ]


def is_ready(server: ServerProcess) -> bool:
    """Tell whether a fresh connection finds the server ready."""
    try:
        return httpx.get(f"{server.url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_under_load_loses_no_answer(
    serve: Callable[..., ServerProcess], troubled_model: Path
) -> None:
    """What was accepted before SIGTERM is answered, and the server ends with 0."""
    server = serve(folder=troubled_model, cpu={"threads": 1}, batching={"max_batch_size": 1})
    body = json.dumps({"inputs": "Anna x", "aggregation_strategy": "simple"}).encode()
    connections = [connect(server) for _ in range(12)]
    before = metric(server, "nerve_batches_total")
    for connection in connections:
        connection.sendall(request_bytes(body))
    wait_until(lambda: metric(server, "nerve_batches_total") > before, "the engine is at work")
    wait_until(lambda: metric(server, "nerve_queue_tokens") > 0, "requests wait")
    server.process.send_signal(signal.SIGTERM)
    for connection in connections:
        answer, _ = read_answer(connection)
        assert answer.status == 200, answer.body
        assert [row["token"] for row in answer.json()[0]] == ["Anna"]
        connection.close()
    assert server.process.wait(20) == 0
    assert "Killing" not in server.log()


def test_readiness_turns_before_the_end(serve: Callable[..., ServerProcess]) -> None:
    """On SIGTERM readiness is off for `drain_delay_ms` while predictions are still answered."""
    server = serve(server={"drain_delay_ms": 1500})
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.client.get("/health/ready").status_code == 503, "readiness is off", timeout=1.5)
    answer = server.client.get("/health")
    assert "draining" in answer.json()["error"]
    assert server.predict("Anna").status_code == 200
    assert server.client.get("/health/live").status_code == 200
    server.client.close()
    assert server.process.wait(20) == 0


def test_two_workers(serve: Callable[..., ServerProcess]) -> None:
    """Two workers count together; one that is killed is replaced, and service goes on meanwhile."""
    server = serve(server={"workers": 2})
    wait_until(lambda: metric(server, "nerve_ready_workers") == 2, "both workers are ready")
    for _ in range(20):  # new connections, so that both workers get some
        httpx.post(f"{server.url}/predict_tokens", json={"inputs": ["Anna", "Bob"]}).raise_for_status()
    assert {httpx.get(f"{server.url}/metrics").text.count("nerve_texts_total 40.0") for _ in range(6)} == {1}

    victim, survivor = workers_of(server)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in workers_of(server), "the dead worker is gone")
    wait_until(lambda: len(workers_of(server)) == 2, "a new worker is there")
    statuses = []
    while "Started worker" not in server.log().partition("Respawning")[2]:
        try:
            statuses.append(httpx.get(f"{server.url}/health/ready").status_code)
        except httpx.TransportError:
            statuses.append(0)
    assert survivor in workers_of(server)
    assert statuses.count(200) == len(statuses)
    for _ in range(10):
        httpx.post(f"{server.url}/predict_tokens", json={"inputs": "Anna"}).raise_for_status()
    assert metric(server, "nerve_texts_total") == 50
    assert metric(server, "nerve_ready_workers") == 2
    server.client.close()
    assert server.stop() == 0


def test_workers_do_not_outlive_the_server(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """When the server process is killed its worker ends; a new one takes over the same Unix socket."""
    path = str(tmp_path / "nerve.sock")
    first = serve(server={"uds": path})
    assert first.predict("Anna").status_code == 200
    (worker,) = workers_of(first)
    first.process.kill()
    first.process.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
    second = serve(server={"uds": path})
    assert second.predict("Anna").json() == second.predict(["Anna"]).json()
    assert oct(Path(path).stat().st_mode)[-3:] == "660"
    second.client.close()
    assert second.stop() == 0
    assert not Path(path).exists()


def test_sigterm_while_a_body_arrives(serve: Callable[..., ServerProcess]) -> None:
    """A request whose body is still on its way when SIGTERM comes is answered."""
    server = serve()
    request = request_bytes(b'{"inputs": "Anna"}')
    with connect(server) as connection:
        connection.sendall(request[:-5])
        assert server.predict("Bob").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping worker" in server.log(), "the worker stops")
        threading.Event().wait(0.1)
        connection.sendall(request[-5:])
        assert read_answer(connection)[0].status == 200
    started = time.monotonic()
    assert server.process.wait(20) == 0
    assert time.monotonic() - started < 10
