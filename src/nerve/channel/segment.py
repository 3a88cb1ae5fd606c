"""The memory between one front and the engine, and the events by which they wake each other.

The engine makes it anew for each front that connects, and hands the descriptors over the connection: nobody finds what
a process that died has left. It has no name in any file system, and is open to nobody else.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
from dataclasses import dataclass

from nerve.channel.ring import Ring

# Of the ring for jobs and that for scores; larger messages pass through in parts.
_JOB_BYTES = 1 << 20
_SCORE_BYTES = 4 << 20
_STATUS_BYTES = mmap.PAGESIZE
# Longest greeting, in which the engine says what its model is.
_MOST_GREETING = 1 << 16
_N_DESCRIPTORS = 4


@dataclass(slots=True)
class Segment:
    """What one front and the engine share.

    jobs, scores: rings towards the engine, and towards the front. status: numbers that the engine tells all fronts.
    to_engine, to_front: events (eventfd) that wake them; `to_engine` is the same for all fronts.
    """

    jobs: Ring
    scores: Ring
    status: memoryview[float]
    to_engine: int
    to_front: int
    descriptors: tuple[int, ...]

    def close(self) -> None:
        """Let go of the memory and the descriptors."""
        self.jobs.close()
        self.scores.close()
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def make_memory(n_bytes: int) -> int:
    """Return a descriptor of memory without a name, filled with zeros."""
    descriptor = os.memfd_create("nerve-channel")
    os.ftruncate(descriptor, n_bytes)
    return descriptor


def make_status() -> int:
    """Return a descriptor of the memory for `Segment.status`."""
    return make_memory(_STATUS_BYTES)


def map_status(descriptor: int) -> memoryview[float]:
    """Return the numbers, float64, in the memory of `make_status`."""
    return memoryview(mmap.mmap(descriptor, _STATUS_BYTES)).cast("d")


def offer_segment(connection: socket.socket, greeting: bytes, status: int, to_engine: int) -> Segment:
    """Make the memory for the front at the other end, and hand it over. Raises `OSError`."""
    memory = make_memory(_JOB_BYTES + _SCORE_BYTES)
    to_front = os.eventfd(0)
    try:
        socket.send_fds(
            connection, [len(greeting).to_bytes(4, "little")], [memory, status, to_engine, to_front]
        )
        connection.sendall(greeting)
        return _open(memory, status, to_engine, to_front, own=(memory, to_front))
    except BaseException:
        os.close(memory)
        os.close(to_front)
        raise


def accept_segment(connection: socket.socket) -> tuple[bytes, Segment]:
    """Wait until the engine offers memory; return its greeting, too. Raises `OSError` when it ends before."""
    # recv_fds of the library asks for no flags: descriptors would go on to processes that this one starts.
    space = socket.CMSG_LEN(_N_DESCRIPTORS * 4)
    head, ancillary, _, _ = connection.recvmsg(4, space, socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    n_bytes = int.from_bytes(head, "little")
    greeting = b""
    while len(head) == 4 and len(greeting) < n_bytes <= _MOST_GREETING:
        part = connection.recv(n_bytes - len(greeting))
        if not part:
            break
        greeting += part
    if len(found) != _N_DESCRIPTORS or len(greeting) != n_bytes or not n_bytes:
        for descriptor in found:
            os.close(descriptor)
        raise ConnectionResetError("the engine process has ended")
    memory, status, to_engine, to_front = found
    return greeting, _open(memory, status, to_engine, to_front, own=tuple(found))


def _open(memory: int, status: int, to_engine: int, to_front: int, own: tuple[int, ...]) -> Segment:
    view = memoryview(mmap.mmap(memory, _JOB_BYTES + _SCORE_BYTES))
    jobs, scores = Ring(view[:_JOB_BYTES]), Ring(view[_JOB_BYTES:])
    return Segment(jobs, scores, map_status(status), to_engine, to_front, own)
