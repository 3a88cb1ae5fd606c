"""Bounds the bytes that requests hold in a worker: bodies that arrive, and bodies and texts that wait for their answer.

Bytes are counted when they are there, not when a client states how many it will send: to state 8 MB costs a client
nothing, and would keep others out. So a body may turn out to have no room when a part of it has come. Then another one
makes room for it, if there is one that is likely to have stopped: of the large ones that still arrive, the one that
has not grown for the longest time. It is refused with 429, or the new one where there is no other. Large bodies never
drive small ones out; large are those that state a large length, or none. A whole body is not refused any more: its
request is under way, and has a deadline.

Bodies of a few kilobytes are not counted: the request itself takes as much, and connections are bounded.

Threads: any may call anything. `refuse` is called without the lock.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from nerve.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

# Bytes of a body, or of the texts in it, that are not counted.
UNCOUNTED_BYTES = 4_096
# Bytes above which a body is large.
_LARGE_BYTES = 65_536
# When there is room again depends on clients; whoever was refused asks again soon.
_RETRY_AFTER_SECONDS = 1.0


class PendingBytes:
    """The bytes of one worker; `limit`: most of them."""

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.total = 0
        self._lock = threading.Lock()
        # Shares of bodies that arrive; the one that has not grown for the longest time is the first.
        self._small: dict[Share, None] = {}
        self._large: dict[Share, None] = {}

    def open(self, refuse: Callable[[Overloaded], object], stated_bytes: int | None) -> Share:
        """Return the share of a body that arrives, and what it says it will have.

        refuse: called when there is no room for it any more.
        """
        return Share(self, refuse, is_large=stated_bytes is None or stated_bytes > _LARGE_BYTES)

    def take(self, n_bytes: int) -> Share:
        """Return a share of so many bytes, which is never refused afterwards. Raises `Overloaded`."""
        share = Share(self, _never, is_large=n_bytes > _LARGE_BYTES)
        if not self.set(share, n_bytes, arrives=False):
            raise self.refusal()
        return share

    def set(self, share: Share, n_bytes: int, *, arrives: bool) -> bool:
        """Set a share to so many bytes; False when it has none any more: it had to make room, and was refused.

        arrives: more will come, so that it can still be refused.
        """
        dropped = []
        with self._lock:
            if share.is_lost:
                return False
            self._remove(share)
            self.total += n_bytes
            share.n_bytes = n_bytes
            arriving = self._large if share.is_large else self._small
            arriving[share] = None
            while self.total > self.limit and not share.is_lost:
                first = next(iter(self._large or self._small))  # at the latest this one
                self._remove(first)
                first.is_lost = True
                dropped.append(first)
            is_lost = share.is_lost
            if not arrives:
                arriving.pop(share, None)
        for lost in dropped:
            lost.refuse(self.refusal())
        return not is_lost

    def remove(self, share: Share) -> None:
        """Take a share out, for good."""
        with self._lock:
            self._remove(share)
            share.is_lost = True

    def refusal(self) -> Overloaded:
        """Return the error of a request for which there is no room."""
        return Overloaded(
            f"the bodies that arrive and wait have more than limits.max_pending_bytes = {self.limit} together; "
            "send the request again later",
            _RETRY_AFTER_SECONDS,
            reason="pending_bytes",
        )

    def _remove(self, share: Share) -> None:
        self.total -= share.n_bytes
        share.n_bytes = 0
        self._small.pop(share, None)
        self._large.pop(share, None)


class Share:
    """What one request holds."""

    __slots__ = ("_pending", "is_large", "is_lost", "n_bytes", "refuse")

    def __init__(
        self, pending: PendingBytes, refuse: Callable[[Overloaded], object], *, is_large: bool
    ) -> None:
        self._pending = pending
        self.refuse = refuse
        self.is_large = is_large
        self.n_bytes = 0
        self.is_lost = False  # it was refused, or is closed

    def grow(self, n_bytes: int) -> bool:
        """Count that a body has so many bytes by now; False when it was refused, now or since the last time."""
        return self._pending.set(self, n_bytes, arrives=True)

    def keep(self, n_bytes: int) -> bool:
        """Count that a body is whole; False when it was refused."""
        return self._pending.set(self, n_bytes, arrives=False)

    def close(self) -> None:
        """Give the bytes back; doing so again does nothing."""
        self._pending.remove(self)
        self.refuse = _never  # it holds what holds this


def _never(error: Overloaded) -> None:
    """Stand for the refusal of what cannot be refused."""


UNBOUNDED = PendingBytes()
