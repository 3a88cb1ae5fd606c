"""Connections that are idle between requests live longer than those on which a head does not come to its end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import ServerProcess, write_troubled_model
from raw_http import GOOD_BODY, connect, is_closed, read_answer, request_bytes, wait_until

HEAD_SECONDS, IDLE_SECONDS = 1.0, 6.0
SERVER = {"client_timeout_ms": 1000, "keep_alive_ms": 6000}
BEGUN = b"POST /predict_tokens HTTP/1.1\r\nhost: a\r\n"


def ask(connection: socket.socket) -> None:
    """Send a request and read its answer."""
    connection.settimeout(10)
    connection.sendall(request_bytes(GOOD_BODY))
    assert read_answer(connection)[0].status == 200


def seconds_until_closed(connection: socket.socket) -> float:
    """Return how long a connection lives from now on."""
    started = time.monotonic()
    wait_until(lambda: is_closed(connection), "it is closed", 2 * IDLE_SECONDS)
    return time.monotonic() - started


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_idle_connections_outlive_slow_heads(serve: Callable[..., ServerProcess], interface: str) -> None:
    """Idle ones live for `keep_alive_ms`; a head that stops, the first or a later one, for `client_timeout_ms`."""
    server = serve(server={**SERVER, "interface": interface})
    idle, later = connect(server), connect(server)
    ask(idle)
    ask(later)
    first, one_byte = connect(server), connect(server)
    first.sendall(BEGUN)
    one_byte.sendall(b"P")
    time.sleep(0.05)  # the kernel counts in steps of some milliseconds
    later.sendall(BEGUN)
    for connection in (first, later, one_byte):
        assert seconds_until_closed(connection) < HEAD_SECONDS + 1.5
    assert not is_closed(idle)
    ask(idle)
    assert IDLE_SECONDS - 0.5 < seconds_until_closed(idle) < IDLE_SECONDS + 3
    for connection in (idle, first, later, one_byte):
        connection.close()


def test_head_that_comes_byte_by_byte_is_ended(serve: Callable[..., ServerProcess]) -> None:
    """Something always came just now: what counts is since when."""
    server = serve(server=SERVER)
    with connect(server) as connection:
        ask(connection)
        time.sleep(0.05)
        started, ended = time.monotonic(), threading.Event()

        def drip() -> None:
            try:
                for byte in BEGUN + b"x-long: " + b"a" * 1000:
                    connection.sendall(bytes([byte]))
                    if ended.wait(0.05):
                        return
            except OSError:
                return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            data = connection.recv(1)
        except ConnectionResetError:
            data = b""
        assert data == b""
        assert HEAD_SECONDS - 0.2 < time.monotonic() - started < HEAD_SECONDS + 2
        ended.set()
        thread.join()


def test_requests_that_take_long_are_not_taken_for_heads(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """A body that comes slowly, a model that is slow, a queue: all longer than a head may take."""
    folder = write_troubled_model(tmp_path / "slow")
    server = serve(
        folder=folder, server=SERVER, cpu={"threads": 1}, batching={"max_batch_size": 1, "max_queue_ms": None}
    )
    slow = json.dumps({"inputs": ["x x x"] * 15}).encode()
    waiting, queued, sending = (connect(server) for _ in range(3))
    started = time.monotonic()
    patient = "request-timeout-ms: 110000"
    waiting.sendall(request_bytes(slow, patient))
    queued.sendall(request_bytes(slow, patient))
    sending.sendall(request_bytes(b"{", patient, length=len(GOOD_BODY)))
    time.sleep(3.5 * HEAD_SECONDS)
    sending.sendall(GOOD_BODY[1:])
    for connection in (waiting, queued, sending):
        connection.settimeout(110)
        assert read_answer(connection)[0].status == 200
        connection.close()
    assert time.monotonic() - started > 3 * HEAD_SECONDS


def test_idle_http2_connection_is_not_taken_for_a_head(serve: Callable[..., ServerProcess]) -> None:
    """What an HTTP/2 client sends between requests, such as the size of its window, gets no answer."""
    server = serve(server=SERVER)
    head = b"\x82\x86\x01\x01a\x04\x0c/health/live"  # GET, http, authority a, path
    with connect(server) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0" + bytes(4))
        connection.sendall(len(head).to_bytes(3, "big") + b"\1\5\0\0\0\1" + head)
        time.sleep(0.3)
        connection.sendall(bytes(3) + b"\4\1" + bytes(4))  # the server's settings are taken
        window = b"\0\0\4\x08\0\0\0\0\0\0\0\1\0"
        connection.sendall(window)
        time.sleep(HEAD_SECONDS + 2)
        assert not is_closed(connection)


def test_never_less_than_the_time_for_a_head(serve: Callable[..., ServerProcess]) -> None:
    """Granian has one limit for both."""
    server = serve(server={"client_timeout_ms": 3000, "keep_alive_ms": 500})
    with connect(server) as connection:
        ask(connection)
        time.sleep(1.5)
        ask(connection)
