"""Large requests over HTTP: a second process of the worker does their Python work."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from builders import ServerProcess
from raw_http import exchange, metric, request_bytes, wait_until

TICKS = os.sysconf("SC_CLK_TCK")
SMALL = "anna lives in paris . "
LARGE = {"inputs": [SMALL * 2_000, "bob", SMALL * 2_000], "aggregation_strategy": "simple"}


def descendants(pid: int) -> list[int]:
    """Return a process's children and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def annex_of(server: ServerProcess) -> int | None:
    """Return the process for large requests, once there is one."""
    for pid in descendants(server.process.pid):
        if b"nerve.engine.large_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def cpu_seconds(pid: int) -> float:
    """Return what a process itself has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def parent_of(pid: int) -> int:
    """Return the process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_large_answers_are_those_of_small_ones(server: ServerProcess) -> None:
    """Rows, headers and counts of a large request are what its texts give one by one."""
    before = metric(server, "nerve_texts_total")
    answer = server.client.post("/predict_tokens", json=LARGE)
    assert answer.status_code == 200
    first, bob, last = answer.json()
    assert first == last
    assert [row["token"] for row in first] == ["anna", "paris"] * 2_000
    assert bob == server.predict("bob", aggregation_strategy="simple").json()[0]
    assert int(answer.headers["x-compute-tokens"]) > 20_000
    assert "tokenize;dur=" in answer.headers["server-timing"]
    assert metric(server, "nerve_texts_total") == before + 4
    packed = server.client.post(
        "/predict_tokens",
        content=msgspec.msgpack.encode(LARGE),
        headers={"content-type": "application/msgpack", "accept": "application/msgpack"},
    )
    assert msgspec.msgpack.decode(packed.content) == answer.json()
    cut = server.client.post("/predict_tokens", json={**LARGE, "truncate": True})
    assert cut.headers["x-truncated"] == "0,2"
    assert "error" not in server.log().lower()


def test_all_scores_of_a_longer_text_are_large(serve: Callable[..., ServerProcess]) -> None:
    """A body that is small by itself counts as large when every label's score is asked for."""
    server = serve()
    text = SMALL * 200
    assert server.predict(text).status_code == 200
    assert annex_of(server) is None
    rows = server.predict(text, raw_scores=True).json()[0]
    assert annex_of(server) is not None
    assert [row["token"] for row in rows] == [row["token"] for row in server.predict(text).json()[0]]
    assert all(len(row["results"]) == 5 for row in rows)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"inputs": "' + b"a " * 50_000, 400),
        (b'{"inputs": "' + b"\xff" * 100_000 + b'"}', 400),
        (b'{"inputs": "' + b"a " * 50_000 + b'", "secret": 1}', 422),
        (json.dumps({"inputs": [""] * 100_000}).encode(), 422),
        (json.dumps({"inputs": SMALL * 5_000}).encode(), 422),
        (b"[" * 100_000, 400),
    ],
    ids=["cut short", "not UTF-8", "unknown field", "too many texts", "too many tokens", "deep"],
)
def test_large_bodies_that_are_refused(server: ServerProcess, body: bytes, status: int) -> None:
    """A large bad body gets the answer of a small one, and the next request is served."""
    answer = exchange(server, request_bytes(body))
    assert (answer.status, answer.json()["error_type"]) == (status, "Validation")
    assert b"secret" not in answer.body
    assert server.predict("anna").status_code == 200


def test_large_body_cut_short(server: ServerProcess) -> None:
    """A client that stops sending in the middle of a large body gets 400."""
    answer = exchange(
        server, request_bytes(b'{"inputs": "' + b"a " * 200_000, length=900_000), half_close=True
    )
    assert (answer.status, answer.json()["error_type"]) == (400, "Validation")
    assert server.predict("anna").status_code == 200


def test_the_worker_does_no_work_on_large_texts(server: ServerProcess) -> None:
    """What could hold the interpreter lock long is done elsewhere: the worker's own CPU time hardly grows."""
    body = {"inputs": "anna lives in paris " * 95_000, "truncate": True}
    assert server.client.post("/predict_tokens", json=body).status_code == 200  # starts the process
    annex = annex_of(server)
    assert annex is not None
    worker = parent_of(annex)
    before = cpu_seconds(worker), cpu_seconds(annex)
    for _ in range(3):
        assert server.client.post("/predict_tokens", json=body).status_code == 200
    in_worker, in_annex = cpu_seconds(worker) - before[0], cpu_seconds(annex) - before[1]
    assert in_annex > 0.5
    assert in_worker < in_annex / 5


def test_death_of_the_process_for_large_requests(serve: Callable[..., ServerProcess]) -> None:
    """It is started by the first large request; when it dies, the next one starts another."""
    server = serve()
    assert server.predict("anna").status_code == 200
    assert annex_of(server) is None
    assert server.client.post("/predict_tokens", json=LARGE).status_code == 200
    annex = annex_of(server)
    assert annex is not None
    os.kill(annex, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.client.post, "/predict_tokens", json=LARGE)
        assert server.predict("anna").status_code == 200
        os.kill(annex, signal.SIGKILL)
        answer = waiting.result()
    assert answer.status_code in (200, 500)  # 200 where the worker had not yet sent it
    assert server.client.post("/predict_tokens", json=LARGE).status_code == 200
    second = annex_of(server)
    assert second not in (None, annex)
    server.client.close()
    assert server.stop() == 0
    assert not Path(f"/proc/{second}").exists()


def test_sigterm_answers_large_requests(serve: Callable[..., ServerProcess]) -> None:
    """A large request that was accepted before SIGTERM is answered, and nothing is left behind."""
    server = serve()
    body = json.dumps(LARGE).encode()
    assert exchange(server, request_bytes(body)).status == 200
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(exchange, server, request_bytes(body)) for _ in range(2)]
        wait_until(lambda: metric(server, "nerve_queue_tokens") > 0 or answers[0].done(), "it is at work")
        annex = annex_of(server)
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result().status for answer in answers] == [200, 200]
    server.client.close()
    assert server.process.wait(20) == 0
    assert not Path(f"/proc/{annex}").exists()


def test_the_process_ends_with_a_worker_that_is_killed(serve: Callable[..., ServerProcess]) -> None:
    """It leaves when nobody holds the other end of its sockets."""
    server = serve()
    assert server.client.post("/predict_tokens", json=LARGE).status_code == 200
    annex = annex_of(server)
    assert annex is not None
    os.kill(parent_of(annex), signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{annex}").exists(), "the process has ended")
