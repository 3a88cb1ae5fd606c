"""Closes connections whose client has stopped: one that sends nothing, or does not read its answer.

Granian ends an HTTP/1.1 connection on which no request comes for `server.keep_alive_ms`, and `exchange` ends a body at
the request's deadline. Granian does not tell a client that is idle between requests from one that takes long for the
head of one, and nothing there ends a connection that has sent less than a request line, an HTTP/2 connection without a
request, or one whose client leaves the answer unread: each holds a descriptor, and one of the worker's connections,
for as long as it likes. The kernel knows of each connection when its last byte came and went.

Linux and TCP only; behind a Unix socket stands a proxy on the same machine, which does this itself.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import stat
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.observability.defects import survive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nerve.config import ServerConfig

log = logging.getLogger(__name__)

_SCAN_SECONDS = 5.0
# Sockets looked at in one go, about 0.3 ms, before other threads get the interpreter.
_SLICE = 20
_SLICE_PAUSE_SECONDS = 0.002
# linux/tcp.h, struct tcp_info: offsets of tcpi_last_data_sent, tcpi_last_data_recv (ms ago), tcpi_notsent_bytes,
# tcpi_data_segs_in, tcpi_data_segs_out.
_FIELDS = (44, 52, 144, 152, 156)
_INFO_BYTES = 160
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: what was not sent is thrown away


@dataclass(frozen=True, slots=True)
class Progress:
    """What the kernel tells of one connection. It counts in steps of some milliseconds.

    sent_seconds, received_seconds: since data last went out and came in; since it was opened, at first.
    n_unsent: bytes of answers that the client has no room for.
    is_first: something came, and nothing has ever been sent.
    """

    sent_seconds: float
    received_seconds: float
    n_unsent: int
    is_first: bool = False

    def is_stalled(self, seconds: float) -> bool:
        """Tell whether an answer was not taken for so long."""
        return self.n_unsent > 0 and self.sent_seconds >= seconds

    def is_idle(self, seconds: float) -> bool:
        """Tell whether nothing came or went for so long."""
        return min(self.sent_seconds, self.received_seconds) >= seconds


def keep_alive_seconds(server: ServerConfig) -> float:
    """Return how long a connection may be idle: Granian has one limit for that and for the head of a request."""
    return max(server.keep_alive_ms, server.client_timeout_ms) / 1000


class Heads:
    """Finds connections whose client takes too long for the head of a request.

    That is one which has sent something since its last answer, and on which no request is under way. What came within
    the same few milliseconds as the answer before it cannot be told from the request: then Granian's limit, that of
    idle connections, ends it.

    seconds: for a head.
    busy_ports: gives the ports of the clients whose requests are under way.
    multiplexed_ports: of the clients that speak HTTP/2; what they send need not be a request. Those that have left are
        removed.
    """

    def __init__(
        self, seconds: float, busy_ports: Callable[[], set[int]], multiplexed_ports: set[int]
    ) -> None:
        self._seconds = seconds
        self._find_busy_ports = busy_ports
        self._busy_ports: set[int] | None = None  # found when they are needed, once a look
        self._multiplexed_ports = multiplexed_ports
        self._begun: dict[int, float] = {}  # inode of the socket -> since when a head has been coming
        self._seen: set[int] = set()
        self._known: set[int] = set()
        self._ports: set[int] = set()

    def begin_look(self) -> None:
        """Begin to look at all connections."""
        self._known = set(self._multiplexed_ports)
        self._seen = set()
        self._ports = set()
        self._busy_ports = None

    def is_late(self, inode: int, port: int, progress: Progress, now: float) -> bool:
        """Look at one connection, which comes from `port` of the client."""
        self._ports.add(port)
        is_head = progress.is_first or progress.received_seconds < progress.sent_seconds
        if not is_head or port in self._multiplexed_ports:
            return False
        begun = self._begun.get(inode, -math.inf)
        if begun <= now - progress.sent_seconds:  # before the last answer
            begun = self._begun[inode] = now - progress.received_seconds
        self._seen.add(inode)
        return now - begun >= self._seconds and not self.is_busy(port)

    def is_busy(self, port: int) -> bool:
        """Tell whether a request of the client at this port is under way."""
        if self._busy_ports is None:
            self._busy_ports = self._find_busy_ports()
        return port in self._busy_ports

    def end_look(self) -> None:
        """Forget the connections that were not there any more."""
        self._begun = {inode: begun for inode, begun in self._begun.items() if inode in self._seen}
        self._multiplexed_ports.difference_update(self._known - self._ports)


def watch_connections(idle_seconds: float, stall_seconds: float, heads: Heads) -> None:
    """Start a thread that closes this process's server connections that have stopped; for ever.

    idle_seconds: for connections on which no request is under way; those have deadlines.
    """
    if sys.platform != "linux":
        return

    def watch() -> None:
        pause = threading.Event()
        ports: set[int] = set()

        def look() -> None:
            ports.update(() if ports else listening_ports(pause))
            n_closed = close_stopped(ports, idle_seconds, stall_seconds, pause, heads)
            if n_closed:
                log.info("closed %d connections whose clients had stopped", n_closed)

        while not pause.wait(min(_SCAN_SECONDS, stall_seconds / 4)):
            survive(look, "in the watch over connections")

    threading.Thread(target=watch, name="nerve-connections", daemon=True).start()


def listening_ports(pause: threading.Event) -> set[int]:
    """Return the TCP ports that this process listens on."""
    return {port for one in _sockets(pause) if (port := _listening_port(one))}


def close_stopped(
    ports: set[int],
    idle_seconds: float,
    stall_seconds: float,
    pause: threading.Event,
    heads: Heads | None = None,
) -> int:
    """Close the connections to these ports of this process that have stopped; returns how many."""
    n_closed = 0
    if heads is not None:
        heads.begin_look()
    for one in _sockets(pause):
        with contextlib.suppress(OSError):  # it may end at any moment
            if one.getsockname()[1] not in ports or _listening_port(one):
                continue
            progress = _progress_of(one)
            if progress.is_stalled(stall_seconds) or _has_stopped(one, progress, idle_seconds, heads):
                if progress.n_unsent:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                one.shutdown(socket.SHUT_RDWR)
                n_closed += 1
    if heads is not None:
        heads.end_look()
    return n_closed


def _has_stopped(one: socket.socket, progress: Progress, idle_seconds: float, heads: Heads | None) -> bool:
    if heads is None:
        return progress.is_idle(idle_seconds)
    inode, port = os.fstat(one.fileno()).st_ino, one.getpeername()[1]
    is_late = heads.is_late(inode, port, progress, time.monotonic())
    return is_late or (progress.is_idle(idle_seconds) and not heads.is_busy(port))


def _sockets(pause: threading.Event) -> Iterator[socket.socket]:
    """Yield this process's TCP sockets, each as a duplicate, so that its number cannot come to mean another."""
    for position, name in enumerate(os.listdir("/proc/self/fd")):
        if position % _SLICE == _SLICE - 1:
            pause.wait(_SLICE_PAUSE_SECONDS)
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            duplicate = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with duplicate:
            if duplicate.family in (socket.AF_INET, socket.AF_INET6) and duplicate.type == socket.SOCK_STREAM:
                yield duplicate


def _listening_port(one: socket.socket) -> int:
    """Return the port that a socket listens on; 0 for a connection."""
    with contextlib.suppress(OSError):
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            port: int = one.getsockname()[1]
            return port
    return 0


def _progress_of(one: socket.socket) -> Progress:
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES).ljust(_INFO_BYTES, b"\0")
    sent, received, unsent, n_in, n_out = (struct.unpack_from("I", info, at)[0] for at in _FIELDS)
    return Progress(sent / 1000, received / 1000, unsent, is_first=n_in > 0 and n_out == 0)
