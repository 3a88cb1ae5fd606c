"""An answer after which the connection is closed says so; where it says nothing, the connection can go on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from builders import ServerProcess
from raw_http import (
    GOOD_BODY,
    RawAnswer,
    chunked_request,
    connect,
    is_closed,
    read_answer,
    request_bytes,
    wait_until,
)

UNFINISHED = {
    "too large, nothing sent": (request_bytes(b"", length=2_000_001), 413),
    "too large, a part sent": (request_bytes(b"a" * 1000, length=2_000_001), 413),
    "too large in chunks": (chunked_request([b"a" * 65536] * 31, finish=False), 413),
    "too large in chunks, all sent": (chunked_request([b"a" * 65536] * 40), 413),
    "another media type": (request_bytes(b"a", "content-type: text/plain", length=10), 415),
    "no such route": (request_bytes(b"a", path="/none", length=10), 404),
    "another method": (request_bytes(b"a", length=10).replace(b"POST", b"PUT", 1), 405),
    "a GET with a body": (request_bytes(b"a", path="/health", length=10).replace(b"POST", b"GET", 1), 200),
    "late": (request_bytes(b"{", "request-timeout-ms: 200", length=100), 504),
    "late at once": (request_bytes(b"{", "request-deadline-ms: 1", length=100), 504),
    "a length that is none": (request_bytes(GOOD_BODY, length=10).replace(b": 10\r", b": 10, 10\r"), 400),
}
WHOLE = {
    "too large": (request_bytes(b"a" * 3_000_000), 413),
    "another media type": (request_bytes(GOOD_BODY, "content-type: text/plain"), 415),
    "no such route": (request_bytes(GOOD_BODY, path="/none"), 404),
    "another method": (request_bytes(GOOD_BODY).replace(b"POST", b"PUT", 1), 405),
    "a GET with a body": (request_bytes(GOOD_BODY, path="/health").replace(b"POST", b"GET", 1), 200),
    "a wrong field": (request_bytes(b'{"inputs": 1}'), 422),
    "no body": (b"POST /none HTTP/1.1\r\nhost: a\r\n\r\n", 404),
    "good": (request_bytes(GOOD_BODY), 200),
}


def send_slowly(connection: socket.socket, data: bytes) -> None:
    """Send the head first, and the rest a little later, as over a real network."""
    head, middle, body = data.partition(b"\r\n\r\n")
    connection.sendall(head + middle)
    time.sleep(0.005)
    connection.sendall(body)


@pytest.mark.parametrize("name", UNFINISHED)
def test_answer_before_the_end_of_a_body_says_that_the_connection_closes(
    server: ServerProcess, name: str
) -> None:
    """It comes at once, and the connection is closed within some seconds."""
    data, status = UNFINISHED[name]
    with connect(server) as connection:
        started = time.monotonic()
        connection.sendall(data)
        answer, _ = read_answer(connection)
        assert time.monotonic() - started < 5
        assert answer.status == status
        assert answer.headers.get("connection") == "close"
        wait_until(lambda: is_closed(connection), "the connection is closed", 30)


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_answer_after_the_end_of_a_body_keeps_the_connection(
    server: ServerProcess, name: str, slowly: bool
) -> None:
    """Though nobody wanted the body: the next request on the connection is answered."""
    data, status = WHOLE[name]
    for _ in range(10):
        with connect(server) as connection:
            (send_slowly if slowly else socket.socket.sendall)(connection, data)
            answer, rest = read_answer(connection)
            assert answer.status == status
            if "connection" in answer.headers:
                continue  # the machine was busy: the body did not come within a moment
            connection.sendall(request_bytes(GOOD_BODY))
            assert read_answer(connection, rest)[0].status == 200
            return
    pytest.fail("the connection was closed each time")


def test_refusal_does_not_ask_for_the_body(server: ServerProcess) -> None:
    """A client that waits for `100 Continue` gets the refusal instead, and need not send a byte."""
    with connect(server) as connection:
        connection.sendall(request_bytes(b"", "expect: 100-continue", length=2_000_001))
        answer, _ = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
    with connect(server) as connection:
        connection.sendall(request_bytes(b"", "expect: 100-continue", length=len(GOOD_BODY)))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(GOOD_BODY)
        assert read_answer(connection)[0].status == 200


def test_client_that_goes_on_to_send_reads_the_refusal(server: ServerProcess) -> None:
    """Slower than the answer comes: no reset on the way."""
    with connect(server) as connection:
        connection.sendall(request_bytes(b"", length=10_000_000))
        for _ in range(50):
            connection.sendall(b"a" * 200_000)
            time.sleep(0.01)
        answer, _ = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_key_that_is_missing(guarded: ServerProcess) -> None:
    """The same for 401, which is answered before the body is looked at."""

    def ask(data: bytes) -> RawAnswer:
        with connect(guarded) as connection:
            connection.sendall(data)
            return read_answer(connection)[0]

    whole, part = ask(request_bytes(GOOD_BODY)), ask(request_bytes(b"{", length=100))
    assert (whole.status, whole.headers.get("connection")) == (401, None)
    assert (part.status, part.headers.get("connection")) == (401, "close")


def test_asgi_says_so_too(serve: Callable[..., ServerProcess]) -> None:
    """Wherever a body was left unread, since its server closes the connection then."""
    server = serve(server={"interface": "asgi"}, limits={"max_body_bytes": 2_000_000})
    for data, status in UNFINISHED.values():
        with connect(server) as connection:
            connection.sendall(data)
            answer, _ = read_answer(connection)
            assert (answer.status, answer.headers.get("connection")) == (status, "close")
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(request_bytes(GOOD_BODY))
            answer, _ = read_answer(connection)
            assert (answer.status, answer.headers.get("connection")) == (200, None)
