"""Connections whose clients have stopped are closed; those that go on, and those to other servers, are not."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from nerve.server.connections import Progress, close_stopped, listening_ports
from raw_http import is_closed

IDLE, STALL = 0.4, 0.4  # seconds


class Pairs:
    """A listener of this process, and connections to it: the client's end and the server's."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._open: list[socket.socket] = [listener]

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return the client's end and the server's end of a new connection."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        client.connect(self._listener.getsockname())
        accepted, _ = self._listener.accept()
        self._open += [client, accepted]
        return client, accepted

    def close(self) -> None:
        """Close everything."""
        for one in self._open:
            one.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Listen on a port of its own."""
    made = Pairs(socket.create_server(("127.0.0.1", 0)))
    yield made
    made.close()


def close_now() -> int:
    """Look once."""
    pause = threading.Event()
    return close_stopped(listening_ports(pause), IDLE, STALL, pause)


def test_silent_clients_are_closed(pairs: Pairs) -> None:
    """A connection on which nothing came is closed when its time is over, whoever was active is not."""
    silent, silent_end = pairs.connect()
    active, _ = pairs.connect()
    answered, server_end = pairs.connect()
    assert close_now() == 0
    time.sleep(IDLE)
    active.sendall(b"G")
    server_end.sendall(b"HTTP/1.1 200 OK")
    assert close_now() == 1
    silent_end.close()
    assert is_closed(silent)
    assert not is_closed(active)
    assert not is_closed(answered)
    time.sleep(IDLE + 0.05)
    assert close_now() == 2


def test_client_that_does_not_read_is_closed(pairs: Pairs) -> None:
    """An answer that is not taken is thrown away, though its client goes on to send; a reader keeps its own."""
    stalled, stalled_end = pairs.connect()
    reading, reading_end = pairs.connect()
    for end in (stalled_end, reading_end):
        end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                end.send(b"x" * 65536)
    until = time.monotonic() + STALL + 0.2
    while time.monotonic() < until:
        stalled.sendall(b"y")
        assert reading.recv(65536)
        time.sleep(0.02)
    assert close_now() == 1
    with pytest.raises(BrokenPipeError):
        stalled_end.send(b"x")
    assert reading_end.getpeername()


def test_connections_to_other_servers_are_left_alone() -> None:
    """Only what was accepted on a port that this process listens on is the server's."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = other.getsockname()
        with socket.create_connection(address) as ours, other.accept()[0] as theirs:
            other.close()
            time.sleep(IDLE + 0.05)
            assert close_now() == 0
            assert ours.getpeername()
            assert theirs.getpeername()


def test_descriptors_do_not_leak(pairs: Pairs) -> None:
    """A look at all sockets leaves none open."""
    pairs.connect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        close_now()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("progress", "has_stopped"),
    [
        (Progress(0.0, 0.0, 0), False),
        (Progress(100.0, 0.0, 0), False),  # a body that arrives
        (Progress(0.0, 100.0, 0), False),  # an answer that is read
        (Progress(29.0, 100.0, 5), False),
        (Progress(31.0, 1.0, 5), True),  # an answer that is not read
        (Progress(59.0, 61.0, 0), False),
        (Progress(61.0, 61.0, 0), True),
    ],
)
def test_when_a_client_has_stopped(progress: Progress, has_stopped: bool) -> None:
    """Idle for a minute in both directions, or stalled with something unsent for half of one."""
    assert (progress.is_idle(60.0) or progress.is_stalled(30.0)) is has_stopped
