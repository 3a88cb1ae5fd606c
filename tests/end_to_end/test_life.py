"""The life of a real server: signals, dying processes, several workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from builders import ServerProcess, free_port, start_server, workers_of, write_config, write_troubled_model
from raw_http import connect, metric, read_answer, request_bytes, wait_until

SERVE_WITH_LONG_PAUSES = """
import sys
from nerve.cli import main
from nerve.server import supervisor
supervisor._FIRST_PAUSE_SECONDS = supervisor._LONGEST_PAUSE_SECONDS = 3600.0
sys.exit(main())
"""
UNSHARE = [shutil.which("unshare") or "", "--pid", "--fork", "--kill-child"]


def can_unshare() -> bool:
    """Tell whether a process may be the first of a namespace."""
    return (
        bool(UNSHARE[0])
        and not subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode
    )


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
    assert server.process.wait(60) == 0
    assert "Killing" not in server.log()


def test_worker_that_does_not_end_in_time_is_killed(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """A call that outlasts `drain_timeout_ms` holds up no stop."""
    folder = write_troubled_model(tmp_path / "slow", slow_turns=60_000)
    server = serve(folder=folder, server={"drain_timeout_ms": 500})
    (worker,) = workers_of(server)
    with connect(server) as connection:
        connection.sendall(request_bytes(b'{"inputs": "x"}'))
        wait_until(lambda: metric(server, "nerve_queue_tokens") == 0 and is_computing(worker), "a call runs")
        server.process.send_signal(signal.SIGTERM)
        server.client.close()
        assert server.process.wait(60) == 0
    assert not Path(f"/proc/{worker}").exists()
    assert "Killing worker-1" in server.log()


def is_computing(pid: int) -> bool:
    """Tell whether a process takes CPU time."""

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before = ticks()
    time.sleep(0.2)
    return ticks() - before >= 5


@pytest.mark.skipif(not can_unshare(), reason="a process namespace cannot be made here")
def test_the_first_process_of_a_container_heeds_an_early_sigterm(lookup_model: Path, tmp_path: Path) -> None:
    """SIGTERM has no default action for process 1; a stop while Granian is still imported ends it all the same."""
    config = write_config(tmp_path / "config.yaml", lookup_model, server={"port": free_port()})
    command = [*UNSHARE, sys.executable, "-X", "importtime", "-m", "nerve", "serve", "--config", str(config)]
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as namespace:
        try:
            wait_until(lambda: "granian" in log.read_text(), "Granian is being imported", timeout=60)
            children = Path(f"/proc/{namespace.pid}/task/{namespace.pid}/children").read_text()
            os.kill(int(children), signal.SIGTERM)
            assert namespace.wait(60) == 128 + signal.SIGTERM
        finally:
            namespace.kill()


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
    assert server.process.wait(60) == 0


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
    assert server.process.wait(60) == 0
    assert time.monotonic() - started < 10


def test_workers_that_die_in_a_row_are_replaced(serve: Callable[..., ServerProcess]) -> None:
    """A worker that has been ready is replaced at once, however often; that is no crash loop."""
    server = serve()
    for _ in range(3):
        (victim,) = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda gone=victim: gone not in workers_of(server) and is_ready(server), "a new one serves"
        )  # type: ignore[misc]
    server.client.close()
    assert server.stop() == 0


@pytest.fixture
def doomed(serve: Callable[..., ServerProcess], lookup_model: Path, tmp_path: Path) -> ServerProcess:
    """Start a server whose only worker has just died, and whose model cannot be loaded again."""
    folder = Path(shutil.copytree(lookup_model, tmp_path / "model"))
    server = serve(folder=folder)
    (folder / "model.onnx").write_bytes(b"not a graph")
    os.kill(workers_of(server)[0], signal.SIGKILL)
    return server


@pytest.mark.timeout(300)  # six starts, on a busy machine
def test_worker_that_cannot_be_replaced_ends_the_server(doomed: ServerProcess) -> None:
    """With nobody left to serve, five failed starts are enough: the reasons, one last line, a failing status."""
    assert doomed.process.wait(180) == 1
    messages = [json.loads(line)["message"] for line in doomed.log().splitlines() if line.startswith("{")]
    assert messages.count("5 workers in a row could not start; the server ends") == 1
    assert sum("cannot start: " in message and "model.onnx" in message for message in messages) == 5


def test_second_worker_serves_until_the_first_can_be_replaced(
    serve: Callable[..., ServerProcess], lookup_model: Path, tmp_path: Path
) -> None:
    """While another worker serves, replacing goes on, slower and slower, until it succeeds."""
    folder = Path(shutil.copytree(lookup_model, tmp_path / "model"))
    server = serve(folder=folder, server={"workers": 2})
    wait_until(lambda: metric(server, "nerve_ready_workers") == 2, "both workers are ready")
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(b"not a graph")
    os.kill(workers_of(server)[0], signal.SIGKILL)
    wait_until(lambda: server.log().count("the next one is started in") == 2, "two have failed", timeout=60)
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/predict_tokens", json={"inputs": "Anna"}).status_code == 200
    (folder / "model.onnx").write_bytes(whole)
    wait_until(lambda: metric(server, "nerve_ready_workers") == 2, "both serve again", timeout=60)
    server.client.close()
    assert server.stop() == 0


@pytest.mark.timeout(300)  # on a busy machine
def test_sigterm_ends_a_server_whose_worker_cannot_be_replaced(lookup_model: Path, tmp_path: Path) -> None:
    """The pause before the next start is cut short: here it would be an hour."""
    folder = Path(shutil.copytree(lookup_model, tmp_path / "model"))
    server = start_server(
        write_config(tmp_path / "config.yaml", folder), program=("-c", SERVE_WITH_LONG_PAUSES)
    )
    try:
        (folder / "model.onnx").write_bytes(b"not a graph")
        os.kill(workers_of(server)[0], signal.SIGKILL)
        wait_until(lambda: "the next one is started in 3600.0 s" in server.log(), "the next one has failed")
        server.close_connections()
        assert server.stop(120) == 0
    finally:
        server.process.kill()
        server.process.wait()
    last = server.log().partition("the next one is started in")[2]
    assert "Shutting down" in last
    assert "Respawning" not in last


def test_sigterm_while_a_worker_is_replaced(serve: Callable[..., ServerProcess]) -> None:
    """A worker that has just loaded its model ends like the others, and not at the end of the drain timeout."""
    server = serve(server={"workers": 2})
    wait_until(lambda: metric(server, "nerve_ready_workers") == 2, "both workers are ready")
    os.kill(workers_of(server)[0], signal.SIGKILL)
    wait_until(
        lambda: server.log().count(" loaded in ") == 3, "the next one has loaded its model", timeout=30
    )
    server.client.close()
    assert server.stop(timeout=25) == 0


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
def test_model_that_stops_to_compute_ends_its_worker(
    serve: Callable[..., ServerProcess], tmp_path: Path, trouble: str
) -> None:
    """Without any request: readiness turns off, says why, and after the grace time the worker is replaced."""
    words = {"bad_word": "canary"} if trouble == "fails" else {"slow_word": "canary", "slow_turns": 10**6}
    folder = write_troubled_model(tmp_path / "model", **words)  # type: ignore[arg-type]
    server = serve(
        folder=folder, server={"canary_interval_ms": 300, "canary_timeout_ms": 1000}, cpu={"threads": 1}
    )
    (worker,) = workers_of(server)
    wait_until(lambda: server.client.get("/health/ready").status_code == 503, "readiness is off")
    assert "does not answer" in server.client.get("/health/ready").json()["error"]
    assert server.client.get("/health/live").status_code == 200
    server.client.close()
    wait_until(lambda: worker not in workers_of(server), "the worker has ended", timeout=20)
    wait_until(lambda: is_ready(server), "the next one is ready", timeout=20)
    log = server.log()
    assert "the model does not compute" in log
    assert "this worker ends" in log
    assert "canary" not in log.replace("nerve.engine.canary", "")
