"""A one-way stream of bytes in memory that two processes map: one of them writes, the other reads.

Bytes are seen once they are published, in order, so a writer that dies in the middle of a write has written nothing.
A stream has no largest message: what does not fit waits with the writer until the reader has made room.
"""

from __future__ import annotations

import os
import platform

# Both counters have a cache line of their own.
_HEAD_BYTES = 128
_WRITTEN, _READ = 0, 8  # in units of 8 bytes
# x86 shows the writes of one core to all others in their order (Intel SDM 3A, 8.2.2).
_IS_ORDERED = platform.machine().lower() in ("x86_64", "amd64", "i686")


class Fence:
    """Keeps what was written before it from being seen by others after what is written later."""

    def __init__(self) -> None:
        self._event = -1 if _IS_ORDERED else os.eventfd(0)

    def __call__(self) -> None:
        """Order the writes. Elsewhere than on x86: two locks of the kernel, one after the other, are a full barrier."""
        if self._event >= 0:
            os.eventfd_write(self._event, 1)
            os.eventfd_read(self._event)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._event >= 0:
            os.close(self._event)


class Ring:
    """One end of a stream; whoever has it either writes or reads, from one thread at a time.

    memory: the same in both processes, zeros at first.
    """

    def __init__(self, memory: memoryview) -> None:
        self._counts = memory[:_HEAD_BYTES].cast("Q")
        self._data = memory[_HEAD_BYTES:]
        self._size = len(self._data)
        self._fence = Fence()

    def write(self, content: bytes | memoryview) -> int:
        """Write what there is room for, and return how many bytes that was."""
        written = self._counts[_WRITTEN]
        n_bytes = min(len(content), self._size - (written - self._counts[_READ]))
        if n_bytes:
            start = written % self._size
            first = min(n_bytes, self._size - start)
            self._data[start : start + first] = content[:first]
            self._data[: n_bytes - first] = content[first:n_bytes]
            self._fence()
            self._counts[_WRITTEN] = written + n_bytes
        return n_bytes

    def read(self) -> bytes:
        """Take all that is there."""
        read, written = self._counts[_READ], self._counts[_WRITTEN]
        if read == written:
            return b""
        start, end = read % self._size, written % self._size
        self._fence()
        parts = [self._data[start:end]] if start < end else [self._data[start:], self._data[:end]]
        content = b"".join(parts)
        self._fence()
        self._counts[_READ] = written
        return content

    def close(self) -> None:
        """Let go of the memory."""
        self._counts.release()
        self._data.release()
        self._fence.close()
