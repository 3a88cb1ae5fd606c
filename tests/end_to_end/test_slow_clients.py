"""Clients that send slowly, stop, or do not read: others are served as before, and each is closed in the end."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from builders import ServerProcess, write_lookup_model
from raw_http import GOOD_BODY, connect, exchange, is_closed, read_answer, request_bytes, wait_until

HEAD = b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# What a client sends before it stops.
BEGINNINGS = {
    "nothing": b"",
    "one byte": b"P",
    "part of a head": HEAD,
    "a whole request": request_bytes(GOOD_BODY),
    "part of a body": HEAD + b"content-length: 1000\r\n\r\n" + GOOD_BODY,
    "part of chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n11\r\n",
    "an HTTP/2 preface": HTTP2,
    "HTTP/2 settings": HTTP2 + b"\0\0\0\4\0\0\0\0\0",
}


def median_latency(server: ServerProcess, count: int = 40) -> float:
    """Return the median seconds of good requests on a fresh connection each."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        assert exchange(server, request_bytes(GOOD_BODY)).status == 200
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def test_clients_that_stop_are_closed(serve: Callable[..., ServerProcess]) -> None:
    """Five hundred of them, wherever they stop, cost a good client nothing while they are there."""
    server = serve(
        server={"client_timeout_ms": 1500, "keep_alive_ms": 1500}, limits={"request_timeout_ms": 1500}
    )
    alone = median_latency(server)
    stopped = []
    for number in range(500):
        beginning = list(BEGINNINGS.values())[number % len(BEGINNINGS)]
        connection = connect(server)
        connection.sendall(beginning)
        stopped.append((beginning, connection))
    assert median_latency(server) < 3 * alone + 0.005
    waiting = dict(enumerate(stopped))

    def all_are_closed() -> bool:
        for number in [number for number, (_, connection) in waiting.items() if is_closed(connection)]:
            waiting.pop(number)[1].close()
        return not waiting

    wait_until(all_are_closed, f"these are closed: {set(beginning for beginning, _ in waiting.values())}", 15)


def test_client_that_does_not_read_is_closed(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """An answer of megabytes that nobody takes is given up; one that is taken slowly is not."""
    model = write_lookup_model(tmp_path / "large", max_length=512)
    server = serve(folder=model, server={"client_timeout_ms": 1500})
    body = json.dumps({"inputs": ["x " * 1000] * 40, "raw_scores": True}).encode()
    connections = [socket.socket(), socket.socket()]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", int(server.url.rsplit(":")[-1])))
        connection.sendall(request_bytes(body))
    stalled, slow = connections
    beginning = slow.recv(1000)
    with stalled, slow:

        def goes_on() -> bool:
            nonlocal beginning
            beginning += slow.recv(1000)
            return "closed 1 connections" in server.log()

        wait_until(goes_on, "the one that does not read is closed", 20)
        assert read_answer(slow, beginning)[0].status == 200
