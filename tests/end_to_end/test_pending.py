"""Clients that send all of a large body but its end: what they hold is bounded, and others are served as before."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable

import pytest

from builders import ServerProcess, workers_of
from raw_http import connect, exchange, metric, read_answer, request_bytes, wait_until

BODY_BYTES, PENDING_BYTES = 1_000_000, 5_000_000
CLIENTS = 300
# Of memory; all bodies together are 300 MB. Connections have buffers of their own, and the allocator keeps some of what
# was freed: 15 to 65 MB were seen.
MOST_GROWTH = 120_000_000
LIMITS = {"max_body_bytes": BODY_BYTES, "max_pending_bytes": PENDING_BYTES, "max_input_tokens": 1_000_000}
WORDS = json.dumps({"inputs": "anna " * 10_000, "truncate": True}).encode()
STOPPED = b'{"inputs": "' + b"a" * (BODY_BYTES - 13)  # one byte is missing


def resident_bytes(server: ServerProcess) -> int:
    """Return the memory of the worker."""
    (worker,) = workers_of(server)
    with open(f"/proc/{worker}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def send_slowly(connection: socket.socket, body: bytes) -> None:
    """Send a body in small pieces, so that it arrives in several."""
    for at in range(0, len(body), 4_000):
        connection.sendall(body[at : at + 4_000])
        time.sleep(0.001)


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_bodies_that_arrive_are_bounded(serve: Callable[..., ServerProcess], interface: str) -> None:
    """Those that have stopped make room; a slow small body, a large one and short requests are all served."""
    server = serve(server={"interface": interface}, limits=LIMITS)
    slow_small = connect(server)
    request = request_bytes(WORDS)
    slow_small.sendall(request[:30_000])
    before = resident_bytes(server)
    stopped = [connect(server) for _ in range(CLIENTS)]
    for connection in stopped:
        connection.sendall(request_bytes(STOPPED, length=BODY_BYTES))
    name = 'nerve_rejections_total{reason="pending_bytes"}'
    n_refused = CLIENTS - PENDING_BYTES // BODY_BYTES
    wait_until(lambda: metric(server, name) >= n_refused, "most of them are refused", 20)
    assert resident_bytes(server) - before < MOST_GROWTH
    assert exchange(server, request_bytes(b'{"inputs": "anna"}')).status == 200
    time.sleep(0.5)  # what is still on its way has come: those that are left have stopped
    with connect(server) as large:
        send_slowly(large, request_bytes(WORDS + b" " * (BODY_BYTES - len(WORDS))))
        assert read_answer(large)[0].status == 200
    slow_small.sendall(request[30_000:])
    assert read_answer(slow_small)[0].status == 200
    slow_small.close()
    answer, _ = read_answer(stopped[0])  # the one that has stopped for longest
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error_type"] == "Overloaded"
    assert f"limits.max_pending_bytes = {PENDING_BYTES}" in answer.json()["error"]
    for connection in stopped:
        connection.close()
    wait_until(lambda: metric(server, name) <= CLIENTS, "the server goes on")
    assert metric(server, 'nerve_rejections_total{reason="internal_error"}') == 0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(stream: int, length: int) -> bytes:
    """Return the head of a POST, which nothing is known of before (HPACK, literals without an index)."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/predict_tokens",
        b":authority": b"test",
        b"content-length": str(length).encode(),
    }
    block = b"".join(b"\x10%c%s%c%s" % (len(k), k, len(v), v) for k, v in fields.items())
    return frame(1, 4, stream, block)


class Http2:
    """A connection that sends bodies as far as the server's windows let it."""

    def __init__(self, server: ServerProcess) -> None:
        self._socket = connect(server)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        self._buffer = b""
        self._connection_window = self._stream_window = 65_535
        self._windows: dict[int, int] = {}
        self.refused: set[int] = set()  # streams that were answered or reset
        self._read_until(lambda: self._stream_window != 65_535)

    def post(self, stream: int, body: bytes, length: int) -> None:
        """Send a body that states to have another length; gives up when it is refused."""
        self._windows[stream] = self._stream_window
        self._socket.sendall(headers(stream, length))
        while body and stream not in self.refused:
            room = min(self._windows[stream], self._connection_window, 16_384, len(body))
            if room <= 0:
                self._read_until(
                    lambda: min(self._windows[stream], self._connection_window) > 0 or stream in self.refused
                )
                continue
            self._socket.sendall(frame(0, 0, stream, body[:room]))
            self._windows[stream] -= room
            self._connection_window -= room
            body = body[room:]

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._buffer += self._socket.recv(65536)
            while len(self._buffer) >= 9 and len(self._buffer) >= 9 + int.from_bytes(self._buffer[:3], "big"):
                n = int.from_bytes(self._buffer[:3], "big")
                kind, flags, stream = (
                    self._buffer[3],
                    self._buffer[4],
                    int.from_bytes(self._buffer[5:9], "big"),
                )
                self._take(kind, flags, stream, self._buffer[9 : 9 + n])
                self._buffer = self._buffer[9 + n :]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == 4 and not flags:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack(">HI", payload[at : at + 6])
                if key == 4:
                    self._stream_window = value
            self._socket.sendall(frame(4, 1, 0))
        elif kind == 8 and not stream:
            self._connection_window += struct.unpack(">I", payload)[0]
        elif kind == 8:
            self._windows[stream] = self._windows.get(stream, 0) + struct.unpack(">I", payload)[0]
        elif kind in (1, 3):
            self.refused.add(stream)


def test_bodies_over_http2_are_bounded(serve: Callable[..., ServerProcess]) -> None:
    """Streams count as connections do."""
    server = serve(limits=LIMITS)
    before = resident_bytes(server)
    connections = [Http2(server) for _ in range(6)]
    for number in range(CLIENTS):
        connections[number % 6].post(1 + 2 * (number // 6), STOPPED, BODY_BYTES)
    name = 'nerve_rejections_total{reason="pending_bytes"}'
    n_refused = CLIENTS - PENDING_BYTES // BODY_BYTES
    wait_until(lambda: metric(server, name) >= n_refused, "most of them are refused", 20)
    assert resident_bytes(server) - before < MOST_GROWTH
    assert exchange(server, request_bytes(b'{"inputs": "anna"}')).status == 200
    assert exchange(server, request_bytes(WORDS)).status == 200
    for connection in connections:
        connection.close()
