"""A server of a quick model answers what arrives together with fewer calls of it, and waits for nobody."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from builders import ServerProcess, workers_of
from raw_http import (
    GOOD_BODY,
    chunked_request,
    connect,
    exchange,
    metric,
    read_answer,
    request_bytes,
    wait_until,
)

TEXTS = [
    "Anna",
    "Paris",
    "New York",
    "Bob lives in Paris",
    "anna bob",
    "lives in",
    "",
    "Anna lives in New York",
]


@pytest.fixture
def quick(serve: Callable[..., ServerProcess]) -> Iterator[ServerProcess]:
    """Run a server whose model's calls have all been quick so far."""
    server = serve()
    with connect(server) as connection:
        rest = b""
        for _ in range(150):
            connection.sendall(request_bytes(GOOD_BODY))
            _, rest = read_answer(connection, rest)
    yield server
    assert "defect" not in server.log()


def body_of(text: str, **options: object) -> bytes:
    """Write a request."""
    return json.dumps({"inputs": text, "aggregation_strategy": "simple", **options}).encode()


def open_many(server: ServerProcess, count: int, stack: ExitStack) -> list[socket.socket]:
    """Open connections for as long as the stack lasts."""
    return [stack.enter_context(connect(server)) for _ in range(count)]


def test_requests_that_arrive_together_share_calls(quick: ServerProcess) -> None:
    """Each gets the answer that it gets alone, labels' scores or not."""
    bodies = [body_of(text) for text in TEXTS] + [body_of(text, raw_scores=True) for text in TEXTS]
    alone = [exchange(quick, request_bytes(body)).json() for body in bodies]
    before = metric(quick, "nerve_batches_total")
    n_rounds = 40
    with ExitStack() as stack:
        connections = open_many(quick, len(bodies), stack)
        for _ in range(n_rounds):
            for connection, body in zip(connections, bodies, strict=True):
                connection.sendall(request_bytes(body))
            assert [read_answer(connection)[0].json() for connection in connections] == alone
    n_calls = metric(quick, "nerve_batches_total") - before
    assert n_calls < 0.9 * n_rounds * len(bodies)


def policies_of(server: ServerProcess) -> set[int]:
    """Return the scheduling classes of the threads of the workers."""
    found = set()
    for worker in workers_of(server):
        for task in Path(f"/proc/{worker}/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended since
                found.add(os.sched_getscheduler(int(task.name)))
    return found


def test_network_threads_step_back_while_the_server_thread_makes_all_answers(quick: ServerProcess) -> None:
    """Not any more once an engine thread has made one."""
    with connect(quick) as connection:
        rest = b""
        for _ in range(150):
            connection.sendall(request_bytes(GOOD_BODY))
            _, rest = read_answer(connection, rest)
    wait_until(lambda: os.SCHED_BATCH in policies_of(quick), "threads step back")
    assert quick.client.get("/health/ready").status_code == 200  # is no prediction
    assert os.SCHED_BATCH in policies_of(quick)
    assert quick.predict("Anna " * 3_000).status_code == 200  # of several windows
    wait_until(lambda: policies_of(quick) == {os.SCHED_OTHER}, "threads are back")


def test_nobody_waits_for_a_body_that_does_not_come(quick: ServerProcess) -> None:
    """Fifty heads are there, their bodies are not, or do not end: a good request takes as long as ever."""
    with ExitStack() as stack:
        connections = open_many(quick, 50, stack)
        endless = chunked_request([GOOD_BODY], finish=False)
        for connection in open_many(
            quick, 20, stack
        ):  # all bytes that are stated, but in a chunk with more to come
            connection.sendall(endless.replace(b"host", b"content-length: %d\r\nhost" % len(GOOD_BODY)))
        whole = request_bytes(GOOD_BODY)
        head = whole[: -len(GOOD_BODY)]
        for connection in connections:
            connection.sendall(head + GOOD_BODY[:5])
        seconds = []
        for _ in range(50):
            started = time.perf_counter()
            assert exchange(quick, whole).status == 200
            seconds.append(time.perf_counter() - started)
        assert sorted(seconds)[len(seconds) // 2] < 0.05
        for connection in connections:
            connection.sendall(GOOD_BODY[5:])
        assert {read_answer(connection)[0].status for connection in connections} == {200}


def test_clients_that_leave_cost_the_others_nothing(quick: ServerProcess) -> None:
    """Every second one sends its request and is gone; the others get their answers at once."""
    expected = exchange(quick, request_bytes(GOOD_BODY)).body
    for _ in range(20):
        with ExitStack() as stack:
            connections = open_many(quick, 20, stack)
            for number, connection in enumerate(connections):
                connection.sendall(request_bytes(GOOD_BODY))
                if number % 2:
                    connection.close()
            started = time.perf_counter()
            for connection in connections[::2]:
                assert read_answer(connection)[0].body == expected
            assert time.perf_counter() - started < 2
