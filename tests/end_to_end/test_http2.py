"""HTTP/2 has the limits of HTTP/1.1: spoken here by bare frames, for the clients that a library would not be."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path

import pytest

from builders import ServerProcess, workers_of
from raw_http import GOOD_BODY, connect, exchange, request_bytes

DATA, HEADERS, RESET, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS = 1, 4
MOST_STREAMS = 3  # the setting's number
OK = 0x88  # `:status: 200` in HPACK's table
FRAME_BYTES = 16_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def number(value: int, first: int = 0) -> bytes:
    """Return a number of HPACK with a prefix of seven bits."""
    if value < 127:
        return bytes([first | value])
    out, value = [first | 127], value - 127
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(name: bytes, value: bytes) -> bytes:
    """Return a header that no table keeps."""
    return b"\x10" + number(len(name)) + name + number(len(value)) + value


def head(method: bytes, path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """Return the block of a request's headers."""
    first = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"a"))
    return b"".join(field(*pair) for pair in (*first, *more))


def headers(stream: int, block: bytes, *, flags: int = END_STREAM, ends: bool = True) -> bytes:
    """Return the frames of a block."""
    parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
    last = len(parts) - 1
    return b"".join(
        frame(
            CONTINUATION if index else HEADERS,
            (0 if index else flags) | (END_HEADERS if index == last and ends else 0),
            stream,
            part,
        )
        for index, part in enumerate(parts)
    )


class Connection:
    """One HTTP/2 connection; `settings` are the server's."""

    def __init__(self, server: ServerProcess) -> None:
        self.socket = connect(server)
        self._rest = b""
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        kind, _, _, payload = self.next()
        assert kind == SETTINGS
        pairs = (struct.unpack_from(">HI", payload, at) for at in range(0, len(payload), 6))
        self.settings = dict(pairs)
        self.socket.sendall(frame(SETTINGS, 1, 0))

    def send(self, data: bytes) -> None:
        """Send; the server may hang up at once."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def next(self) -> tuple[int, int, int, bytes]:
        """Return the next frame; GOAWAY when the connection ends."""
        while len(self._rest) < 9 or len(self._rest) < 9 + int.from_bytes(self._rest[:3], "big"):
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return GOAWAY, 0, 0, b""
            self._rest += data
        end = 9 + int.from_bytes(self._rest[:3], "big")
        found, self._rest = self._rest[:end], self._rest[end:]
        return found[3], found[4], int.from_bytes(found[5:9], "big"), found[9:]

    def answer(self) -> tuple[int, bytes]:
        """Return the first frame of an answer, a reset or the end, and what it holds."""
        while True:
            kind, _, _, payload = self.next()
            if kind in (HEADERS, RESET, GOAWAY):
                return kind, payload

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def memory(server: ServerProcess) -> int:
    """Return the resident memory of the workers, in MB."""
    lines = [
        line for pid in workers_of(server) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


@pytest.mark.parametrize(
    ("n_bytes", "is_answered"),
    [(1_000, True), (30_000, True), (60_000, True), (70_000, False), (1_000_000, False), (10_000_000, False)],
)
def test_heads_are_limited(server: ServerProcess, n_bytes: int, is_answered: bool) -> None:
    """64 KB, as over HTTP/1.1: the stream, or the connection, is refused above."""
    connection = Connection(server)
    connection.send(headers(1, head(b"GET", b"/health/live", (b"x-filler", b"a" * n_bytes))))
    kind, payload = connection.answer()
    assert (kind == HEADERS and payload[0] == OK) is is_answered
    connection.close()


def test_heads_that_never_end_take_no_memory(server: ServerProcess) -> None:
    """Nine megabytes of each of twenty: what is above the limit is not kept."""
    before = memory(server)
    block = head(b"GET", b"/health/live", (b"x-filler", b"a" * 9_000_000))
    connections = [Connection(server) for _ in range(20)]
    for connection in connections:
        connection.send(headers(1, block, ends=False))
    time.sleep(0.5)
    assert memory(server) - before < 50
    assert exchange(server, request_bytes(GOOD_BODY)).status == 200
    for connection in connections:
        connection.close()


def test_streams_of_a_connection_are_bounded(server: ServerProcess) -> None:
    """One more than a hundred half-sent requests is refused; those before it are answered in the end."""
    connection = Connection(server)
    assert connection.settings[MOST_STREAMS] == 100
    length = (b"content-length", str(len(GOOD_BODY)).encode())
    block = head(b"POST", b"/predict_tokens", (b"content-type", b"application/json"), length)
    for index in range(100):
        connection.send(headers(1 + 2 * index, block, flags=0) + frame(DATA, 0, 1 + 2 * index, GOOD_BODY[:5]))
    connection.send(headers(201, block, flags=0))
    kind, _, stream, _ = next(
        found for found in iter(connection.next, None) if found[0] in (HEADERS, RESET, GOAWAY)
    )
    assert (kind, stream) == (RESET, 201)
    for index in range(100):
        connection.send(frame(DATA, END_STREAM, 1 + 2 * index, GOOD_BODY[5:]))
    statuses = [connection.answer() for _ in range(100)]
    assert [(kind, payload[:1]) for kind, payload in statuses] == [(HEADERS, bytes([OK]))] * 100
    connection.close()


def test_refused_body_ends_its_stream_only(server: ServerProcess) -> None:
    """413 over HTTP/2: no `connection: close`, and the next stream of the connection is answered."""
    connection = Connection(server)
    block = head(b"POST", b"/predict_tokens", (b"content-length", b"3000000"))
    connection.send(headers(1, block, flags=0))
    kind, payload = connection.answer()
    assert kind == HEADERS
    assert payload[0] != OK
    assert b"close" not in payload
    connection.send(headers(3, head(b"GET", b"/health/live")))
    while (found := connection.next())[2] != 3 or found[0] != HEADERS:
        assert found[0] != GOAWAY
    assert found[3][0] == OK
    connection.close()


def test_content_length_that_is_none(server: ServerProcess) -> None:
    """Refused by a 400 or by the stream's reset, never a 500."""
    for length in (b"abc", b"-1", b"18, 19", b"+18"):
        connection = Connection(server)
        block = head(b"POST", b"/predict_tokens", (b"content-length", length))
        connection.send(headers(1, block, flags=0) + frame(DATA, END_STREAM, 1, GOOD_BODY))
        kind, payload = connection.answer()
        assert kind in (RESET, GOAWAY) or payload[0] == 0x8C  # `:status: 400`
        connection.close()


def test_helpers_tell_a_connection_that_ended(server: ServerProcess) -> None:
    """What is no HTTP/2 after the preface ends the connection."""
    connection = Connection(server)
    connection.send(frame(DATA, 0, 0, b"x"))
    assert connection.answer()[0] == GOAWAY
    assert isinstance(connection.socket, socket.socket)
    connection.close()
